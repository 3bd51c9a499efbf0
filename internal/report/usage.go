package report

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// What rows of a usage report are for.
const (
	Hour  = "hour" // from the ledger, as far back as that reaches
	Day   = "day"
	Month = "month"
	Total = "total"
)

// Granularities are those that a report may have.
var Granularities = []string{Hour, Day, Month, Total}

// By is what a report is grouped by beside its periods.
type By struct{ Key, Model, Account, Tag bool }

// Query is a usage report to be made.
type Query struct {
	From, To    time.Time // days, both included, as midnights in UTC
	Granularity string
	By          By
	KeyID       uuid.UUID // zero: all
	Model       string    // normalised; empty: all
	AccountID   string    // empty: all
	Tag         string    // empty: all
	After       *Place    // the last row of the page before; nil: from the start
	Limit       int       // rows; 0: all of them

	totals bool // a row of them comes first
}

// Place is a row's place in the order of a report.
type Place struct {
	KeyID                         uuid.UUID
	Period, Model, AccountID, Tag string
}

// PlaceOf is the place of a row.
func PlaceOf(row db.ReportRow) Place {
	return Place{row.KeyID, row.Period, row.Model, row.AccountID, row.Tag}
}

// Overlaps tells whether rows may add up to more than the totals: a key with two tags
// counts under both.
func (q Query) Overlaps() bool { return q.By.Tag }

// Usage hands on the rows of a report in order, as they come from the database: by key,
// then period, model, account and tag, of those it is grouped by.
// What is not grouped by is empty; so are accounts that usage does not name, and tags of
// keys without any. Days, months and totals come from rollups, for ever; hours, and
// accounts together with keys or tags, from the ledger: then From must not be before
// what it still holds whole, else the fault Invalid names it. begin is called before the first
// row, with the instant that all of them are as of.
func (r *Reports) Usage(ctx context.Context, q Query, begin func(asOf time.Time), each func(db.ReportRow) error) error {
	return r.read(ctx, q, func(from *db.Reader, asOf time.Time) error {
		begin(asOf)
		return r.rows(ctx, from, q, each)
	})
}

// Page is Usage that also returns the sums of all that the report covers, each request
// counted once, and the instant that they are as of. Rows and sums are of one snapshot, and
// mostly of one statement, so that the tail of the ledger is read once.
func (r *Reports) Page(ctx context.Context, q Query, each func(db.ReportRow) error) (sums db.ReportRow, asOf time.Time, err error) {
	err = r.read(ctx, q, func(from *db.Reader, at time.Time) error {
		asOf = at
		q.totals = !q.byKeys()
		if err := r.rows(ctx, from, q, func(row db.ReportRow) error {
			if row.IsTotal {
				sums = row
				return nil
			}
			return each(row)
		}); err != nil || q.totals {
			return err
		}
		// Rows of keys are read for those of the page alone.
		all := q
		all.By, all.Granularity, all.After, all.Limit = By{}, Total, nil, 0
		return r.rows(ctx, from, all, func(row db.ReportRow) error {
			sums = row
			return nil
		})
	})
	return sums, asOf, err
}

// read runs fn on one snapshot, for a report that the ledger reaches back far enough for.
func (r *Reports) read(ctx context.Context, q Query, fn func(from *db.Reader, asOf time.Time) error) error {
	if err := q.check(); err != nil {
		return err
	}
	err := r.snapshot(ctx, func(from *db.Reader, asOf time.Time) error {
		if err := r.reaches(ctx, from.Queries, q); err != nil {
			return err
		}
		return fn(from, asOf)
	})
	if err != nil {
		return fmt.Errorf("reporting usage: %w", err)
	}
	return r.reaches(ctx, r.db.Queries, q) // retention may have taken the first day meanwhile
}

// snapshot runs fn on one snapshot, and tells it the instant that this is as of. Where the standby
// fails before it has handed on a row, fn runs again on one of the primary.
func (r *Reports) snapshot(ctx context.Context, fn func(from *db.Reader, asOf time.Time) error) error {
	source, behind := r.source()
	err := snapshotOf(ctx, source, behind, fn)
	if err != nil && source != r.db && !db.Late(err) {
		return snapshotOf(ctx, r.db, 0, fn)
	}
	return err
}

func snapshotOf(ctx context.Context, source *db.DB, behind time.Duration, fn func(from *db.Reader, asOf time.Time) error) error {
	return source.Snapshot(ctx, func(from *db.Reader) error {
		now, err := from.Now(ctx)
		if err != nil {
			return err
		}
		return fn(from, now.Add(-behind))
	})
}

func (q Query) check() error {
	switch {
	case !slices.Contains(Granularities, q.Granularity):
		return fault.Fields(field.Error{Field: "granularity", Message: "must be hour, day, month or total"})
	case q.From.After(q.To):
		return fault.Fields(field.Error{Field: "from", Message: "must not be after to"})
	}
	return nil
}

const (
	// A report by key reads fewKeys keys at once: a worker of Citus that is asked for more looks through all
	// of its rows. Who has read very many is given more at once, so that it comes to an end.
	fewKeys = 64
	// Of those it adds up and sorts fewRows days, months or totals at once: nobody is sent a row meanwhile.
	fewRows = 2048

	tagDays  = 31   // of which a page by tag reads rows at first
	mostSets = 1000 // of a tag, that a statement is given
)

// rows hands on the rows of a report.
func (r *Reports) rows(ctx context.Context, from *db.Reader, q Query, each func(db.ReportRow) error) error {
	switch {
	case q.byKeys():
		return r.keyRows(ctx, from, q, each)
	case q.daysOfTags():
		return r.tagRows(ctx, from, q, each)
	}
	return db.Stream(ctx, from, r.statement(ctx, q, q.From, q.To), func(row db.ReportRow) error {
		if !q.By.Key {
			row.KeyID, row.KeyName = uuid.Nil, ""
		}
		return each(row)
	})
}

// daysOfTags tells whether it is a page of days by tag, of which a year has more rows than any other report
// from rollups.
func (q Query) daysOfTags() bool {
	return !q.needsLedger() && q.Granularity == Day && q.By.Tag && q.Tag == "" && q.Limit > 0
}

// tagRows hands on a page of days by tag, from the first days that have rows if these are enough.
func (r *Reports) tagRows(ctx context.Context, from *db.Reader, q Query, each func(db.ReportRow) error) error {
	first := q.From
	var rolled time.Time // the first day that the rollups have rows of
	if q.After != nil {
		day, err := time.Parse(time.DateOnly, q.After.Period)
		if err != nil {
			return fault.Fields(field.Error{Field: "cursor", Message: "is not of this report"})
		}
		first, rolled = day, day
	} else {
		var err error
		if rolled, err = from.FirstRolled(ctx, db.FirstRolledParams{FromDay: first, ToDay: q.To}); err != nil {
			return fmt.Errorf("looking for the first day with rows: %w", err)
		}
	}
	last := q
	note := func(row db.ReportRow) error {
		if !row.IsTotal {
			place := PlaceOf(row)
			last.After, last.Limit = &place, last.Limit-1
		}
		return each(row)
	}
	until := rolled.AddDate(0, 0, r.tagDays-1)
	if err := db.Stream(ctx, from, r.statement(ctx, q, first, until), note); err != nil || last.Limit == 0 || !until.Before(q.To) {
		return err
	}
	last.totals = false
	return db.Stream(ctx, from, r.statement(ctx, last, until.AddDate(0, 0, 1), q.To), each)
}

// keyRows hands on the rows of a report by key.
func (r *Reports) keyRows(ctx context.Context, from *db.Reader, q Query, each func(db.ReportRow) error) error {
	rows := q.periods() // of a key, at the most, where models and tags do not part them
	p := db.ReportKeysParams{FromDay: q.From, ToDay: q.To, Granularity: q.Granularity, ByModel: q.By.Model, ByTag: q.By.Tag,
		KeyID: q.KeyID, Model: q.Model, Tag: q.Tag, First: q.After == nil, FirstKeys: 1, Part: 1, FewKeys: min(max(fewRows/rows, 1), r.fewKeys), FarPart: 64}
	if !q.By.Model && !q.By.Tag && q.Limit > 0 { // a page takes no fewer keys, and mostly few more
		p.FirstKeys, p.Part = (int64(q.Limit)+rows-1)/rows, 4
	}
	if q.Model != "" || q.Tag != "" { // of which keys may have few rows or none
		p.Part, p.FewKeys, p.FarPart = 1, r.fewKeys, 8
	}
	if q.Limit > 0 {
		p.RowLimit = new(int64(q.Limit))
	}
	if q.Tag != "" {
		sets, err := from.TagSetsWith(ctx, db.TagSetsWithParams{Tag: q.Tag, RowLimit: r.mostSets + 1})
		if err != nil {
			return fmt.Errorf("looking for the sets with a tag: %w", err)
		}
		if len(sets) <= int(r.mostSets) {
			p.TagSets = sets
		}
	}
	if q.After != nil {
		p.AfterKeyID, p.AfterPeriod, p.AfterModel, p.AfterTag = q.After.KeyID, q.After.Period, q.After.Model, q.After.Tag
		if !q.By.Key { // it is of one key, whose rows the id does not part
			p.AfterKeyID = q.KeyID
		}
	}
	ask := func(ask *db.Queries) error {
		_, err := ask.ReportKeys(ctx, p)
		return err
	}
	return db.Stream(ctx, from, ask, func(row db.ReportRow) error {
		if !q.By.Key {
			row.KeyID, row.KeyName = uuid.Nil, ""
		}
		return each(row)
	})
}

// periods is how many days or months a report is parted into; 1: it is not parted.
func (q Query) periods() int64 {
	switch q.Granularity {
	case Day:
		return int64(q.To.Sub(q.From)/(24*time.Hour)) + 1
	case Month:
		return int64(12*(q.To.Year()-q.From.Year())+int(q.To.Month()-q.From.Month())) + 1
	}
	return 1
}

// reaches is the fault of a report that needs the ledger and begins before it does; nil: it does not.
func (r *Reports) reaches(ctx context.Context, from *db.Queries, q Query) error {
	if !q.needsLedger() {
		return nil
	}
	since, err := from.LedgerWhole(ctx, r.timezone)
	if err != nil {
		return fmt.Errorf("asking how far back the ledger reaches: %w", err)
	}
	if q.From.Before(since) {
		return fault.Fields(field.Error{Field: "from", Message: fmt.Sprintf("must not be before %s: hours, and accounts together with keys or tags, are only in the ledger, which reaches back to then", since.Format(time.DateOnly))})
	}
	return nil
}

// needsLedger tells whether no rollup has what is asked for.
func (q Query) needsLedger() bool {
	accounts := q.By.Account || q.AccountID != ""
	keys := q.By.Key || q.By.Tag || q.KeyID != uuid.Nil || q.Tag != ""
	return q.Granularity == Hour || accounts && keys
}

// byKeys tells whether the rollup by key is what answers it.
func (q Query) byKeys() bool { return !q.needsLedger() && (q.By.Key || q.KeyID != uuid.Nil) }

// statement is the query that answers a report; of tags, rows of some days alone.
func (r *Reports) statement(ctx context.Context, q Query, firstDay, lastDay time.Time) func(*db.Queries) error {
	after, first := Place{}, q.After == nil
	if !first {
		after = *q.After
	}
	var limit *int64
	if q.Limit > 0 {
		limit = new(int64(q.Limit))
	}
	if q.needsLedger() {
		return func(ask *db.Queries) error {
			_, err := ask.ReportLedger(ctx, db.ReportLedgerParams{Timezone: r.timezone, FromDay: q.From, ToDay: q.To, Granularity: q.Granularity,
				ByKey: q.By.Key, ByModel: q.By.Model, ByAccount: q.By.Account, ByTag: q.By.Tag, KeyID: q.KeyID, Model: q.Model, AccountID: q.AccountID, Tag: q.Tag,
				First: first, AfterKeyID: after.KeyID, AfterPeriod: after.Period, AfterModel: after.Model, AfterAccountID: after.AccountID, AfterTag: after.Tag, RowLimit: limit, Totals: q.totals})
			return err
		}
	}
	from := "models"
	switch {
	case q.By.Account || q.AccountID != "":
		from = "accounts"
	case q.By.Tag || q.Tag != "":
		from = "tags"
	}
	return func(ask *db.Queries) error {
		_, err := ask.ReportSums(ctx, db.ReportSumsParams{Source: from, FromDay: q.From, ToDay: q.To, Granularity: q.Granularity, ByModel: q.By.Model, ByAccount: q.By.Account, ByTag: q.By.Tag,
			Model: q.Model, AccountID: q.AccountID, Tag: q.Tag, First: first, AfterPeriod: after.Period, AfterModel: after.Model, AfterAccountID: after.AccountID, AfterTag: after.Tag,
			RowLimit: limit, Totals: q.totals, WindowFrom: firstDay, WindowTo: lastDay})
		return err
	}
}
