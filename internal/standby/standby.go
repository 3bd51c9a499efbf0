// Package standby knows how far a streaming standby of the database is behind, and so whether lists
// and reports may be read from it.
package standby

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyledger/keyledger/db"
)

// Standby is a copy of the database that is read from as long as it is not far behind. A nil one is
// never read from. It is safe for concurrent use.
type Standby struct {
	primary, copied *db.DB
	maxLag          time.Duration

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

// New makes a Standby that may be maxLag behind. Measure must be called again and again; until it
// was, nothing is read from the copy.
func New(primary, copied *db.DB, maxLag time.Duration) *Standby {
	return &Standby{primary: primary, copied: copied, maxLag: maxLag}
}

// Measure finds out how far the standby is behind. What it cannot find out it does not trust. Of
// failures one after another it tells the first.
func (s *Standby) Measure(ctx context.Context) error {
	err := s.measure(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.failed
	if s.failed = err != nil; told {
		return nil
	}
	return err
}

func (s *Standby) measure(ctx context.Context) error {
	now := time.Now()
	there, err := s.primary.WalPosition(ctx)
	if err != nil {
		return fmt.Errorf("asking how far the primary has come: %w", err)
	}
	here, err := s.copied.WalPosition(ctx)
	if err != nil {
		return fmt.Errorf("asking how far the standby has come: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !here.InRecovery && !here.StartedAt.Equal(there.StartedAt) {
		s.samples, s.upTo = nil, time.Time{}
		return fmt.Errorf("the server of KEYLEDGER_REPORTS_URL is no standby any more: lists and reports are read from the primary")
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

// Behind tells how far the standby is behind at the most, 0 where nobody knows; fit: it is known,
// and not further than it may be.
func (s *Standby) Behind() (behind time.Duration, fit bool) {
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upTo.IsZero() {
		return 0, false
	}
	behind = time.Since(s.upTo)
	return behind, behind <= s.maxLag
}

// Pick is the pool to read from, of one on the primary and one on the standby, and how far it is
// behind.
func (s *Standby) Pick(primary, copied *db.DB) (from *db.DB, behind time.Duration) {
	if behind, fit := s.Behind(); fit {
		return copied, behind
	}
	return primary, 0
}
