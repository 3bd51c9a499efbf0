package rollup_test

import (
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// waiting counts who waits for a lock.
const waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

// Guarantee: a purge that stops in its middle, with the key locked, holds up nobody but that
// key: usage of others is recorded, chunks are sealed and added, and all sums agree at every
// moment. Usage of the key that came meanwhile finds it gone, and leaves no trace.
func TestPurgeInTheMiddle(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	gone, stays := h.key("a"), h.key("a")
	h.use(gone)
	h.use(stays)
	release := pgtest.Hold(t, h.url, "LOCK TABLE ledger_holders IN SHARE MODE") // readers pass
	var purging, writing sync.WaitGroup
	purging.Go(func() {
		if err := h.keeper.Purge(ctx, tester, gone); err != nil {
			t.Error(err)
		}
	})
	h.waitFor(waiting, 1)
	writing.Go(func() {
		if _, err := h.record.Record(ctx, []usage.Event{{KeyID: gone, AccountID: "a", Model: "m", ModelReceived: "m", Counts: usage.Counts{Input: 1}}}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("usage of a key that is being purged: %v", err)
		}
	})
	h.use(stays)
	h.agrees()
	if rows := h.rollAll(); rows != 3 {
		t.Errorf("%d rows were rolled up beside a purge, want 3", rows)
	}
	h.use(stays)
	h.agrees()
	release()
	purging.Wait()
	writing.Wait()
	h.agrees()
	if rows := h.rollAll(); rows != 1 {
		t.Errorf("%d rows were rolled up after a purge, want 1", rows)
	}
	h.agrees()
	if n := h.count("SELECT sum(requests) FROM model_usage"); n != 4 {
		t.Errorf("the rollups hold %d requests, want 4", n)
	}
}

// Guarantee: pricing again that stops after it has read, and again while it writes, holds up
// the seal at most; each row that it writes is added once, whatever was rolled up since it
// read; and all sums agree at every moment.
func TestRepriceInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]struct {
		lock   string
		rolled bool // others may write and seal
	}{
		"before it writes": {"SELECT 1 FROM key_counters WHERE key_id = (SELECT id FROM api_keys WHERE name = 'held') FOR UPDATE", true},
		"while it writes":  {"LOCK TABLE usage_dedup IN SHARE MODE", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id, other, rate := h.key(), h.key(), decimal.NewFromInt(1)
			pgtest.Exec(t, h.db, "UPDATE api_keys SET name = 'held' WHERE id = $1", id)
			for range 3 {
				h.use(id)
			}
			if _, err := h.prices.Put(ctx, tester, "manual", time.Now().AddDate(0, 0, -1), []price.Price{{Model: "m", Base: price.Rates{Input: &rate}}}); err != nil {
				t.Fatal(err)
			}
			release := pgtest.Hold(t, h.url, held.lock)
			var pricing sync.WaitGroup
			pricing.Go(func() {
				today := time.Now().UTC().Truncate(24 * time.Hour)
				done, err := h.record.Reprice(ctx, h.db, tester, usage.Repricing{From: today.AddDate(0, 0, -1), To: today})
				if err != nil || done.Events != 3 {
					t.Errorf("%+v, %v", done, err)
				}
			})
			h.waitFor(waiting, 1)
			h.agrees()
			rows := h.rollAll()
			if held.rolled {
				h.use(other)
				rows += h.rollAll()
			}
			if want := map[bool]int64{true: 4, false: 0}[held.rolled]; rows != want {
				t.Errorf("%d rows were rolled up meanwhile, want %d", rows, want)
			}
			h.agrees()
			release()
			pricing.Wait()
			h.agrees()
			h.rollAll()
			h.agrees()
			if n := h.count("SELECT count(*) FROM usage_events"); n < 6 {
				t.Errorf("the ledger has %d rows, want those of the change too", n)
			}
			want := decimal.RequireFromString("0.000003") // 3 input tokens at $1 a million
			if cost := pgtest.Scan[decimal.Decimal](t, h.db, "SELECT sum(d.cost) FROM daily_cost AS d JOIN api_keys AS k USING (ledger_id) WHERE k.id = $1", id); !cost.Equal(want) {
				t.Errorf("it costs $%s, want $%s", cost, want)
			}
		})
	}
}

// Guarantee: a dump that has its snapshot and waits, while usage is recorded and what is
// sealed is rolled up, is the database of before: restored elsewhere it agrees, has the tail
// that it had, and rolls it up; and a key can be purged there.
func TestDumpInTheMiddle(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	pgDump := pgtest.Program(t, h.url, "pg_dump")
	var ids []uuid.UUID
	for range 4 {
		ids = append(ids, h.key("a", "b"))
	}
	h.use(ids[0])
	h.rollAll()
	for _, id := range ids {
		h.use(id)
	}
	if _, err := h.roll.Step(ctx); err != nil { // sealed and not yet added
		t.Fatal(err)
	}
	h.use(ids[1])
	release := pgtest.Hold(t, h.url, "LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE")
	var dump []byte
	var dumping sync.WaitGroup
	dumping.Go(func() {
		var err error
		if dump, err = exec.Command(pgDump, "--no-owner", "--no-privileges", "-d", h.url).Output(); err != nil {
			t.Error(err)
		}
	})
	h.waitFor(waiting, 1)
	h.use(ids[2])
	if rows := h.rollAll(); rows == 0 {
		t.Error("nothing was rolled up while a dump waited")
	}
	h.use(ids[3])
	h.agrees()
	release()
	dumping.Wait()
	h.agrees()
	c := h.restored(dump)
	if all, tail := c.count("SELECT count(*) FROM usage_events"), c.count("SELECT count(*) FROM ledger_tail"); all != 6 || tail != 5 {
		t.Errorf("the copy has %d ledger rows and a tail of %d, want 6 and 5", all, tail)
	}
	for rows := int64(1); rows > 0; {
		rows = c.rollAll()
		c.agrees()
	}
	if n := c.count("SELECT sum(requests) FROM model_usage"); n != 6 {
		t.Errorf("the copy has rolled up %d rows, want 6", n)
	}
	if err := c.keeper.Purge(ctx, tester, ids[0]); err != nil {
		t.Error(err)
	}
	c.agrees()
}
