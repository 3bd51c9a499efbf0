package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
)

// crash is a service with its PostgreSQL that is killed while clients use it.
type crash struct {
	*testing.T

	url, dbURL string
	args       []string
	dir        string
	keys       []any // secrets
	ids        []string
	process    *process
}

// Guarantee: under the load of a relay (keys by Zipf, 5 accounts, admissions and usage), with
// the service, its PostgreSQL and its roll-up killed at random, every usage event that a
// client saw acknowledged is in the ledger, every one that it repeated counts once, and at
// random moments counters are the sums of the ledger, and so are rollups with the tail.
// What is rolled up twice, or derived anew, is what it was. make soak runs it for long.
func TestCrash(t *testing.T) {
	t.Parallel()
	length, keys := 6*time.Second, 60
	if text := os.Getenv("KEYLEDGER_TEST_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
		keys = 500
	}
	c := &crash{T: t, dir: openDir(t, nil)}
	c.args = []string{"dev", "--addr", freePort(t), "--data-dir", filepath.Join(c.dir, "data")}
	c.process = launch(t, nil, []string{"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap, "KEYLEDGER_ROLLUP_INTERVAL=1s"}, c.args...)
	c.url, c.dbURL = c.process.wait(`KEYLEDGER_URL=(\S+)`), c.process.wait(`psql '([^']+)'`)
	c.process.wait("msg=serving")
	for i := range keys {
		_, made := post(t, c.url, "/v1/keys", map[string]any{"name": fmt.Sprint("k", i), "concurrencyLimit": 1000, "rateLimitWindow": 1, "totalCostLimit": "1000"})
		c.keys, c.ids = append(c.keys, made["apiKey"]), append(c.ids, made["id"].(string))
	}

	var noted sync.Map // what clients know of each key: *atomic.Int64 of input tokens
	for _, id := range c.ids {
		noted.Store(id, &atomic.Int64{})
	}
	var acknowledged atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients, checks sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(uint64(client), 1))
			zipf := rand.NewZipf(r, 1.1, 1, uint64(keys-1))
			for n := 0; ctx.Err() == nil; n++ {
				k := zipf.Uint64()
				event := map[string]any{"requestId": fmt.Sprintf("c%d-%d", client, n), "accountId": fmt.Sprint("account-", r.IntN(5)), "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": n%7 + 1}}
				if answer, ok := c.post("/v1/admissions", map[string]any{"apiKey": c.keys[k], "leaseSeconds": 60}); ok && answer["allowed"] == true {
					event["admissionId"] = answer["admissionId"]
				} else {
					event["keyId"] = c.ids[k] // nobody there to ask, and the request went on
				}
				for { // until it is acknowledged, as a relay would
					if _, ok := c.post("/v1/usage", event); ok {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				acknowledged.Add(1)
				counter, _ := noted.Load(c.ids[k])
				counter.(*atomic.Int64).Add(int64(n%7 + 1))
			}
		})
	}
	var agreed atomic.Int64
	checks.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(rand.N(length / 200))
			if c.agrees(ctx) {
				agreed.Add(1)
			}
		}
	})
	rolls := 0
	for end := time.Now().Add(length); time.Now().Before(end); {
		time.Sleep(300*time.Millisecond + rand.N(time.Second))
		switch rand.N(3) {
		case 0:
			c.process.stop(syscall.SIGKILL)
		case 1:
			_ = syscall.Kill(postmaster(t, c.dir), syscall.SIGKILL)
			<-c.process.end
		default:
			if c.breakRollup() {
				rolls++
			}
			continue
		}
		c.process = launch(t, nil, []string{"KEYLEDGER_ROLLUP_INTERVAL=1s"}, c.args...)
		c.process.wait("msg=serving")
	}
	time.Sleep(300 * time.Millisecond)
	cancel()
	clients.Wait()
	checks.Wait()

	d := pgtest.Open(t, c.dbURL)
	if n := pgtest.Scan[int64](t, d, "SELECT count(*) FROM usage_events"); n != acknowledged.Load() || n < 20 {
		t.Errorf("the ledger holds %d events, clients saw %d acknowledged", n, acknowledged.Load())
	}
	noted.Range(func(id, counter any) bool {
		if n := pgtest.Scan[int64](t, d, "SELECT input_tokens FROM key_counters WHERE key_id = $1", id); n != counter.(*atomic.Int64).Load() {
			t.Errorf("key %s used %d tokens, clients know of %d", id, n, counter.(*atomic.Int64).Load())
		}
		return true
	})
	if want := int64(length / (6 * time.Second)); agreed.Load() < max(1, min(want, 100)) {
		t.Errorf("the ledger was held against its sums %d times while it was killed, want %d", agreed.Load(), want)
	}
	if length >= time.Minute && rolls == 0 {
		t.Error("no step of the roll-up was broken off")
	}
	zone := pgtest.Scan[string](t, d, "SELECT value FROM service_settings WHERE name = 'timezone'")
	roll := rollup.New(d, zone)
	for range 2 { // what was sealed when it was killed, and what came after
		if _, err := roll.Roll(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	whole := c.rollups(d)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for range 2 {
		eventually(t, "the service's own roll-up is not at work", func() bool {
			err := roll.Rebuild(context.Background(), db.Actor{Name: "test"}, today.AddDate(0, 0, -2), today.AddDate(0, 0, 1))
			if err != nil && fault.CodeOf(err) != fault.Unavailable {
				t.Fatal(err)
			}
			return err == nil
		})
		if again := c.rollups(d); again != whole {
			t.Errorf("rolled up anew, the rollups are\n%s\nand were\n%s", again, whole)
		}
	}
	if !c.agrees(context.Background()) {
		t.Error("it could not be reconciled in the end")
	}
	t.Logf("%d events, %d reconciliations, %d steps of the roll-up broken off", acknowledged.Load(), agreed.Load(), rolls)
}

// post asks the service, which may not be there.
func (c *crash) post(path string, body any) (answer map[string]any, ok bool) {
	status, answer, err := attempt(c.url+path, body)
	return answer, err == nil && status == http.StatusOK && answer != nil
}

// agrees reconciles, if PostgreSQL is there, and tells whether it could.
func (c *crash) agrees(ctx context.Context) bool {
	d, err := db.Open(ctx, c.dbURL, 1)
	if err != nil {
		return false
	}
	defer d.Close()
	zone, err := d.Setting(ctx, "timezone")
	if err != nil {
		return false
	}
	found, err := report.New(d, zone).Reconcile(ctx, time.Now().AddDate(0, 0, -2), time.Now().AddDate(0, 0, 2))
	if len(found.Differences) > 0 {
		c.Errorf("sums disagree: %+v", found.Differences)
	}
	return err == nil
}

// breakRollup ends the connection of a step of the roll-up, if one is under way.
func (c *crash) breakRollup() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d, err := db.Open(ctx, c.dbURL, 1)
	if err != nil {
		return false
	}
	defer d.Close()
	for ctx.Err() == nil {
		var n int64
		err := d.Scan(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '-- name: Roll%' AND state <> 'idle' AND pid <> pg_backend_pid()", nil, &n)
		if err != nil {
			return false
		}
		if n > 0 {
			return true
		}
	}
	return false
}

// rollups is what all rollups hold, as text.
func (c *crash) rollups(d *db.DB) string {
	return pgtest.Scan[string](c, d, `SELECT string_agg(x.line, E'\n' ORDER BY x.line) FROM (
		SELECT 'usage_daily ' || t::text AS line FROM usage_daily AS t
		UNION ALL SELECT 'account_usage ' || t::text FROM account_usage AS t
		UNION ALL SELECT 'account_totals ' || t::text FROM account_totals AS t
		UNION ALL SELECT 'model_usage ' || t::text FROM model_usage AS t
		UNION ALL SELECT 'tag_usage ' || t::text FROM tag_usage AS t
		UNION ALL SELECT 'daily_cost ' || t::text FROM daily_cost AS t) AS x`)
}
