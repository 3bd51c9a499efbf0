package usage_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Guarantee: units that share a transaction do not share a fate. One with an unknown
// key, an unknown admission or a time ahead is refused whole, with its own fields
// named; one whose counts no sum can hold fails alone; all the others are recorded,
// each event once, and a repeat gets the first one's answer.
func TestUnitsStandAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dbURL := pgtest.URL(t)
	d := pgtest.Open(t, dbURL)
	id, _ := pgtest.Key(t, d, pgtest.KeyRow{})
	full, _ := pgtest.Key(t, d, pgtest.KeyRow{})
	pgtest.Exec(t, d, "UPDATE key_counters SET input_tokens = 9223372036854775807 WHERE key_id = $1", full)
	var batches []int
	var mu sync.Mutex
	r := usage.New(usage.Options{Fast: d, Patient: d, Prices: price.New(d, cache.Deaf), Timezone: "UTC", Writers: coalesce.NewWriters(1),
		Limits: coalesce.Limits{Writers: 1, Flushed: func(weight int, _ time.Duration, _ error) {
			mu.Lock()
			defer mu.Unlock()
			batches = append(batches, weight)
		}}})
	event := func(key uuid.UUID, request string) usage.Event {
		return usage.Event{KeyID: key, RequestID: request, Model: "m", ModelReceived: "m", Counts: usage.Counts{Input: 1}}
	}
	// A row that is held makes the units gather behind it.
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", id)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := r.Record(ctx, []usage.Event{event(id, "first")}); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { _, oldest := r.State(); return oldest > 0 })
	const good = 40
	for i := range good {
		all.Go(func() {
			got, err := r.Record(ctx, []usage.Event{event(id, fmt.Sprintf("a%d", i)), event(id, fmt.Sprintf("b%d", i%20))})
			if err != nil || len(got) != 2 || got[0].RequestID != fmt.Sprintf("a%d", i) || got[0].Duplicate {
				t.Errorf("unit %d: %+v, %v", i, got, err)
			}
		})
	}
	late := event(id, "late")
	late.OccurredAt = time.Now().Add(time.Hour)
	settles := event(id, "settles")
	settles.AdmissionID = uuid.New()
	for field, unit := range map[string][]usage.Event{
		"events[1].keyId":       {event(id, "x1"), event(uuid.New(), "x2")},
		"events[0].occurredAt":  {late, event(id, "x3")},
		"events[1].admissionId": {event(id, "x4"), settles},
	} {
		all.Go(func() {
			_, err := r.Record(ctx, unit)
			if f := db.Fault(err); f.Code != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Field != field {
				t.Errorf("%s: %v", field, err)
			}
		})
	}
	all.Go(func() {
		if _, err := r.Record(ctx, []usage.Event{event(id, "x5"), event(full, "x6")}); err == nil {
			t.Error("a sum beyond what can be counted was recorded")
		}
	})
	waitFor(t, func() bool { waiting, _ := r.State(); return waiting == 2*(good+3) })
	release()
	all.Wait()
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}
	got := pgtest.Scan[string](t, d, "SELECT count(*) || ' ' || count(DISTINCT request_id) || ' ' || count(*) FILTER (WHERE request_id LIKE 'x%') FROM usage_events")
	if got != "61 61 0" { // the first, 40 of their own, 20 shared by two units each
		t.Errorf("the ledger holds %s", got)
	}
	if total := pgtest.Scan[int](t, d, "SELECT requests FROM key_counters WHERE key_id = $1", id); total != 61 {
		t.Errorf("the total is %d, want 61", total)
	}
	if batches[0] != 1 || batches[1] != 2*(good+3) {
		t.Errorf("batches of %v, want one event, then all the others at once", batches[:2])
	}
}

func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for ten seconds in vain")
		}
	}
}
