package importer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/usage"
)

// before is what has been brought of a subject; false: nothing ever.
func (im *Importer) before(ctx context.Context, q *db.Queries, subject string) (ledger, bool, error) {
	rows, err := q.ImportedUsage(ctx, db.ImportedUsageParams{Source: sourceName, Subjects: []string{subject}})
	if err != nil {
		return nil, false, fmt.Errorf("reading what was brought before: %w", err)
	}
	before := ledger{}
	for _, row := range rows {
		if row.Model != "" {
			before[place{row.Model, row.Day.Format(time.DateOnly), level(max(0, slices.Index(grains, row.Grain)))}] = imported{Sums{row.Requests, usage.Counts{
				Input: row.InputTokens, Output: row.OutputTokens, CacheCreate: row.CacheCreateTokens, CacheRead: row.CacheReadTokens,
				Ephemeral1h: row.Ephemeral1hTokens,
			}}, row.Cost}
		}
	}
	return before, len(rows) > 0, nil
}

// bringing is a history on its way into the ledger.
type bringing struct {
	subject  string                                     // whose it is, as imported_usage names it
	cells    func(before ledger) ([]cell, []string)     // what is still to be brought, and doubts
	openings func(usage.Opening) (rows []usage.Opening) // the ledger rows of a cell: one, or two
	left     bool                                       // the last transaction did not bring all
}

// bring writes the first of the cells into the ledger, as many as one transaction may, and
// notes that they were brought.
func (im *Importer) bring(ctx context.Context, q *db.Queries, b *bringing, cells []cell, first bool) error {
	p := db.ImportedAddParams{Source: sourceName, Subject: b.subject}
	note := func(at place, day time.Time, s Sums, cost decimal.Decimal) {
		p.Grains = append(p.Grains, grains[at.level])
		p.Models, p.Days, p.Requests = append(p.Models, at.model), append(p.Days, day), append(p.Requests, s.Requests)
		p.InputTokens, p.OutputTokens = append(p.InputTokens, s.Input), append(p.OutputTokens, s.Output)
		p.CacheCreateTokens, p.CacheReadTokens = append(p.CacheCreateTokens, s.CacheCreate), append(p.CacheReadTokens, s.CacheRead)
		p.Ephemeral1hTokens = append(p.Ephemeral1hTokens, s.Ephemeral1h)
		p.Costs = append(p.Costs, cost.String())
	}
	if first {
		note(place{}, time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), Sums{}, decimal.Zero)
	}
	b.left = false
	var rows []usage.Opening
	for _, c := range cells {
		day, err := time.Parse(time.DateOnly, c.day)
		if err != nil {
			return err
		}
		more := b.openings(usage.Opening{Model: c.model, Day: day, Requests: c.sums.Requests, Counts: c.sums.Counts, Cost: c.cost, Priced: c.known})
		if b.left = len(rows)+len(more) > im.o.Openings; b.left {
			break
		}
		rows = append(rows, more...)
		note(c.place, day, c.sums, c.cost)
	}
	if p.Models == nil {
		return nil
	}
	if err := im.o.Usage.Open(ctx, q, rows); err != nil {
		return err
	}
	return q.ImportedAdd(ctx, p)
}

// bringRest brings what the first transaction of a history left. Each one asks again what
// there is to bring: another import may have been here since the last.
func (im *Importer) bringRest(ctx context.Context, b *bringing) error {
	for b.left {
		err := im.within(ctx, func(q *db.Queries) error {
			before, _, err := im.before(ctx, q, b.subject)
			if err != nil {
				return err
			}
			cells, _ := b.cells(before)
			return im.bring(ctx, q, b, cells, false)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
