package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// town is a service with a hostile client beside honest ones.
type town struct {
	t           *testing.T
	soak        bool
	pid         int
	dbURL, base string
	bad, good   map[string]any // the keys of the hostile client and of the honest ones
}

// hostile are the clients that take what they can from others. Each runs until ctx ends.
var hostile = []struct {
	name    string
	prepare func(*town)
	run     func(*town, context.Context)
}{
	{"answers that nobody reads", nil, (*town).readNothing},
	{"uploads that stop after a byte", nil, (*town).stopUploading},
	{"chunked bodies", nil, (*town).sendChunks},
	{"hourly reports", (*town).fillLedger, (*town).askForReports},
	{"a refused key that holds 20 000 leases", (*town).fillLeases, (*town).hammerRefused},
	{"usage, by admission alone, of a row held in psql", nil, (*town).settleHeld},
}

// Guarantee: nobody's slowness is anybody else's. While a client reads no answers, stops
// uploading, sends chunks without end, asks for the longest reports, hammers a key that is
// refused, or sends usage of a row that psql holds, other keys' admissions and usage go on,
// an admin disables a key, and memory stays. make soak runs each for two minutes and holds
// the 99th percentile to 100 ms, which the first seconds of a flood may pass; make test runs
// it alone for a few seconds and holds it to 250 ms; beside other tests, which take the
// machine from it, it must stay below three seconds. What the honest clients wait with nobody
// else there is allowed three times on top, since a machine may be slow by itself.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			length, most := 3*time.Second, 3*time.Second
			if os.Getenv("KEYLEDGER_TEST_ALONE") != "" {
				most = 250 * time.Millisecond
			}
			if text := os.Getenv("KEYLEDGER_TEST_SOAK"); text != "" {
				var err error
				if length, err = time.ParseDuration(text); err != nil {
					t.Fatal(err)
				}
				most = 100 * time.Millisecond
			}
			dbURL := pgtest.URL(t)
			p, env := serve(t, dbURL)
			c := &town{t: t, soak: length > 3*time.Second, pid: p.cmd.Process.Pid, dbURL: dbURL, base: env[0][len("KEYLEDGER_URL="):]}
			_, c.bad = post(t, c.base, "/v1/keys", map[string]any{"name": "bad", "concurrencyLimit": 20000})
			_, c.good = post(t, c.base, "/v1/keys", map[string]any{"name": "good"})
			if h.prepare != nil {
				h.prepare(c)
			}
			quiet, done := context.WithTimeout(context.Background(), time.Second)
			alone := c.liveOn(quiet)
			done()
			ctx, stop := context.WithTimeout(context.Background(), length)
			defer stop()
			var attack sync.WaitGroup
			attack.Go(func() { h.run(c, ctx) })
			time.Sleep(200 * time.Millisecond) // it has begun
			c.fair(alone, c.liveOn(ctx), most)
			attack.Wait()
			if size := peakMemory(t, c.pid); size > 300<<20 {
				t.Errorf("the service took %d MB", size>>20)
			}
		})
	}
}

// liveOn is what honest clients do: admissions and usage from eight relays, and an admin who
// changes a key. It returns how long each of their requests took.
func (c *town) liveOn(ctx context.Context) (latencies map[string][]time.Duration) {
	c.t.Helper()
	var mu sync.Mutex
	latencies = map[string][]time.Duration{}
	timed := func(what string, do func()) {
		start := time.Now()
		do()
		mu.Lock()
		defer mu.Unlock()
		latencies[what] = append(latencies[what], time.Since(start))
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				var admission map[string]any
				timed("admission", func() {
					var status int
					if status, admission = post(c.t, c.base, "/v1/admissions", map[string]any{"apiKey": c.good["apiKey"], "leaseSeconds": 5}); status != 200 || admission["allowed"] != true {
						c.t.Errorf("another key's admission: %d %v", status, admission)
					}
				})
				timed("usage", func() {
					if status, answer := post(c.t, c.base, "/v1/usage", map[string]any{"admissionId": admission["admissionId"], "usage": map[string]any{"input_tokens": 1}}); status != 200 {
						c.t.Errorf("another key's usage: %d %v", status, answer)
					}
				})
				if c.t.Failed() {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	all.Go(func() {
		for on := false; ctx.Err() == nil; on = !on {
			timed("PATCH", func() {
				if status := patch(c.t, c.base, "/v1/keys/"+c.good["id"].(string), `{"description": "changed"}`); status != 200 {
					c.t.Errorf("an admin's PATCH: %d", status)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
	})
	all.Wait()
	return latencies
}

// fair holds what honest clients waited against what they wait when they are alone.
func (c *town) fair(alone, latencies map[string][]time.Duration, most time.Duration) {
	c.t.Helper()
	p99of := func(took []time.Duration) time.Duration {
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	for what, took := range latencies {
		quiet, p99 := p99of(alone[what]), p99of(took)
		c.t.Logf("%s: %d, p50 %s, p99 %s (alone %s), longest %s", what, len(took), took[len(took)/2], p99, quiet, took[len(took)-1])
		fair := most + 3*quiet
		if what == "PATCH" { // too few to tell the 99th percentile: it works, and soon
			fair = max(fair, 2*time.Second)
		}
		if p99 > fair {
			c.t.Errorf("%s: p99 %s, at most %s are fair", what, p99, fair)
		}
	}
}

func patch(t *testing.T, base, path, body string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodPatch, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bootstrap)
	resp, err := hammer.Do(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// peakMemory is the most memory that a process has had resident, in bytes. Source: proc(5).
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Logf("the system does not tell: %v", err)
		return 0
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10
}

// many is how many connections a hostile client opens.
func (c *town) many(soak int) int {
	if c.soak {
		return soak
	}
	return soak / 5
}

// connections keeps n connections open, each used by do until it fails, from addresses of
// its own: a client that is bounded by address would not be seen.
func (c *town) connections(ctx context.Context, n int, do func(net.Conn) error) {
	addr := strings.TrimPrefix(c.base, "http://")
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}}
			for ctx.Err() == nil {
				conn, err := dialer.DialContext(ctx, "tcp", addr)
				if err != nil {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				ended := context.AfterFunc(ctx, func() { _ = conn.Close() })
				for do(conn) == nil && ctx.Err() == nil { // until it fails
				}
				ended()
				_ = conn.Close()
			}
		})
	}
	all.Wait()
}

func (c *town) readNothing(ctx context.Context) {
	self := fmt.Sprintf("GET /v1/self HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\n\r\n", c.bad["apiKey"])
	spec := "GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n"
	var n atomic.Int64
	c.connections(ctx, c.many(3000), func(conn net.Conn) error {
		ask := self
		if n.Add(1)%2 == 0 {
			ask = spec
		}
		_, err := io.WriteString(conn, strings.Repeat(ask, 20))
		time.Sleep(10 * time.Millisecond)
		return err
	})
}

const uploadHead = "POST /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + bootstrap + "\r\nContent-Type: application/json\r\n"

func (c *town) stopUploading(ctx context.Context) {
	c.connections(ctx, 50, func(conn net.Conn) error {
		if _, err := io.WriteString(conn, uploadHead+"Content-Length: 8388608\r\n\r\n{"); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, conn) // until the service has had enough
		if err == nil {
			err = io.EOF
		}
		return err
	})
}

func (c *town) sendChunks(ctx context.Context) {
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat(" ", 64<<10))
	c.connections(ctx, 50, func(conn net.Conn) error {
		if _, err := io.WriteString(conn, uploadHead+"Transfer-Encoding: chunked\r\n\r\n"); err != nil {
			return err
		}
		for range 120 { // 7.5 MiB
			if _, err := io.WriteString(conn, chunk); err != nil {
				return err
			}
		}
		time.Sleep(time.Second) // and no end
		return io.EOF
	})
}

func (c *town) fillLedger() {
	d := pgtest.Open(c.t, c.dbURL)
	rows := 200_000
	if c.soak {
		rows = 2_000_000
	}
	pgtest.Exec(c.t, d, `INSERT INTO usage_events (event_id, received_at, kind, ledger_id, chunk, account_id, model, model_received, request_id, occurred_at, day, tag_set, requests,
			input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost, priced, estimated)
		SELECT gen_random_uuid(), now(), 'usage', (SELECT ledger_id FROM api_keys WHERE id = $1), 0, 'account-' || n % 20, 'model-' || n % 12, 'm', NULL, now(), current_date, '00000000-0000-0000-0000-000000000000', 1,
			10, 1, 0, 0, 0, 0.01, true, false
		  FROM generate_series(1, $2::integer) AS n`, c.bad["id"], rows)
}

// reports are asked for by as many as like, again and again.
func (c *town) askForReports(ctx context.Context) {
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for ctx.Err() == nil {
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/reports/usage?granularity=hour&groupBy=key,model,account,tag", nil)
				req.Header.Set("Authorization", "Bearer "+bootstrap)
				if resp, err := hammer.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
	all.Wait()
}

func (c *town) fillLeases() {
	d := pgtest.Open(c.t, c.dbURL)
	pgtest.Exec(c.t, d, `INSERT INTO admissions (id, key_id, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
		SELECT gen_random_uuid(), $1, now(), now() + interval '1 hour', now() + interval '1 hour', 1, 0.01 FROM generate_series(1, 20000)`, c.bad["id"])
}

func (c *town) hammerRefused(ctx context.Context) {
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, answer := post(c.t, c.base, "/v1/admissions", map[string]any{"apiKey": c.bad["apiKey"], "leaseSeconds": 5}); answer["code"] != "CONCURRENCY_EXCEEDED" && answer["allowed"] != nil {
					c.t.Errorf("the refused key: %v", answer)
					return
				}
			}
		})
	}
	all.Wait()
}

func (c *town) settleHeld(ctx context.Context) {
	var ids []any
	for range 20 {
		_, a := post(c.t, c.base, "/v1/admissions", map[string]any{"apiKey": c.bad["apiKey"], "leaseSeconds": 3600})
		ids = append(ids, a["admissionId"])
	}
	release := pgtest.Hold(c.t, c.dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", c.bad["id"]) //nolint:contextcheck // it holds until it is released
	defer release()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			for ctx.Err() == nil {
				post(c.t, c.base, "/v1/usage", map[string]any{"admissionId": id, "usage": map[string]any{"input_tokens": 1}})
			}
		})
	}
	<-ctx.Done()
	release()
	all.Wait()
}
