package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
)

// perBatch is how many events a request of P6 holds.
const perBatch = 500

// usageBatches is P6.
func (b *bench) usageBatches(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.stand)
	if err != nil {
		return nil, err
	}
	hot, err := db.OpenHot(ctx, st.url, 4, db.Patience)
	if err != nil {
		return nil, err
	}
	defer hot.Close()
	load := b.acked(st).events(st.population, perBatch)
	few := loadOptions{clients: 8}
	ratios, samples, err := b.pair(ctx, "P6",
		side{"service", func(ctx context.Context, d time.Duration) (sample, error) { return drive(ctx, s.target, load, d, few) }},
		side{"statement", func(ctx context.Context, d time.Duration) (sample, error) { return b.feed(ctx, hot, st, d) }})
	if err != nil {
		return nil, err
	}
	r := ratio("P6", "usage, 500 events a request", "the same statement fed by pgx, no HTTP", .75, ratios, samples, "service", "statement")
	r.Measured = fmt.Sprintf("%.2f× (%.0f events/s against %.0f)", r.Value, samples["service"].PerSec*perBatch, samples["statement"].PerSec*perBatch)
	return []Result{r}, nil
}

// feed runs the statement that records usage from two connections, as the service
// does, with nothing around it: what goes into it is made ahead.
func (b *bench) feed(ctx context.Context, hot *db.DB, st *stand, d time.Duration) (sample, error) {
	a := b.acked(st)
	ready := make(chan db.LedgerAppendParams, 16)
	fill := func() { ready <- a.appendParams(st.population) }
	for range cap(ready) {
		fill()
	}
	end := time.Now().Add(d)
	start := time.Now()
	var mu sync.Mutex
	var s sample
	var failed error
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				p := <-ready
				writers.Go(fill)
				err := appendAll(ctx, hot, p)
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					s.Requests++
					a.ids = append(a.ids, p.RequestIDs...)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	writers.Wait()
	s.Took = time.Since(start)
	s.PerSec = float64(s.Requests) / s.Took.Seconds()
	return s, failed
}

// appendAll records events that are all new, as the service does.
func appendAll(ctx context.Context, hot *db.DB, p db.LedgerAppendParams) error {
	var rows []db.LedgerAppendRow
	err := hot.Pipeline(ctx, func(q *db.Queries) (err error) {
		if err = q.LedgerLock(ctx, p.KeyIDs); err == nil {
			rows, err = q.LedgerAppend(ctx, p)
		}
		return err
	})
	for _, row := range rows {
		if row.State != "recorded" {
			return errors.New("a new event was not recorded")
		}
	}
	return err
}

// appendParams are the next events, as the statement takes them.
func (a *acknowledged) appendParams(of population) (p db.LedgerAppendParams) {
	now := time.Now()
	p.Timezone = "UTC"
	for range perBatch {
		n := a.serial.Add(1)
		f, id := of.fact(n), fmt.Sprintf("b-%d", n)
		p.EventIDs = append(p.EventIDs, uuid.Must(uuid.NewV7()))
		p.Kinds = append(p.Kinds, "usage")
		p.KeyIDs = append(p.KeyIDs, idOf(f.key))
		p.DedupKeys = append(p.DedupKeys, "r:"+id)
		p.AccountIDs = append(p.AccountIDs, f.account)
		p.Models = append(p.Models, f.model.name)
		p.ModelsReceived = append(p.ModelsReceived, f.model.name)
		p.RequestIDs = append(p.RequestIDs, id)
		p.OccurredAts = append(p.OccurredAts, now)
		p.Requests = append(p.Requests, 1)
		p.InputTokens = append(p.InputTokens, f.input)
		p.OutputTokens = append(p.OutputTokens, f.output)
		p.CacheCreateTokens = append(p.CacheCreateTokens, 0)
		p.CacheReadTokens = append(p.CacheReadTokens, f.cached)
		p.Ephemeral1hTokens = append(p.Ephemeral1hTokens, 0)
		p.Costs = append(p.Costs, f.cost().String())
		p.Priced = append(p.Priced, true)
		p.Estimated = append(p.Estimated, false)
		p.Vias = append(p.Vias, "")
		p.LedgerIDs = append(p.LedgerIDs, uuid.Nil)
		p.TagSets = append(p.TagSets, uuid.Nil)
		p.Fingerprints = append(p.Fingerprints, n)
		p.Adjusts = append(p.Adjusts, uuid.Nil)
		p.Reasons = append(p.Reasons, "")
		p.AdmissionIDs = append(p.AdmissionIDs, uuid.Nil)
		p.Units = append(p.Units, 0)
	}
	return p
}

// call is one request outside of a load; its answer must have a status of 2xx.
func call(ctx context.Context, to target, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.url+path, bytes.NewBufferString(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+to.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s answered %d %s", method, path, resp.StatusCode, answer)
	}
	return answer, err
}

// revocation is P7: how long after the answer to a PATCH on one replica another still
// lets the key through, while both are under load.
func (b *bench) revocation(ctx context.Context) ([]Result, error) {
	st, err := b.stand(ctx)
	if err != nil {
		return nil, err
	}
	one, err := b.serve(ctx, st.url)
	if err != nil {
		return nil, err
	}
	other, err := b.serve(ctx, st.url)
	if err != nil {
		return nil, err
	}
	length := 3 * b.o.Round
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	// The keys of the load are others than those that are disabled.
	load := verification(1)
	pick := anyOf(st.keys / 2)
	load.next = func(uint64) []byte { return fmt.Appendf(nil, `{"apiKey":%q}`, secretOf(st.keys/2+pick())) }
	for _, s := range []*server{one, other} {
		go func() {
			_, err := drive(ctx, s.target, load, length+time.Minute, loadOptions{clients: 16})
			failed <- err
		}()
	}
	var lags []time.Duration
	end := time.Now().Add(length)
	for i := 0; time.Now().Before(end) && len(failed) == 0; i++ {
		lag, err := stillAccepted(ctx, one.target, other.target, i%(st.keys/2))
		if err != nil {
			return nil, err
		}
		lags = append(lags, lag)
	}
	cancel()
	for range 2 {
		if err := <-failed; err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	most, p99 := quantile(lags, 1), quantile(lags, .99)
	return []Result{{Name: "P7", What: "a disabled key still accepted, 2 replicas, under load", Against: "–", Reach: "p99 < 50 ms, max < 1 s",
		Measured: fmt.Sprintf("p99 %s, max %s, of %d", short(p99), short(most), len(lags)), Value: p99.Seconds() * 1000, Reached: p99 < 50*time.Millisecond && most < time.Second}}, nil
}

// notHeard is when a change that does not hold is a failure and no number.
const notHeard = 5 * time.Second

// stillAccepted disables a key on one replica and asks another until it refuses; it
// returns the time from the answer to the change to the last question that was
// answered with valid, 0 when there was none.
func stillAccepted(ctx context.Context, one, other target, key int) (time.Duration, error) {
	id, question := idOf(key), fmt.Sprintf(`{"apiKey":%q}`, secretOf(key))
	ask := func() (bool, error) {
		answer, err := call(ctx, other, http.MethodPost, "/v1/keys/verify", question)
		return bytes.Contains(answer, []byte(`"valid":true`)), err
	}
	if _, err := call(ctx, one, http.MethodPatch, "/v1/keys/"+id.String(), `{"isActive":true}`); err != nil {
		return 0, err
	}
	for sure, waited := 0, time.Now(); sure < 3; {
		valid, err := ask()
		if err != nil {
			return 0, err
		}
		if sure++; !valid {
			sure = 0
		}
		if time.Since(waited) > notHeard {
			return 0, fmt.Errorf("a key that was enabled was still refused after %s", notHeard)
		}
	}
	if _, err := call(ctx, one, http.MethodPatch, "/v1/keys/"+id.String(), `{"isActive":false}`); err != nil {
		return 0, err
	}
	changed := time.Now()
	var lag time.Duration
	for {
		asked := time.Now()
		valid, err := ask()
		if err != nil || !valid {
			return lag, err
		}
		if lag = max(time.Since(changed), asked.Sub(changed)); lag > notHeard {
			return 0, fmt.Errorf("a key that was disabled was still let through after %s", notHeard)
		}
	}
}

// lists is P8.
func (b *bench) lists(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.stand)
	if err != nil {
		return nil, err
	}
	worst, of := time.Duration(0), ""
	samples := map[string]sample{}
	for _, sort := range []string{"name", "-name", "createdAt", "-createdAt", "expiresAt", "-expiresAt", "lastUsedAt", "-lastUsedAt", "requests", "-requests", "cost", "-cost"} {
		got, err := repeat(ctx, s.target, "/v1/keys?limit=50&sort="+sort, 20*b.o.Rounds)
		if err != nil {
			return nil, err
		}
		if samples[sort] = got; got.P99 > worst {
			worst, of = got.P99, sort
		}
	}
	return []Result{{Name: "P8", What: fmt.Sprintf("list of 50 of %d keys with all its numbers, any sort", st.keys), Against: "–", Reach: "p99 < 50 ms", Samples: samples,
		Measured: fmt.Sprintf("p99 %s (sort=%s, the slowest of %d)", short(worst), of, len(samples)), Value: worst.Seconds() * 1000, Reached: worst < 50*time.Millisecond}}, nil
}

// repeat asks for the same many times, one after another.
func repeat(ctx context.Context, to target, path string, times int) (sample, error) {
	var latencies []time.Duration
	start := time.Now()
	for i := range times + 1 {
		asked := time.Now()
		if _, err := call(ctx, to, http.MethodGet, path, ""); err != nil {
			return sample{}, err
		}
		if i > 0 { // the first one warms up
			latencies = append(latencies, time.Since(asked))
		}
	}
	took := time.Since(start)
	return sample{Requests: int64(times), Took: took, PerSec: float64(times) / took.Seconds(), P50: quantile(latencies, .5), P95: quantile(latencies, .95), P99: quantile(latencies, .99)}, nil
}

// durability is R2: the service and PostgreSQL are killed under load; clients send what
// was not answered again. What came of it the proof at the end tells.
func (b *bench) durability(ctx context.Context) ([]Result, error) {
	st, err := b.standCalled(ctx, "bench_crash", min(b.o.Keys, 1000), 0)
	if err != nil {
		return nil, err
	}
	a := b.acked(st)
	sent := a.serial.Load()
	for _, victim := range []string{"service", "postgresql"} {
		s, err := b.serve(ctx, st.url)
		if err != nil {
			return nil, err
		}
		kill := time.AfterFunc(b.o.Round/2, func() {
			if victim == "service" {
				s.kill()
				return
			}
			_ = syscall.Kill(b.cluster.Pid(), syscall.SIGKILL)
		})
		load := a.events(st.population, 1)
		before := len(a.ids)
		got, err := drive(ctx, s.target, load, b.o.Round/2+time.Second, loadOptions{broken: true})
		kill.Stop()
		if err != nil {
			return nil, err
		}
		if len(a.ids) == before {
			return nil, fmt.Errorf("nothing was acknowledged before the %s was killed, so nothing could be lost", victim)
		}
		b.sayf("R2  %s killed after %d acknowledgements", victim, got.Requests)
		s.kill()
		if victim == "postgresql" {
			st.db.Close()
			if err := b.restartCluster(ctx); err != nil {
				return nil, err
			}
			if st.db, err = db.Open(ctx, st.url, 4); err != nil {
				return nil, err
			}
		}
	}
	known := len(a.ids)
	if err := b.sendAgain(ctx, st, sent); err != nil {
		return nil, err
	}
	p, err := st.prove(ctx, a.ids)
	if err != nil {
		return nil, err
	}
	if wrong := p.wrong(); wrong != "" {
		return nil, errors.New(wrong)
	}
	return []Result{{Name: "R2", What: "lost or doubled after kill -9 of service and PostgreSQL", Against: "–", Reach: "0 of what was acknowledged", Reached: true,
		Measured: fmt.Sprintf("0 of %d acknowledged before, 0 of %d sent again", known, len(a.ids)-known)}}, nil
}

// sendAgain sends every event once more whose answer did not come, as a client would.
func (b *bench) sendAgain(ctx context.Context, st *stand, first int64) error {
	// Not yet those that were acknowledged: a ledger without them must show.
	p, err := st.prove(ctx, b.acked(st).ids)
	if err != nil {
		return err
	}
	if p.InLedger != p.Acknowledged {
		return errors.New(p.wrong())
	}
	s, err := b.serve(ctx, st.url)
	if err != nil {
		return err
	}
	a := b.acked(st)
	answered := map[string]bool{}
	for _, id := range a.ids {
		answered[id] = true
	}
	var again []string
	var body []byte
	for n := first + 1; n <= a.serial.Load(); n++ {
		if id := fmt.Sprintf("b-%d", n); !answered[id] {
			again = append(again, id)
			body = st.population.event(append(body, ','), n)
		}
		if len(again) == perBatch || n == a.serial.Load() && len(again) > 0 {
			if _, err := call(ctx, s.target, http.MethodPost, "/v1/usage", `{"events":[`+string(body[1:])+"]}"); err != nil {
				return err
			}
			a.ids = append(a.ids, again...)
			again, body = nil, nil
		}
	}
	return nil
}
