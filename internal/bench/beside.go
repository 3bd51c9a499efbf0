package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/scaleout"
)

// The databases of a bench of a given server.
const (
	givenName = "given"
	plainName = "plain"
)

// beside measures a server that somebody has brought, which is scaled out if it has Citus, and a plain
// PostgreSQL of the bench's own, side by side: what a request waits for, the roll-up, and every
// report.
func (b *bench) beside(ctx context.Context) ([]Result, error) {
	given, err := b.fillGiven(ctx)
	if err != nil {
		return nil, fmt.Errorf("the given database: %w", err)
	}
	plain, err := b.standCalled(ctx, plainName, b.o.BigKeys, b.o.BigLedger)
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, measure := range []func(context.Context, *stand, *stand) ([]Result, error){b.usageBeside, b.rollUpBeside, b.reportsBeside} {
		more, err := measure(ctx, given, plain)
		b.stopServers()
		if err != nil {
			return nil, err
		}
		results = append(results, more...)
	}
	return results, nil
}

// fillGiven fills the given database, which must be empty, and scales it out.
func (b *bench) fillGiven(ctx context.Context) (*stand, error) {
	d, err := db.Open(ctx, b.o.URL, 2)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var used bool
	if err := d.Scan(ctx, "SELECT to_regclass('usage_daily') IS NOT NULL", nil, &used); err != nil {
		return nil, err
	}
	if used {
		return nil, errors.New("it has keyledger's tables already: give an empty one, which the bench fills and leaves as it is")
	}
	st, err := b.fillAt(ctx, givenName, b.o.URL, b.o.BigKeys, b.o.BigLedger)
	if err != nil {
		return nil, err
	}
	password, err := db.Password(b.o.URL)
	if err != nil {
		return nil, err
	}
	err = scaleout.New(d, scaleout.Options{Password: password}).Apply(ctx, func(step scaleout.Step, took time.Duration) {
		b.sayf("scale-out: %s, in %s", step.Name, took.Round(time.Millisecond))
	})
	if errors.Is(err, scaleout.ErrNoCitus) {
		b.sayf("it has no Citus: it is measured as it is")
		err = nil
	}
	return st, err
}

// usageBeside is P5 of both, without the bar, which is that of one PostgreSQL against its own statement.
func (b *bench) usageBeside(ctx context.Context, given, plain *stand) ([]Result, error) {
	var sides []side
	for _, st := range []*stand{given, plain} {
		s, err := b.serve(ctx, st.url)
		if err != nil {
			return nil, err
		}
		load := b.acked(st).events(st.population, 1)
		sides = append(sides, side{st.name, func(ctx context.Context, d time.Duration) (sample, error) {
			return drive(ctx, s.target, load, d, loadOptions{})
		}})
	}
	ratios, samples, err := b.pair(ctx, "P5", sides[0], sides[1])
	if err != nil {
		return nil, err
	}
	const same = .9 // nothing that a request waits for is elsewhere
	return []Result{ratio("P5", fmt.Sprintf("usage, one event a request, durable, %d keys", given.keys), "a plain PostgreSQL beside it", same, ratios, samples, givenName, plainName)}, nil
}

// rollUpBeside is P18 of both.
func (b *bench) rollUpBeside(ctx context.Context, given, plain *stand) (results []Result, err error) {
	for _, rows := range []int{b.o.Tail, b.o.LongChunk} {
		rates := map[string]float64{}
		for _, st := range []*stand{given, plain} {
			roll := rollup.New(st.db, "UTC")
			if _, err := roll.Roll(ctx); err != nil {
				return nil, err
			}
			if rates[st.name], err = b.rollRate(ctx, st, roll, rows); err != nil {
				return nil, err
			}
		}
		results = append(results, Result{Name: "P18", What: fmt.Sprintf("the roll-up, of %d ledger rows of %d keys", rows, given.keys), Against: "a plain PostgreSQL beside it", Reach: "–", Reached: true,
			Measured: fmt.Sprintf("%.2f× (%.0f rows/s against %.0f)", rates[givenName]/rates[plainName], rates[givenName], rates[plainName]), Value: rates[givenName]})
	}
	return results, nil
}

// reportsBeside is P9 of both, a line for each report.
func (b *bench) reportsBeside(ctx context.Context, given, plain *stand) (results []Result, err error) {
	all := map[string]map[string]sample{}
	for _, st := range []*stand{given, plain} {
		s, err := b.serve(ctx, st.url, "KEYLEDGER_ROLLUP_INTERVAL=24h")
		if err != nil {
			return nil, err
		}
		if all[st.name], err = b.reportSamples(ctx, st, s); err != nil {
			return nil, err
		}
	}
	key, err := usedKey(ctx, given)
	if err != nil {
		return nil, err
	}
	for _, path := range reportPaths(key) {
		a, p := all[givenName][path], all[plainName][path]
		results = append(results, Result{Name: "P9", What: path, Against: "a plain PostgreSQL beside it", Reach: "–", Reached: true,
			Measured: fmt.Sprintf("p95 %s against %s", short(a.P95), short(p.P95)), Value: a.P95.Seconds() * 1000})
	}
	return results, nil
}
