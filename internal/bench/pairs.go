package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// side is one of two that are compared.
type side struct {
	name string
	// run loads it for a time.
	run func(ctx context.Context, d time.Duration) (sample, error)
}

// pair runs two sides in rounds that alternate, the first of them to warm up, and
// returns the ratio of a's rate to b's in each, and the sample of each side whose rate
// is its median.
func (b *bench) pair(ctx context.Context, name string, a, against side) (ratios []float64, samples map[string]sample, err error) {
	all := map[string][]sample{}
	for round := range b.o.Rounds + 1 {
		d := b.o.Round
		if round == 0 {
			d = min(d, 2*time.Second)
		}
		order := []side{a, against}
		if round%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		got := map[string]sample{}
		for _, s := range order {
			if got[s.name], err = s.run(ctx, d); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		x, y := got[a.name], got[against.name]
		if round == 0 {
			continue
		}
		b.sayf("%s  round %d: %s %.0f/s, %s %.0f/s: %.2f", name, round, a.name, x.PerSec, against.name, y.PerSec, x.PerSec/y.PerSec)
		ratios = append(ratios, x.PerSec/y.PerSec)
		for side, s := range got {
			all[side] = append(all[side], s)
		}
	}
	samples = map[string]sample{}
	for side, of := range all {
		var rates []float64
		for _, s := range of {
			rates = append(rates, s.PerSec)
		}
		for _, s := range of {
			if s.PerSec == median(rates) {
				samples[side] = s
			}
		}
	}
	return ratios, samples, nil
}

// ratio is the result of a pair whose rates are compared.
func ratio(name, what, against string, reach float64, ratios []float64, samples map[string]sample, a, b string) Result {
	m := median(ratios)
	return Result{Name: name, What: what, Against: against, Reach: fmt.Sprintf("≥ %.2f×", reach), Value: m, Reached: m >= reach, Rounds: ratios, Samples: samples,
		Measured: fmt.Sprintf("%.2f× (%.0f/s against %.0f/s; p99 %s against %s)", m, samples[a].PerSec, samples[b].PerSec, short(samples[a].P99), short(samples[b].P99))}
}

func short(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// bareSide is the echo server with as many bytes in and out as a kind of traffic has.
func (b *bench) bareSide(ctx context.Context, what traffic, answer int, o loadOptions) (side, error) {
	s, err := b.bare(ctx)
	if err != nil {
		return side{}, err
	}
	same := traffic{path: "/?bytes=" + strconv.Itoa(answer), next: what.next, check: func(body []byte) error {
		if len(body) != answer {
			return fmt.Errorf("the bare server answered %d bytes, not %d", len(body), answer)
		}
		return nil
	}}
	return side{"bare", func(ctx context.Context, d time.Duration) (sample, error) {
		return drive(ctx, s.target, same, d, o)
	}}, nil
}

// against compares a service with the bare server on one kind of traffic.
func (b *bench) against(ctx context.Context, name string, s *server, what traffic, o loadOptions) ([]float64, map[string]sample, error) {
	var size atomic.Int64
	measured := what
	measured.check = func(body []byte) error {
		size.Store(int64(len(body)))
		return what.check(body)
	}
	service := func(ctx context.Context, d time.Duration) (sample, error) {
		return drive(ctx, s.target, measured, d, o)
	}
	if _, err := service(ctx, 2*time.Second); err != nil {
		return nil, nil, err
	}
	bare, err := b.bareSide(ctx, what, int(size.Load()), o)
	if err != nil {
		return nil, nil, err
	}
	return b.pair(ctx, name, side{"service", service}, bare)
}

// verifyKeys is how many keys P1 uses: all are in memory after a moment.
const verifyKeys = 10_000

func verification(keys int) traffic {
	return traffic{path: "/v1/keys/verify",
		next: func(uint64) []byte { return fmt.Appendf(nil, `{"apiKey":%q}`, secretOf(rand.IntN(keys))) }, //nolint:gosec // a choice, not a secret
		check: func(body []byte) error {
			if !bytes.Contains(body, []byte(`"valid":true`)) {
				return fmt.Errorf("a valid key was answered with %s", body)
			}
			return nil
		}}
}

// verify is P1.
func (b *bench) verify(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.stand)
	if err != nil {
		return nil, err
	}
	keys := min(verifyKeys, st.keys)
	if err := warm(ctx, s, keys); err != nil {
		return nil, err
	}
	ratios, samples, err := b.against(ctx, "P1", s, prepared(verification(keys)), loadOptions{})
	if err != nil {
		return nil, err
	}
	r := ratio("P1", "verify, from memory", "bare echo handler, same bytes in and out", .85, ratios, samples, "service", "bare")
	r.Reach += ", p99 ≤ 2×"
	r.Reached = r.Reached && samples["service"].P99 <= 2*samples["bare"].P99
	return []Result{r}, nil
}

// prepared makes bodies ahead, so that making them is no part of the load.
func prepared(what traffic) traffic {
	const many = 1 << 14
	bodies := make([][]byte, many)
	for i := range bodies {
		bodies[i] = what.next(uint64(i))
	}
	what.next = func(n uint64) []byte { return bodies[n%many] }
	return what
}

// warm has every one of so many keys verified once.
func warm(ctx context.Context, s *server, keys int) error {
	what := verification(keys)
	what.next = func(n uint64) []byte { return fmt.Appendf(nil, `{"apiKey":%q}`, secretOf(int(n)%keys)) } //nolint:gosec // small
	for done := int64(0); done < int64(keys); {
		got, err := drive(ctx, s.target, what, time.Second, loadOptions{})
		if err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		done += got.Requests
		next := done
		what.next = func(n uint64) []byte { return fmt.Appendf(nil, `{"apiKey":%q}`, secretOf((int(next)+int(n))%keys)) } //nolint:gosec // small
	}
	return nil
}

// admissions is traffic of admissions of keys that pick chooses. What earlier loads
// admitted is gone, so that every load finds the same; and every answer has its row.
func (st *stand) admissions(pick func() int) traffic {
	return traffic{path: "/v1/admissions",
		next: func(uint64) []byte {
			return fmt.Appendf(nil, `{"apiKey":%q,"model":"claude-sonnet-4-20250514","service":"claude","leaseSeconds":5}`, secretOf(pick()))
		},
		check: func(body []byte) error {
			if !bytes.Contains(body, []byte(`"allowed":true`)) || !bytes.Contains(body, []byte(`"admissionId":"`)) {
				return fmt.Errorf("an admission within all limits was answered with %s", body)
			}
			return nil
		},
		before: func(ctx context.Context) error { return st.db.Exec(ctx, "TRUNCATE admissions") },
		after: func(ctx context.Context, right int64) error {
			var rows int64
			if err := st.db.Scan(ctx, "SELECT count(*) FROM admissions", nil, &rows); err != nil {
				return err
			}
			if rows != right {
				return fmt.Errorf("%d admissions were answered, and %d are in the database", right, rows)
			}
			return nil
		}}
}

func anyOf(keys int) func() int { return func() int { return rand.IntN(keys) } } //nolint:gosec // a choice, not a secret

// admission is P2, in both shapes.
func (b *bench) admission(ctx context.Context) ([]Result, error) {
	return b.shapes(ctx, "P2", "admission", .40, .30, func(st *stand) traffic { return st.admissions(st.population.anyKey) })
}

// shapes compares the service with the bare server on the even and on the real shape.
func (b *bench) shapes(ctx context.Context, name, what string, even, zipf float64, load func(*stand) traffic) (results []Result, err error) {
	for _, shape := range []struct {
		stand   func(context.Context) (*stand, error)
		clients int
		reach   float64
	}{{b.stand, clients, even}, {b.realStand, realClients, zipf}} {
		st, s, err := b.serving(ctx, shape.stand)
		if err != nil {
			return nil, err
		}
		if err := warm(ctx, s, st.keys); err != nil { // as keys that are in use are
			return nil, err
		}
		ratios, samples, err := b.against(ctx, name, s, load(st), loadOptions{clients: shape.clients})
		if err != nil {
			return nil, err
		}
		results = append(results, ratio(name, what+", "+st.population.String(), "bare echo handler", shape.reach, ratios, samples, "service", "bare"))
		b.stopServers()
	}
	return results, nil
}

// oneByOne makes the service commit each request alone, on as many connections as a
// usual pool has.
var oneByOne = []string{"KEYLEDGER_MAX_BATCH=1", "KEYLEDGER_WRITERS=10"}

// admissionGroups is P3.
func (b *bench) admissionGroups(ctx context.Context) ([]Result, error) {
	st, err := b.stand(ctx)
	if err != nil {
		return nil, err
	}
	return b.groups(ctx, "P3", fmt.Sprintf("admission, %d keys", st.keys), 5, st, st.keys, st.admissions(anyOf(st.keys)))
}

// hotKey is the key of P4: one that has every limit there is.
const hotKey = 7

// heldLeases is how many leases the hot key of P4 holds from the start.
const heldLeases = 60_000

// oneHotKey is P4: one key with every limit, beside what the load itself takes with and
// without leases that live through all of it.
func (b *bench) oneHotKey(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.stand)
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, s, hotKey+1); err != nil {
		return nil, err
	}
	load := st.admissions(func() int { return hotKey })
	held, after := load, load.after
	held.before = func(ctx context.Context) error {
		if err := load.before(ctx); err != nil {
			return err
		}
		const hold = `INSERT INTO admissions (id, key_id, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
			SELECT gen_random_uuid(), $1, now(), now() + interval '1 hour', now() + interval '1 hour', 0, 0 FROM generate_series(1, $2::integer)`
		return st.db.Exec(ctx, hold, idOf(hotKey), heldLeases)
	}
	held.after = func(ctx context.Context, right int64) error { return after(ctx, right+heldLeases) }
	run := func(what traffic) func(context.Context, time.Duration) (sample, error) {
		return func(ctx context.Context, d time.Duration) (sample, error) {
			return drive(ctx, s.target, what, d, loadOptions{})
		}
	}
	ratios, samples, err := b.pair(ctx, "P4", side{"with leases", run(held)}, side{"without", run(load)})
	if err != nil {
		return nil, err
	}
	return []Result{ratio("P4", fmt.Sprintf("admission, one hot key with every limit, %d live leases", heldLeases), "the same key without them", .8, ratios, samples, "with leases", "without")}, nil
}

// groups compares group commit with one transaction a request, on traffic of so many
// keys.
func (b *bench) groups(ctx context.Context, name, what string, reach float64, st *stand, keys int, load traffic) ([]Result, error) {
	sides := map[string]side{}
	for label, env := range map[string][]string{"groups": nil, "one by one": oneByOne} {
		s, err := b.serve(ctx, st.url, env...)
		if err != nil {
			return nil, err
		}
		if err := warm(ctx, s, keys); err != nil {
			return nil, err
		}
		sides[label] = side{label, func(ctx context.Context, d time.Duration) (sample, error) {
			return drive(ctx, s.target, load, d, loadOptions{})
		}}
	}
	ratios, samples, err := b.pair(ctx, name, sides["groups"], sides["one by one"])
	if err != nil {
		return nil, err
	}
	return []Result{ratio(name, what, "same function, one transaction per request", reach, ratios, samples, "groups", "one by one")}, nil
}

// acknowledged are the request ids of events that clients were told are recorded.
type acknowledged struct {
	mu     sync.Mutex
	ids    []string
	serial atomic.Int64
}

func (b *bench) acked(s *stand) *acknowledged {
	if b.acks[s] == nil {
		b.acks[s] = &acknowledged{}
	}
	return b.acks[s]
}

// add takes the ids out of an answer and says what is wrong with it.
func (a *acknowledged) add(body []byte, events int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := string(body)
	if n := strings.Count(rest, `"status":"recorded"`); n != events {
		return fmt.Errorf("%d of %d new events were recorded: %.500s", n, events, body)
	}
	for range events {
		_, after, ok := strings.Cut(rest, `"requestId":"`)
		id, tail, ended := strings.Cut(after, `"`)
		if !ok || !ended {
			return fmt.Errorf("an answer without its request id: %.500s", body)
		}
		a.ids, rest = append(a.ids, id), tail
	}
	return nil
}

// eventText is the next usage event as a relay sends it.
func (a *acknowledged) eventText(into []byte, of population) []byte {
	return of.event(into, a.serial.Add(1))
}

// events is traffic of usage, so many events a request.
func (a *acknowledged) events(of population, each int) traffic {
	return traffic{path: "/v1/usage",
		next: func(uint64) []byte {
			if each == 1 {
				return a.eventText(nil, of)
			}
			body := []byte(`{"events":[`)
			for i := range each {
				if i > 0 {
					body = append(body, ',')
				}
				body = a.eventText(body, of)
			}
			return append(body, "]}"...)
		},
		check: func(body []byte) error { return a.add(body, each) }}
}

// usage is P5, in both shapes.
func (b *bench) usage(ctx context.Context) ([]Result, error) {
	return b.shapes(ctx, "P5", "usage, one event a request, durable", .40, .35, func(st *stand) traffic { return b.acked(st).events(st.population, 1) })
}
