package report_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/rollup"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/usage"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var ctx = context.Background()

const zone = "Asia/Kathmandu" // midnights at a quarter to the hour

// books are a database with the means to write in it.
type books struct {
	*report.Reports

	t      *testing.T
	db     *db.DB
	rollup *rollup.Rollup
	record *usage.Recorder
	keeper *keys.Store
	keys   []uuid.UUID
	events []uuid.UUID
	rand   *rand.Rand
}

func newBooks(t *testing.T) *books {
	t.Helper()
	d := pgtest.New(t)
	pgtest.Exec(t, d, "INSERT INTO service_settings (name, value) VALUES ('timezone', $1)", zone)
	pgtest.Exec(t, d, "SELECT make_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 12, (now() AT TIME ZONE 'UTC')::date + 1)")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &books{t: t, db: d, Reports: report.New(d, zone).Piecemeal(2, 3, 1), rollup: rollup.New(d, zone),
		record: usage.New(usage.Options{Fast: d, Patient: d, Prices: price.New(d, cache.Deaf), Timezone: zone, Writers: coalesce.NewWriters(1)}),
		keeper: keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher(), Rules: key.Rules{}}), rand: rand.New(rand.NewPCG(seed, 1))}
}

var tagSets = [][]string{{}, {"a"}, {"b"}, {"a", "b"}, {"a", "b", "c"}}

// step does one of what changes a report.
func (b *books) step() {
	t, d, r := b.t, b.db, b.rand
	switch what := r.IntN(20); {
	case what == 0 || len(b.keys) == 0:
		id, _ := pgtest.Key(t, d, pgtest.KeyRow{Fields: key.Columns{"tags": tagSets[r.IntN(len(tagSets))]}})
		b.keys = append(b.keys, id)
	case what == 1:
		pgtest.Exec(t, d, "UPDATE api_keys SET tags = $1 WHERE id = ANY($2)", tagSets[r.IntN(len(tagSets))], b.keys[r.IntN(len(b.keys)):])
	case what == 2 && len(b.keys) > 3:
		i := r.IntN(len(b.keys))
		if err := b.keeper.Purge(ctx, db.Actor{Name: "test"}, b.keys[i]); err != nil {
			t.Fatal(err)
		}
		b.keys = slices.Delete(b.keys, i, i+1)
	case what == 3 && len(b.events) > 0:
		i := r.IntN(len(b.events))
		if _, err := b.record.Void(ctx, db.Actor{Name: "test"}, b.events[i], "test"); err != nil {
			t.Fatal(err)
		}
		b.events = slices.Delete(b.events, i, i+1)
	case what == 4:
		if _, err := b.rollup.Step(ctx); err != nil {
			t.Fatal(err)
		}
	case what == 5:
		pgtest.Age(t, d)
		pgtest.Archive(t, d)
	default:
		b.use(r.IntN(20) + 1)
	}
}

// use records events of the last ten days.
func (b *books) use(n int) {
	var events []usage.Event
	for range n {
		events = append(events, usage.Event{
			KeyID: b.keys[b.rand.IntN(len(b.keys))], AccountID: []string{"", "x", "y"}[b.rand.IntN(3)], Model: []string{"m", "n"}[b.rand.IntN(2)],
			OccurredAt: time.Now().Add(-time.Duration(b.rand.IntN(10*24*60)) * time.Minute),
			Counts:     usage.Counts{Input: b.rand.Int64N(100), Output: b.rand.Int64N(100), CacheCreate: 3, CacheRead: 2, Ephemeral1h: 1},
		})
	}
	results, err := b.record.Record(ctx, events)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range results {
		b.events = append(b.events, r.EventID)
	}
}

// sum is a row, written as text, and what it counts.
type sum struct {
	requests, tokens int64
	cost             decimal.Decimal
}

func (s sum) plus(row db.ReportRow) sum {
	return sum{s.requests + row.Requests, s.tokens + row.InputTokens + 7*row.OutputTokens + 11*row.CacheCreateTokens + 13*row.CacheReadTokens + 19*row.Ephemeral1hTokens, s.cost.Add(row.Cost)}
}

func (s sum) String() string { return fmt.Sprintf("%d/%d/%s", s.requests, s.tokens, s.cost) }

// want is the report as the ledger has it, row by row in Go.
func (b *books) want(q report.Query) (rows map[report.Place]sum, total sum) {
	rows = map[report.Place]sum{}
	local, err := time.LoadLocation(zone)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, text := range pgtest.Scan[[]string](b.t, b.db, `SELECT coalesce(array_agg(concat_ws(';', l.key_id, coalesce(e.account_id, ''), e.model, floor(extract(epoch FROM e.occurred_at))::bigint, coalesce(array_to_string(s.tags, ','), ''),
			e.requests, e.input_tokens, e.output_tokens, e.cache_create_tokens, e.cache_read_tokens, e.ephemeral_1h_tokens)), '{}')
			FROM ledger AS e JOIN ledger_keys AS l ON l.ledger_id = e.ledger_id LEFT JOIN tag_sets AS s ON s.id = e.tag_set`) {
		part := strings.Split(text, ";")
		var seconds int64
		var row db.ReportRow
		fmt.Sscan(part[3], &seconds)
		for i, into := range []*int64{&row.Requests, &row.InputTokens, &row.OutputTokens, &row.CacheCreateTokens, &row.CacheReadTokens, &row.Ephemeral1hTokens} {
			fmt.Sscan(part[5+i], into)
		}
		at := time.Unix(seconds, 0).In(local)
		day := time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC)
		id, tags := uuid.MustParse(part[0]), strings.Split(part[4], ",")
		if day.Before(q.From) || day.After(q.To) || q.KeyID != uuid.Nil && id != q.KeyID || q.Model != "" && part[2] != q.Model ||
			q.AccountID != "" && part[1] != q.AccountID || q.Tag != "" && !slices.Contains(tags, q.Tag) {
			continue
		}
		total = total.plus(row)
		place := report.Place{}
		switch q.Granularity {
		case report.Hour:
			place.Period = time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), 0, 0, 0, local).UTC().Format(time.RFC3339)
		case report.Day:
			place.Period = day.Format(time.DateOnly)
		case report.Month:
			place.Period = day.Format("2006-01")
		}
		if q.By.Key {
			place.KeyID = id
		}
		if q.By.Model {
			place.Model = part[2]
		}
		if q.By.Account {
			place.AccountID = part[1]
		}
		if !q.By.Tag {
			tags = []string{""}
		}
		for _, tag := range tags {
			if place.Tag = tag; q.Tag == "" || !q.By.Tag || tag == q.Tag {
				rows[place] = rows[place].plus(row)
			}
		}
	}
	maps.DeleteFunc(rows, func(_ report.Place, s sum) bool { return s.requests == 0 && s.tokens == 0 })
	return rows, total
}

// got is the report as it is made, page by page.
func (b *books) got(q report.Query) (rows map[report.Place]sum, total sum) {
	rows = map[report.Place]sum{}
	var last *report.Place
	for {
		n := 0
		q.After = last
		if err := b.Usage(ctx, q, func(time.Time) {}, func(row db.ReportRow) error {
			n++
			place := report.PlaceOf(row)
			if last != nil && slices.Compare(parts(*last), parts(place)) >= 0 {
				b.t.Errorf("%v after %v", place, *last)
			}
			if _, twice := rows[place]; twice {
				b.t.Errorf("%v twice", place)
			}
			last, rows[place] = &place, sum{}.plus(row)
			return nil
		}); err != nil {
			b.t.Fatal(err)
		}
		if n < q.Limit || q.Limit == 0 {
			break
		}
	}
	q.After, q.Limit = nil, 1
	totals, _, err := b.Page(ctx, q, func(db.ReportRow) error { return nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return rows, sum{}.plus(totals)
}

func parts(p report.Place) []string {
	return []string{p.KeyID.String(), p.Period, p.Model, p.AccountID, p.Tag}
}

// randomQuery is any report of the days that there are.
func (b *books) randomQuery() report.Query {
	r := b.rand
	today := pgtest.Scan[time.Time](b.t, b.db, "SELECT (now() AT TIME ZONE $1)::date", zone)
	q := report.Query{From: today.AddDate(0, 0, -11+r.IntN(8)), Granularity: report.Granularities[r.IntN(4)], Limit: []int{0, 1, 3, 1000}[r.IntN(4)],
		By: report.By{Key: r.IntN(2) == 0, Model: r.IntN(2) == 0, Account: r.IntN(3) == 0, Tag: r.IntN(2) == 0}}
	q.To = q.From.AddDate(0, 0, r.IntN(12))
	if r.IntN(4) == 0 {
		q.KeyID = b.keys[r.IntN(len(b.keys))]
	}
	if r.IntN(4) == 0 {
		q.Model = "n"
	}
	if r.IntN(6) == 0 {
		q.AccountID = "x"
	}
	if r.IntN(4) == 0 {
		q.Tag = []string{"a", "b", "c", "none has it"}[r.IntN(4)]
	}
	return q
}

// differing are up to five rows that are not as they should be.
func differing(got, want map[report.Place]sum) (text string) {
	n := 0
	for _, all := range []map[report.Place]sum{got, want} {
		for place := range all {
			if n < 5 && got[place].String() != want[place].String() {
				n++
				text += fmt.Sprintf("\n%v is %s, want %s", place, got[place], want[place])
			}
		}
	}
	return text
}

// Guarantee: whatever is recorded late or now, taken back, given other tags or purged,
// and however far the roll-up has come in between, every report is what adding the ledger up row
// by row gives, in pages of any size, each row once and in order; a key's usage counts
// under each of the tags that it had then, and once in the totals; and every sum reconciles.
func TestReportsAreTheLedger(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for range 8 {
		for range 20 {
			b.step()
		}
		for range 20 {
			q := b.randomQuery()
			rows, total := b.got(q)
			wantRows, wantTotal := b.want(q)
			if !maps.EqualFunc(rows, wantRows, func(x, y sum) bool { return x.String() == y.String() }) || total.String() != wantTotal.String() {
				t.Fatalf("%+v: in all %s, want %s%s", q, total, wantTotal, differing(rows, wantRows))
			}
		}
		found, err := b.Reconcile(ctx, time.Now().AddDate(0, 0, -20), time.Now())
		if err != nil || len(found.Differences) > 0 {
			t.Fatalf("%v, %+v", err, found.Differences)
		}
	}
	if n := pgtest.Scan[int](t, b.db, "SELECT count(*) FROM tag_usage"); n == 0 {
		t.Error("nothing was rolled up, so nothing was tested")
	}
}

// Guarantee: a page by key reads the rows of little more than the keys that are on it, however many there
// are. The last key's rows have a sum that no bigint holds, so whoever reads them fails.
func TestPageReadsNoFurther(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for range 6 {
		id, _ := pgtest.Key(t, b.db, pgtest.KeyRow{})
		b.keys = append(b.keys, id)
	}
	today := pgtest.Scan[time.Time](t, b.db, "SELECT (now() AT TIME ZONE $1)::date", zone)
	pgtest.Exec(t, b.db, `INSERT INTO usage_daily
		SELECT k.ledger_id, $1::date, 'm', CAST('00000000-0000-0000-0000-00000000000' || s AS uuid), 1,
		       CASE WHEN k.id = (SELECT x.id FROM api_keys AS x ORDER BY x.id DESC LIMIT 1) THEN 9223372036854775807 ELSE 1 END,
		       0, 0, 0, 0, 0
		  FROM api_keys AS k, generate_series(0, 1) AS s`, today)
	for _, granularity := range []string{report.Day, report.Month, report.Total} {
		q := report.Query{From: today, To: today, Granularity: granularity}
		for _, by := range []report.By{{Key: true}, {Key: true, Model: true}} {
			q.By = by
			for q.Limit = range 4 {
				n := 0
				err := b.Usage(ctx, q, func(time.Time) {}, func(db.ReportRow) error { n++; return nil })
				if whole := q.Limit == 0; whole != (err != nil) || !whole && n != q.Limit {
					t.Errorf("%s by %+v, %d rows of %d: %v", granularity, by, n, q.Limit, err)
				}
			}
		}
	}
}

// Guarantee: usage that is rolled up while it is recorded, by many at once, on two replicas,
// is neither lost nor counted twice; at every moment reports say what was acknowledged.
func TestRollUnderLoad(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for range 8 {
		id, _ := pgtest.Key(t, b.db, pgtest.KeyRow{Fields: key.Columns{"tags": []string{"a", "b"}}})
		b.keys = append(b.keys, id)
	}
	const writers, each = 4, 40
	var acknowledged atomic.Int64
	var all, rolling sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				at := time.Now().Add(-time.Duration((w*each+i)%96) * time.Hour)
				if _, err := b.record.Record(ctx, []usage.Event{{KeyID: b.keys[i%8], Model: "m", OccurredAt: at, Counts: usage.Counts{Input: 1}}}); err != nil {
					t.Error(err)
				}
				acknowledged.Add(1)
			}
		})
	}
	ended := make(chan struct{})
	for range 2 {
		rolling.Go(func() {
			for i := 0; ; i++ {
				if _, err := rollup.New(b.db, zone).Step(ctx); err != nil {
					t.Error(err)
				}
				pgtest.Exec(t, b.db, "UPDATE api_keys SET tags = $1 WHERE id = $2", tagSets[i%len(tagSets)], b.keys[i%8])
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	q := report.Query{From: time.Now().AddDate(0, 0, -30), To: time.Now().AddDate(0, 0, 2), Granularity: report.Day, By: report.By{Tag: true}}
	for range 20 {
		before := acknowledged.Load()
		if _, total := b.got(report.Query{From: q.From, To: q.To, Granularity: report.Total}); total.requests < before {
			t.Errorf("%d requests are reported after %d were acknowledged", total.requests, before)
		}
		found, err := b.Reconcile(ctx, q.From, q.To)
		if err != nil || len(found.Differences) > 0 {
			t.Fatalf("%v, %+v", err, found.Differences)
		}
	}
	all.Wait()
	close(ended)
	rolling.Wait()
	for range 2 {
		rows, total := b.got(q)
		wantRows, wantTotal := b.want(q)
		if total.requests != writers*each || total.String() != wantTotal.String() || !maps.EqualFunc(rows, wantRows, func(x, y sum) bool { return x.String() == y.String() }) {
			t.Errorf("in all %s, want %s%s", total, wantTotal, differing(rows, wantRows))
		}
		if _, err := b.rollup.Roll(ctx); err != nil {
			t.Error(err)
		}
	}
}

// Guarantee: what cannot be answered is refused with the field and the reason.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	pgtest.Exec(t, b.db, "SELECT drop_ledger_partitions((now() AT TIME ZONE 'UTC')::date - 7)")
	now := time.Now()
	for field, q := range map[string]report.Query{
		"granularity": {From: now, To: now, Granularity: "week"},
		"from":        {From: now, To: now.AddDate(0, 0, -1), Granularity: report.Day},
		"from ":       {From: now.AddDate(0, 0, -40), To: now, Granularity: report.Hour},
		"from  ":      {From: now.AddDate(0, 0, -40), To: now, Granularity: report.Total, By: report.By{Key: true, Account: true}},
	} {
		err := b.Usage(ctx, q, func(time.Time) {}, func(db.ReportRow) error { return nil })
		if f := db.Fault(err); f.Code != fault.Invalid || f.Fields[0].Field != strings.TrimSpace(field) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
