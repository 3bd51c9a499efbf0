package admit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
)

// Refusals counts refusals in memory and writes them in groups, so that a
// refusal itself changes no row.
type Refusals struct {
	db       *db.DB
	timezone string
	observe  func(code string, letThrough bool)

	mu     sync.Mutex
	counts map[refusal]int64
}

// NewRefusals counts refusals of a database that parts its days in an IANA time zone. observe
// is told of each decision; it may be nil.
func NewRefusals(d *db.DB, timezone string, observe func(code string, letThrough bool)) *Refusals {
	return &Refusals{db: d, timezone: timezone, observe: observe}
}

type refusal struct {
	key        uuid.UUID
	code       string
	letThrough bool
	at         time.Time // start of the quarter of an hour: no zone's midnight falls inside one
}

// most bounds the distinct counts kept in memory between two writes. Refusals of
// more keys than that are in the metrics only.
const most = 100_000

func (r *Refusals) count(key uuid.UUID, row db.AdmitRow) {
	r.tell(row.Code, row.LetThrough)
	if Code(row.Code) == Allowed {
		return
	}
	r.add(refusal{key, row.Code, row.LetThrough, row.DecidedAt.UTC().Truncate(15 * time.Minute)}, 1)
}

// Unknown counts a request with no key to it. There is no row for such.
func (r *Refusals) Unknown(code string) { r.tell(code, false) }

func (r *Refusals) tell(code string, letThrough bool) {
	if r.observe != nil {
		r.observe(code, letThrough)
	}
}

func (r *Refusals) add(what refusal, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[refusal]int64{}
	}
	if _, known := r.counts[what]; known || len(r.counts) < most {
		r.counts[what] += n
	}
}

// Flush writes what was counted since the last one. What cannot be written is
// kept for the next.
func (r *Refusals) Flush(ctx context.Context) error {
	r.mu.Lock()
	counts := r.counts
	r.counts = nil
	r.mu.Unlock()
	if len(counts) == 0 {
		return nil
	}
	p := db.RefusalsAddParams{Timezone: r.timezone}
	for what, n := range counts {
		p.KeyIDs = append(p.KeyIDs, what.key)
		p.Codes = append(p.Codes, what.code)
		p.LetThrough = append(p.LetThrough, what.letThrough)
		p.Ats = append(p.Ats, what.at)
		p.Refusals = append(p.Refusals, n)
	}
	if err := r.db.RefusalsAdd(ctx, p); err != nil {
		for what, n := range counts {
			r.add(what, n)
		}
		return fmt.Errorf("writing counts of refusals: %w", err)
	}
	return nil
}
