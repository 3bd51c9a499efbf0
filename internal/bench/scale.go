package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/internal/rollup"
)

// restartCluster starts PostgreSQL again after it was killed.
func (b *bench) restartCluster(ctx context.Context) error {
	<-b.cluster.Done()
	_ = b.cluster.Stop() // lets the lock go
	cluster, err := pgdev.Start(ctx, pgdev.Options{Dir: filepath.Join(b.dir, "pg")})
	if err != nil {
		return err
	}
	b.cluster = cluster
	for _, s := range b.stands {
		s.db.Close()
		s.url = cluster.URL(s.name)
		if s.db, err = db.Open(ctx, s.url, 4); err != nil {
			return err
		}
	}
	return nil
}

// overload is R4: ten times as many clients as the service lets work at once. What is
// refused is told so, what is let in keeps its speed, memory stays, and a second later
// all is as before.
func (b *bench) overload(ctx context.Context) ([]Result, error) {
	st, err := b.stand(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.serve(ctx, st.url, "KEYLEDGER_MAX_IN_FLIGHT=256")
	if err != nil {
		return nil, err
	}
	load := b.acked(st).events(st.population, 1)
	samples := map[string]sample{}
	var most int64
	for _, step := range []struct {
		name    string
		clients int
	}{{"warm", 256}, {"1×", 256}, {"2×", 512}, {"10×", 2560}} {
		got, err := drive(ctx, s.target, load, b.o.Round, loadOptions{clients: step.clients, overload: true})
		if err != nil {
			return nil, err
		}
		size, err := s.memory()
		if err != nil {
			return nil, err
		}
		most = max(most, size)
		b.sayf("R4  %s capacity: %.0f/s accepted, p99 %s, %d refused, %d MB", step.name, got.PerSec, short(got.P99), got.Refused, size>>20)
		if step.name != "warm" {
			samples[step.name] = got
		}
	}
	after, err := drive(ctx, s.target, load, time.Second, loadOptions{clients: 256})
	if err != nil {
		return nil, err
	}
	samples["after"] = after
	slower := after.PerSec / samples["1×"].PerSec
	return []Result{{Name: "R4", What: "overload: 10 times the clients that may work at once", Against: "the same service at its capacity", Reach: "p99 of accepted < 1 s, memory < 300 MB, speed back in 1 s", Samples: samples,
		Measured: fmt.Sprintf("p99 %s against %s, %d MB, %.2f× speed in the first second after", short(samples["10×"].P99), short(samples["1×"].P99), most>>20, slower), Value: slower,
		Reached: samples["10×"].P99 < time.Second && most < 300<<20 && slower >= .7 && samples["10×"].Refused > 0}}, nil
}

// reports is P9: without a tail, with one that came in at once, and with the same once it was vacuumed, as
// autovacuum does while so much comes in one after another.
func (b *bench) reports(ctx context.Context) (results []Result, err error) {
	st, err := b.bigStand(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.serve(ctx, st.url, "KEYLEDGER_ROLLUP_INTERVAL=24h")
	if err != nil {
		return nil, err
	}
	for _, side := range []struct {
		feed   int
		vacuum bool
		tail   string
		reach  time.Duration
	}{
		{0, false, "0", 200 * time.Millisecond},
		{b.o.Tail, false, strconv.Itoa(b.o.Tail), 250 * time.Millisecond},
		{0, true, strconv.Itoa(b.o.Tail) + ", vacuumed", 250 * time.Millisecond},
	} {
		if err := b.feedRows(ctx, st, side.feed); err != nil {
			return nil, err
		}
		if side.vacuum {
			if err := st.db.Exec(ctx, "VACUUM (ANALYZE) usage_events"); err != nil {
				return nil, fmt.Errorf("vacuuming: %w", err)
			}
		}
		r, err := b.reportTimes(ctx, st, s, side.tail, side.reach)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// reportTimes asks for every report again and again.
func (b *bench) reportTimes(ctx context.Context, st *stand, s *server, tail string, reach time.Duration) (Result, error) {
	samples, err := b.reportSamples(ctx, st, s)
	if err != nil {
		return Result{}, err
	}
	worst, of := time.Duration(0), ""
	for path, got := range samples {
		if got.P95 > worst {
			worst, of = got.P95, path
		}
	}
	return Result{Name: "P9", What: fmt.Sprintf("any report over %d ledger rows of 12 months and a tail of %s (but for reconcile, which reads all)", b.o.BigLedger, tail), Against: "–",
		Reach: fmt.Sprintf("p95 < %d ms", reach.Milliseconds()), Samples: samples,
		Measured: fmt.Sprintf("p95 %s (%s, the slowest of %d)", short(worst), of, len(samples)), Value: worst.Seconds() * 1000, Reached: worst < reach}, nil
}

// reportSamples are the times of every report, by its path.
func (b *bench) reportSamples(ctx context.Context, st *stand, s *server) (map[string]sample, error) {
	key, err := usedKey(ctx, st)
	if err != nil {
		return nil, err
	}
	samples := map[string]sample{}
	for _, path := range reportPaths(key) {
		if samples[path], err = repeat(ctx, s.target, path, 10*b.o.Rounds); err != nil {
			return nil, err
		}
		b.sayf("P9  %s: p95 %s", path, short(samples[path].P95))
	}
	return samples, nil
}

// usedKey is the id of the first key that has a history.
func usedKey(ctx context.Context, st *stand) (string, error) {
	var id uuid.UUID
	err := st.db.Scan(ctx, "SELECT k.id FROM api_keys AS k JOIN key_counters AS c ON c.key_id = k.id WHERE c.requests > 0 ORDER BY k.id LIMIT 1", nil, &id)
	return id.String(), err
}

// feedRows records so many events by the statement, past the service.
func (b *bench) feedRows(ctx context.Context, st *stand, rows int) error {
	hot, err := db.OpenHot(ctx, st.url, 1, db.Patience)
	if err != nil {
		return err
	}
	defer hot.Close()
	a := b.acked(st)
	for done := 0; done < rows; done += perBatch {
		p := a.appendParams(st.population)
		if err := appendAll(ctx, hot, p); err != nil {
			return err
		}
		a.ids = append(a.ids, p.RequestIDs...)
	}
	return nil
}

// rollUp is P18: the roll-up of what comes in its interval, and of a long chunk.
func (b *bench) rollUp(ctx context.Context) (results []Result, err error) {
	st, err := b.stand(ctx)
	if err != nil {
		return nil, err
	}
	roll := rollup.New(st.db, "UTC")
	if _, err := roll.Roll(ctx); err != nil {
		return nil, err
	}
	for _, side := range []struct {
		what  string
		rows  int
		reach float64
	}{{"the roll-up, of what comes in its interval", b.o.Tail, 50_000}, {"the roll-up, of a long chunk", b.o.LongChunk, 100_000}} {
		rate, err := b.rollRate(ctx, st, roll, side.rows)
		if err != nil {
			return nil, err
		}
		results = append(results, Result{Name: "P18", What: fmt.Sprintf("%s, %d ledger rows of %d keys", side.what, side.rows, st.keys), Against: "–",
			Reach: fmt.Sprintf("≥ %.0f rows/s", side.reach), Measured: fmt.Sprintf("%.0f rows/s", rate), Value: rate, Reached: rate >= side.reach})
	}
	return results, nil
}

// rollRate records so many events and adds them to the rollups, as often as there are rounds,
// and returns the median of how many a second it added. The first round writes pages that no
// round has written since the checkpoint, and so pays the log for all of each.
func (b *bench) rollRate(ctx context.Context, st *stand, roll *rollup.Rollup, rows int) (float64, error) {
	var rates []float64
	for round := range b.o.Rounds {
		if err := b.feedRows(ctx, st, rows); err != nil {
			return 0, err
		}
		start := time.Now()
		added, err := roll.Roll(ctx)
		if err != nil {
			return 0, err
		}
		rates = append(rates, float64(added)/time.Since(start).Seconds())
		b.sayf("P18  round %d: %d rows, %.0f/s", round+1, added, rates[round])
	}
	return median(rates), nil
}

// reportPaths are the reports that P9 asks for: every kind, over all of the year, where it
// can be had from sums; what only the ledger has, over a week of a key's or a day of all.
func reportPaths(key string) []string {
	now := time.Now().UTC()
	year := "&from=" + now.AddDate(-1, 0, 1).Format(time.DateOnly)
	week, day := "&from="+now.AddDate(0, 0, -7).Format(time.DateOnly), "&from="+now.AddDate(0, 0, -1).Format(time.DateOnly)
	paths := []string{
		"/v1/keys/" + key + "/usage", "/v1/accounts/usage", "/v1/accounts/account-1/usage",
		"/v1/events?limit=50&keyId=" + key, "/v1/events?limit=50", "/v1/prices/unpriced",
		"/v1/reports/usage?granularity=day&groupBy=model,tag" + year, "/v1/reports/usage?granularity=day&groupBy=key,model,tag" + year,
		"/v1/reports/usage?granularity=month&groupBy=key&tag=team-3" + year, "/v1/reports/usage?granularity=total&groupBy=key&model=model-3" + year,
		"/v1/reports/usage?granularity=day&groupBy=model&keyId=" + key + year,
		"/v1/reports/usage?granularity=hour&keyId=" + key + week, "/v1/reports/usage?granularity=hour&groupBy=model,tag" + day, "/v1/reports/usage?granularity=day&groupBy=account&keyId=" + key + year,
	}
	for _, granularity := range []string{"day", "month", "total"} {
		for _, by := range []string{"", "key", "model", "account", "tag", "account,model"} {
			paths = append(paths, "/v1/reports/usage?granularity="+granularity+"&groupBy="+by+year)
		}
	}
	return paths
}

// stream asks for the largest report there is as CSV: a row for each key, day, model and
// tag of the year. Every row must come, and the service must not grow with it.
func (b *bench) stream(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.bigStand)
	if err != nil {
		return nil, err
	}
	var rows int64
	const each = "SELECT sum(cardinality(s.tags)) FROM usage_daily AS u JOIN tag_sets AS s ON s.id = u.tag_set WHERE u.requests > 0"
	if err := st.db.Scan(ctx, each, nil, &rows); err != nil {
		return nil, err
	}
	before, err := s.memory()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/reports/usage?format=csv&groupBy=key,model,tag&from="+time.Now().UTC().AddDate(-2, 0, 0).Format(time.DateOnly), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var size, lines int64
	for buffer := make([]byte, 1<<20); ; {
		n, err := resp.Body.Read(buffer)
		size, lines = size+int64(n), lines+int64(bytes.Count(buffer[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("after %d MB: %w", size>>20, err)
		}
	}
	took := time.Since(start)
	if lines != rows+1 {
		return nil, fmt.Errorf("the CSV has %d lines, and there are %d rows", lines, rows)
	}
	after, err := s.memory()
	if err != nil {
		return nil, err
	}
	return []Result{{Name: "CSV", What: "a report as CSV, a row for each key, day, model and tag", Against: "the service before it", Reach: "memory grows by < 64 MB", Value: float64((after - before) >> 20), Reached: after-before < 64<<20,
		Measured: fmt.Sprintf("%.2f GB, %d rows in %s; %d MB before, %d MB at most", float64(size)/1e9, rows, took.Round(time.Second), before>>20, after>>20)}}, nil
}

// memory is P10: the size of the service when it has used so many of its keys.
func (b *bench) memory(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.bigStand)
	if err != nil {
		return nil, err
	}
	hot := min(b.o.HotKeys, st.keys)
	if err := warm(ctx, s, hot); err != nil {
		return nil, err
	}
	var most int64
	for _, load := range []traffic{verification(hot), st.admissions(anyOf(hot)), b.acked(st).events(st.population, 1), verification(hot)} {
		if _, err := drive(ctx, s.target, load, b.o.Round, loadOptions{}); err != nil {
			return nil, err
		}
		size, err := s.memory()
		if err != nil {
			return nil, err
		}
		most = max(most, size)
	}
	return []Result{{Name: "P10", What: fmt.Sprintf("memory with %d keys, %d of them hot", st.keys, hot), Against: "–", Reach: "RSS < 300 MB",
		Measured: fmt.Sprintf("%d MB", most>>20), Value: float64(most >> 20), Reached: most < 300<<20}}, nil
}

// growth is P11.
func (b *bench) growth(ctx context.Context) ([]Result, error) {
	big, err := b.bigStand(ctx)
	if err != nil {
		return nil, err
	}
	small, err := b.standCalled(ctx, "bench_small", min(10_000, big.keys), 0)
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, what := range []string{"admission", "usage"} {
		var sides []side
		for _, st := range []*stand{big, small} {
			s, err := b.serve(ctx, st.url)
			if err != nil {
				return nil, err
			}
			load := b.acked(st).events(st.population, 1)
			if what == "admission" { // of the keys that are in use, as P10 has them
				hot := min(b.o.HotKeys, st.keys)
				load = st.admissions(anyOf(hot))
				if err := warm(ctx, s, hot); err != nil {
					return nil, err
				}
			}
			sides = append(sides, side{st.name, func(ctx context.Context, d time.Duration) (sample, error) {
				return drive(ctx, s.target, load, d, loadOptions{})
			}})
		}
		ratios, samples, err := b.pair(ctx, "P11", sides[0], sides[1])
		if err != nil {
			return nil, err
		}
		results = append(results, ratio("P11", fmt.Sprintf("%s with %d keys and %d ledger rows", what, big.keys, b.o.BigLedger),
			fmt.Sprintf("the same with %d keys, empty ledger", small.keys), .9, ratios, samples, big.name, small.name))
		b.stopServers()
	}
	return results, nil
}
