package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/migrations"
)

// freshKeys is how many keys P12 makes on a new database.
const freshKeys = 10_000

// madeKey is a key that the service has issued.
type madeKey struct {
	ID     uuid.UUID `json:"id"`
	APIKey string    `json:"apiKey"`
}

// firstMinute is P12: a database migrated a second ago, on which ten thousand keys were
// made through the API, against the same after ANALYZE and a restart.
func (b *bench) firstMinute(ctx context.Context) ([]Result, error) {
	st, err := b.emptyStand(ctx, "bench_fresh")
	if err != nil {
		return nil, err
	}
	s, err := b.serve(ctx, st.url)
	if err != nil {
		return nil, err
	}
	keys, err := makeKeys(ctx, s.target, freshKeys)
	if err != nil {
		return nil, err
	}
	fresh, err := b.firstLoads(ctx, s, st, keys)
	if err != nil {
		return nil, err
	}
	b.stopServers()
	if err := st.db.Exec(ctx, "ANALYZE"); err != nil {
		return nil, err
	}
	if s, err = b.serve(ctx, st.url); err != nil {
		return nil, err
	}
	settled, err := b.firstLoads(ctx, s, st, keys)
	if err != nil {
		return nil, err
	}
	var results []Result
	for i, what := range []string{"each key verified for the first time", "admission, real shape", "usage, real shape"} {
		name := []string{"verify", "admission", "usage"}[i]
		r := ratio("P12", "the first minute of a database with 10000 keys: "+what, "the same after ANALYZE and a restart", .8,
			[]float64{fresh[i].PerSec / settled[i].PerSec}, map[string]sample{"fresh": fresh[i], "settled": settled[i]}, "fresh", "settled")
		if name == "verify" {
			r.Reach += ", p99 of a first lookup < 20 ms"
			r.Reached = r.Reached && fresh[i].P99 < 20*time.Millisecond
		}
		results = append(results, r)
	}
	return results, nil
}

// emptyStand is a database with the schema and nothing else.
func (b *bench) emptyStand(ctx context.Context, name string) (*stand, error) {
	if err := b.cluster.EnsureDatabase(ctx, name); err != nil {
		return nil, err
	}
	s := &stand{name: name, url: b.cluster.URL(name)}
	m, err := migrations.Open(s.url)
	if err != nil {
		return nil, err
	}
	_, err = m.Up(ctx)
	_ = m.Close()
	if err != nil {
		return nil, err
	}
	s.db, err = db.Open(ctx, s.url, 4)
	return s, err
}

// makeKeys makes keys as an operator would, in batches.
func makeKeys(ctx context.Context, to target, n int) (keys []madeKey, err error) {
	const batch = 500
	for len(keys) < n {
		body := fmt.Sprintf(`{"baseName":"fresh","count":%d,"rateLimitWindow":60,"rateLimitRequests":1000000000,"tokenLimit":1000000000000000,"dailyCostLimit":1000000000,"tags":["bench"]}`, batch)
		var answer struct{ Data []madeKey }
		if err := post(ctx, to, "/v1/keys/batch", body, &answer); err != nil {
			return nil, err
		}
		keys = append(keys, answer.Data...)
	}
	return keys, nil
}

func post(ctx context.Context, to target, path, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+to.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode > http.StatusCreated {
		return fmt.Errorf("%s answered %d %s", path, resp.StatusCode, bytes.TrimSpace(raw))
	}
	return json.Unmarshal(raw, into)
}

// firstLoads are each key verified once, then admissions and usage of the real shape.
func (b *bench) firstLoads(ctx context.Context, s *server, st *stand, keys []madeKey) (samples [3]sample, err error) {
	who := realShape(len(keys))
	verify := verification(1)
	verify.next = func(n uint64) []byte { return fmt.Appendf(nil, `{"apiKey":%q}`, keys[n].APIKey) }
	admit := st.admissions(who.anyKey)
	admit.next = func(uint64) []byte {
		return fmt.Appendf(nil, `{"apiKey":%q,"model":"claude-sonnet-4-20250514","service":"claude","leaseSeconds":5}`, keys[who.anyKey()].APIKey)
	}
	admit.before, admit.after = nil, nil // nothing is emptied, nor counted: the database is as it came
	a := b.acked(st)
	record := traffic{path: "/v1/usage", check: func(body []byte) error {
		if !bytes.Contains(body, []byte(`"status":"recorded"`)) {
			return fmt.Errorf("a new event was answered with %s", body)
		}
		return nil
	}, next: func(uint64) []byte {
		n := a.serial.Add(1)
		f := who.fact(n)
		return fmt.Appendf(nil, `{"keyId":"%s","accountId":%q,"model":%q,"requestId":"f-%d","usage":{"input_tokens":%d,"output_tokens":%d}}`,
			keys[f.key].ID, f.account, f.model.name, n, f.input, f.output)
	}}
	if samples[0], err = drive(ctx, s.target, verify, time.Minute, loadOptions{clients: realClients, requests: len(keys)}); err != nil {
		return samples, err
	}
	if samples[0].Requests != int64(len(keys)) {
		return samples, fmt.Errorf("%d of %d keys were verified", samples[0].Requests, len(keys))
	}
	for i, load := range []traffic{admit, record} {
		if samples[i+1], err = drive(ctx, s.target, load, 2*b.o.Round, loadOptions{clients: realClients}); err != nil {
			return samples, err
		}
	}
	return samples, nil
}

// both loads a service with admissions and usage of the real shape at once.
func (b *bench) both(ctx context.Context, s *server, st *stand, d time.Duration, o loadOptions) (admitted, recorded sample, err error) {
	var all sync.WaitGroup
	var failed [2]error
	all.Go(func() { admitted, failed[0] = drive(ctx, s.target, st.admissions(st.population.anyKey), d, o) })
	all.Go(func() { recorded, failed[1] = drive(ctx, s.target, b.acked(st).events(st.population, 1), d, o) })
	all.Wait()
	return admitted, recorded, errors.Join(failed[:]...)
}

// lockWaits is P13: how much of the time that batches are at work they wait for a row
// that another batch of the same replica has locked.
func (b *bench) lockWaits(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.realStand)
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, s, st.keys); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	var active, waiting int64
	var watch sync.WaitGroup
	watch.Go(func() {
		for watching.Err() == nil {
			var a, w int64
			const sql = `SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity
				WHERE application_name = 'keyledger' AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()`
			if st.db.Scan(watching, sql, nil, &a, &w) == nil {
				active, waiting = active+a, waiting+w
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	_, _, err = b.both(ctx, s, st, 2*b.o.Round, loadOptions{clients: realClients / 2})
	stop()
	watch.Wait()
	if err != nil {
		return nil, err
	}
	share := float64(waiting) / float64(max(1, active))
	return []Result{{Name: "P13", What: "waits for a row lock among one replica's own batches, " + st.population.String(), Against: "–", Reach: "< 2 % of samples",
		Measured: fmt.Sprintf("%.1f %% of %d samples", 100*share, active), Value: share, Reached: share < .02}}, nil
}

// relayPace is how many admissions, and how many events, a relay sends in a second.
const relayPace = 300

// pace is P17: one request at a time, and then a relay's own pace.
func (b *bench) pace(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.realStand)
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, s, st.keys); err != nil {
		return nil, err
	}
	var results []Result
	for what, load := range map[string]traffic{"admission": st.admissions(st.population.anyKey), "usage": b.acked(st).events(st.population, 1)} {
		got, err := drive(ctx, s.target, load, 2*b.o.Round, loadOptions{clients: 1})
		if err != nil {
			return nil, err
		}
		results = append(results, Result{Name: "P17", What: what + ", one client", Against: "–", Reach: "p50 ≤ 1 ms", Samples: map[string]sample{what: got},
			Measured: fmt.Sprintf("p50 %s, p99 %s", short(got.P50), short(got.P99)), Value: got.P50.Seconds() * 1000, Reached: got.P50 <= time.Millisecond})
	}
	before, start := b.cpu(s), time.Now()
	admitted, recorded, err := b.both(ctx, s, st, 5*b.o.Round, loadOptions{clients: 16, rate: relayPace})
	if err != nil {
		return nil, err
	}
	cores := (b.cpu(s) - before).Seconds() / time.Since(start).Seconds()
	p50, p99 := max(admitted.P50, recorded.P50), max(admitted.P99, recorded.P99)
	return append(results, Result{Name: "P17", What: fmt.Sprintf("%d admissions and %d events a second, open loop, %s", relayPace, relayPace, st.population), Against: "–",
		Reach: "p50 ≤ 2.5 ms, p99 ≤ 15 ms, ≤ 0.5 of a core", Samples: map[string]sample{"admission": admitted, "usage": recorded},
		Measured: fmt.Sprintf("p50 %s, p99 %s, %.2f cores", short(p50), short(p99), cores), Value: p99.Seconds() * 1000,
		Reached: p50 <= 2500*time.Microsecond && p99 <= 15*time.Millisecond && cores <= .5}), nil
}

// cpu is the processor time of a service and of PostgreSQL with all its processes.
func (b *bench) cpu(s *server) (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in brackets, may have spaces. Source: proc(5).
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if len(f) < 15 {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		if pid != s.process.PID() && pid != b.cluster.Pid() && parent != b.cluster.Pid() {
			continue
		}
		const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
		for _, n := range f[11:13] {       // utime, stime
			ticks, _ := strconv.Atoi(n)
			sum += time.Duration(ticks) * tick
		}
	}
	return sum
}
