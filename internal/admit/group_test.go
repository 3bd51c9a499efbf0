package admit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: an admission whose caller has gone before it was decided holds no slot
// and no reservation, unless it has a request id: then the caller, coming back, finds
// the one it asked for.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	s := newStand(t, pgtest.Open(t, dbURL), "UTC")
	first, id := s.key(nil), s.key(key.Columns{"concurrency_limit": 100})
	hold := func(id uuid.UUID) func() {
		return pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	}
	releaseFirst, release := hold(first), hold(id)
	var patient, all sync.WaitGroup
	patient.Go(func() {
		if _, err := s.admit.Decide(ctx, admit.Request{KeyID: first}, nil); err != nil {
			t.Error(err)
		}
	})
	for waited := time.Duration(0); waited == 0; _, waited = s.admit.State() {
		time.Sleep(time.Millisecond)
	}
	hasty, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for i := range 20 { // one batch, behind the first one
		r := admit.Request{KeyID: id, LeaseSeconds: 60}
		if i%2 == 0 {
			r.RequestID = fmt.Sprintf("r%d", i)
		}
		all.Go(func() {
			if _, err := s.admit.Decide(hasty, r, nil); err == nil {
				t.Error("decided while the key was held")
			}
		})
	}
	for waiting := 0; waiting < 20; waiting, _ = s.admit.State() {
		time.Sleep(time.Millisecond)
	}
	releaseFirst()
	patient.Wait()
	all.Wait()
	release()
	if err := s.admit.Close(ctx); err != nil {
		t.Fatal(err)
	}
	got := pgtest.Scan[string](t, s.db, `SELECT count(*) FILTER (WHERE is_open AND request_id LIKE 'r%') || ' kept, '
		|| count(*) FILTER (WHERE NOT is_open AND ended_by = 'released' AND coalesce(request_id, '') = '') || ' released' FROM admissions WHERE key_id = $1`, id)
	if got != "10 kept, 10 released" {
		t.Errorf("of 20: %s", got)
	}
}
