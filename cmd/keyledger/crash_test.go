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

	urls  []string // of its replicas
	dbURL string
	keys  []any // secrets
	ids   []string

	noted        map[string]*atomic.Int64 // what clients know of each key: input tokens
	acknowledged atomic.Int64
	agreed       atomic.Int64 // reconciliations
}

// soak is how long a test kills, and with how many keys: briefly, unless make soak asks for more.
func soak(t *testing.T, brief time.Duration) (length time.Duration, keys int) {
	text := os.Getenv("KEYLEDGER_TEST_SOAK")
	if text == "" {
		return brief, 60
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return length, 500
}

// makeKeys makes so many keys.
func (c *crash) makeKeys(keys int) {
	c.noted = map[string]*atomic.Int64{}
	for i := range keys {
		_, made := post(c.T, c.urls[0], "/v1/keys", map[string]any{"name": fmt.Sprint("k", i), "concurrencyLimit": 1000, "rateLimitWindow": 1, "totalCostLimit": "1000"})
		c.keys, c.ids = append(c.keys, made["apiKey"]), append(c.ids, made["id"].(string))
		c.noted[made["id"].(string)] = &atomic.Int64{}
	}
}

// load is the clients, and whoever reconciles at random moments; the function that it returns ends them.
func (c *crash) load(length time.Duration) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c.Cleanup(cancel)
	var all sync.WaitGroup
	for client := range 8 {
		all.Go(func() { c.client(ctx, client) })
	}
	all.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(rand.N(length / 200))
			if c.agrees(ctx) {
				c.agreed.Add(1)
			}
		}
	})
	return func() {
		cancel()
		all.Wait()
	}
}

// client is one of a relay: it asks for admission, and repeats usage until it is acknowledged.
func (c *crash) client(ctx context.Context, client int) {
	r := rand.New(rand.NewPCG(uint64(client), 1))
	zipf := rand.NewZipf(r, 1.1, 1, uint64(len(c.keys)-1))
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
		c.acknowledged.Add(1)
		c.noted[c.ids[k]].Add(int64(n%7 + 1))
	}
}

// verdict holds the ledger against what clients know, and rollups against the ledger, also when they are
// rolled up twice, or derived anew.
func (c *crash) verdict(length time.Duration) {
	d := pgtest.Open(c, c.dbURL)
	if n := pgtest.Scan[int64](c, d, "SELECT count(*) FROM usage_events"); n != c.acknowledged.Load() || n < 20 {
		c.Errorf("the ledger holds %d events, clients saw %d acknowledged", n, c.acknowledged.Load())
	}
	for id, counter := range c.noted {
		if n := pgtest.Scan[int64](c, d, "SELECT input_tokens FROM key_counters WHERE key_id = $1", id); n != counter.Load() {
			c.Errorf("key %s used %d tokens, clients know of %d", id, n, counter.Load())
		}
	}
	if want := int64(length / (6 * time.Second)); c.agreed.Load() < max(1, min(want, 100)) {
		c.Errorf("the ledger was held against its sums %d times while it was killed, want %d", c.agreed.Load(), want)
	}
	zone := pgtest.Scan[string](c, d, "SELECT value FROM service_settings WHERE name = 'timezone'")
	roll := rollup.New(d, zone)
	eventually(c.T, "all is rolled up, here or by the service", func() bool {
		if _, err := roll.Roll(context.Background()); err != nil {
			c.Fatal(err)
		}
		return pgtest.Scan[int64](c, d, "SELECT count(*) FROM ledger_tail") == 0
	})
	whole := c.rollups(d)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for range 2 {
		eventually(c.T, "the service's own roll-up is not at work", func() bool {
			err := roll.Rebuild(context.Background(), db.Actor{Name: "test"}, today.AddDate(0, 0, -2), today.AddDate(0, 0, 1))
			if err != nil && fault.CodeOf(err) != fault.Unavailable {
				c.Fatal(err)
			}
			return err == nil
		})
		if again := c.rollups(d); again != whole {
			c.Errorf("rolled up anew, the rollups are\n%s\nand were\n%s", again, whole)
		}
	}
	if !c.agrees(context.Background()) {
		c.Error("it could not be reconciled in the end")
	}
}

// Guarantee: under the load of a relay (keys by Zipf, 5 accounts, admissions and usage), with
// the service, its PostgreSQL and its roll-up killed at random, every usage event that a
// client saw acknowledged is in the ledger, every one that it repeated counts once, and at
// random moments counters are the sums of the ledger, and so are rollups with the tail.
// What is rolled up twice, or derived anew, is what it was. make soak runs it for long.
func TestCrash(t *testing.T) {
	t.Parallel()
	length, keys := soak(t, 6*time.Second)
	dir := openDir(t, nil)
	args := []string{"dev", "--addr", freePort(t), "--data-dir", filepath.Join(dir, "data")}
	process := launch(t, nil, []string{"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap, "KEYLEDGER_ROLLUP_INTERVAL=1s"}, args...)
	c := &crash{T: t, urls: []string{process.wait(`KEYLEDGER_URL=(\S+)`)}, dbURL: process.wait(`psql '([^']+)'`)}
	process.wait("msg=serving")
	c.makeKeys(keys)

	stop, rolls := c.load(length), 0
	for end := time.Now().Add(length); time.Now().Before(end); {
		time.Sleep(300*time.Millisecond + rand.N(time.Second))
		switch rand.N(3) {
		case 0:
			process.stop(syscall.SIGKILL)
		case 1:
			_ = syscall.Kill(postmaster(t, dir), syscall.SIGKILL)
			<-process.end
		default:
			if c.breakRollup() {
				rolls++
			}
			continue
		}
		process = launch(t, nil, []string{"KEYLEDGER_ROLLUP_INTERVAL=1s"}, args...)
		process.wait("msg=serving")
	}
	time.Sleep(300 * time.Millisecond)
	stop()
	c.verdict(length)
	if length >= time.Minute && rolls == 0 {
		t.Error("no step of the roll-up was broken off")
	}
	t.Logf("%d events, %d reconciliations, %d steps of the roll-up broken off", c.acknowledged.Load(), c.agreed.Load(), rolls)
}

// post asks a replica of the service, which may not be there.
func (c *crash) post(path string, body any) (answer map[string]any, ok bool) {
	status, answer, err := attempt(c.urls[rand.N(len(c.urls))]+path, body)
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
