package report

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyledger/keyledger/db"
)

// standby is a copy of the database that reports are read from as long as it is not far behind.
// It is safe for concurrent use.
type standby struct {
	primary, copy *db.DB
	maxLag        time.Duration

	mu      sync.Mutex
	samples []sample  // of the primary, the oldest first
	upTo    time.Time // all that was committed by then is there; zero: nobody knows
	failed  bool      // it could not be measured the last time, and that was told
}

// sample is how far the primary had come at an instant.
type sample struct {
	at       time.Time
	position int64 // in its log, in bytes
}

// maxSamples bounds what is remembered of the primary: a standby further behind is of no use.
const maxSamples = 1000

// NewWithStandby is New that reads usage from a standby of the database instead, as long as that
// is not further behind than maxLag. Measure must be called again and again.
func NewWithStandby(primary, from *db.DB, maxLag time.Duration, timezone string) *Reports {
	return &Reports{db: primary, timezone: timezone, standby: &standby{primary: primary, copy: from, maxLag: maxLag}}
}

// Measure finds out how far the standby is behind. What it cannot find out it does not trust. Of
// failures one after another it tells the first.
func (r *Reports) Measure(ctx context.Context) error {
	s := r.standby
	if s == nil {
		return nil
	}
	err := s.measure(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.failed
	if s.failed = err != nil; told {
		return nil
	}
	return err
}

func (s *standby) measure(ctx context.Context) error {
	now := time.Now()
	there, err := s.primary.WalPosition(ctx)
	if err != nil {
		return fmt.Errorf("asking how far the primary has come: %w", err)
	}
	here, err := s.copy.WalPosition(ctx)
	if err != nil {
		return fmt.Errorf("asking how far the standby has come: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !here.InRecovery && !here.StartedAt.Equal(there.StartedAt) {
		s.samples, s.upTo = nil, time.Time{}
		return fmt.Errorf("the server of KEYLEDGER_REPORTS_URL is no standby any more: reports are read from the primary")
	}
	s.samples = append(s.samples, sample{now, there.Position})
	reached := 0
	for reached < len(s.samples) && s.samples[reached].position <= here.Position {
		reached++
	}
	if reached > 0 {
		s.upTo = s.samples[reached-1].at
		s.samples = slices.Delete(s.samples, 0, reached)
	}
	if len(s.samples) > maxSamples {
		s.samples = slices.Delete(s.samples, 0, len(s.samples)-maxSamples)
	}
	return nil
}

// source is where a report is read from, and how far that is behind.
func (r *Reports) source() (from *db.DB, behind time.Duration) {
	s := r.standby
	if s == nil {
		return r.db, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if behind = time.Since(s.upTo); s.upTo.IsZero() || behind > s.maxLag {
		return r.db, 0
	}
	return s.copy, behind
}

// Standby tells whether reports are read from the standby at the moment; has: there is one.
func (r *Reports) Standby() (used, has bool) {
	from, _ := r.source()
	return from != r.db, r.standby != nil
}
