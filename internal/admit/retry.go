package admit

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
)

// never is a period without an end, as the statement takes it.
var never = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// limitByCode names the limit that each code refuses by.
var limitByCode = map[Code]string{ConcurrencyExceeded: "concurrency", RequestsExceeded: "requests", TokensExceeded: "tokens",
	DailyCostExceeded: "dailyCost", WeeklyCostExceeded: "weeklyCost", MonthlyCostExceeded: "monthlyCost", TotalCostExceeded: "totalCost"}

// obstacle is one limit that a refused request must wait for. Equal ones are
// asked about once.
type obstacle struct {
	key             uuid.UUID
	measure         string // what is held against it: leases, tokens or cost
	most, used, ask string
	periodEnd       time.Time
}

// waits finds when each request that a limit refused could pass at the earliest,
// if nothing happens but the passing of time: when the last of its limits frees
// enough. A request that no waiting helps has none. It costs nothing when nothing
// was refused by a limit.
func waits(ctx context.Context, q *db.Queries, requests []Request, rows []db.AdmitRow) (map[int64]time.Time, error) {
	var asked []obstacle
	known := map[obstacle]bool{}
	for _, row := range rows {
		for _, o := range obstacles(requests[row.Index], row) {
			if !known[o] {
				known[o] = true
				asked = append(asked, o)
			}
		}
	}
	free, err := frees(ctx, q, asked, rows[0].DecidedAt)
	if err != nil {
		return nil, err
	}
	found := map[int64]time.Time{}
	for _, row := range rows {
		if !refusedByLimit(row) {
			continue
		}
		at, passes := row.DecidedAt, true
		for _, o := range obstacles(requests[row.Index], row) {
			freeAt, ever := free[o]
			passes = passes && ever
			at = latest(at, freeAt)
		}
		if row.RequestsLimit >= 0 && row.RequestsUsed >= row.RequestsLimit {
			at = latest(at, row.WindowEnd)
		}
		if expires := instant(row.KeyExpiresAt); passes && (expires == nil || !at.After(*expires)) {
			found[row.Index] = at
		}
	}
	return found, nil
}

func refusedByLimit(row db.AdmitRow) bool {
	_, byLimit := limitByCode[Code(row.Code)]
	return byLimit && !row.LetThrough
}

// obstacles are the limits that hold leases and reservations, for a request that a
// limit has refused; none for another.
func obstacles(r Request, row db.AdmitRow) (list []obstacle) {
	if !refusedByLimit(row) {
		return nil
	}
	add := func(measure, most, used, ask string, end time.Time) {
		if most != "" {
			list = append(list, obstacle{r.KeyID, measure, most, used, ask, end})
		}
	}
	if r.LeaseSeconds > 0 {
		add("leases", count(row.ConcurrencyLimit), "0", "1", never)
	}
	windowEnd := never
	if end := instant(row.WindowEnd); end != nil {
		windowEnd = *end
	}
	add("tokens", count(row.TokensLimit), count(row.TokensUsed), count(r.Tokens), windowEnd)
	add("cost", row.DailyLimit, row.DailyUsed, row.CostAsked, row.DayEnd)
	add("cost", row.WeeklyLimit, row.WeeklyUsed, row.CostAsked, row.WeekEnd)
	add("cost", row.MonthlyLimit, row.MonthlyUsed, row.CostAsked, row.MonthEnd)
	add("cost", row.TotalLimit, row.TotalUsed, row.CostAsked, never)
	return list
}

// count is a number in the form of an obstacle; empty for the statement's "no such
// limit".
func count(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func frees(ctx context.Context, q *db.Queries, asked []obstacle, at time.Time) (map[obstacle]time.Time, error) {
	if asked == nil {
		return nil, nil
	}
	p := db.AdmissionFreesParams{At: at}
	for _, o := range asked {
		p.KeyIDs = append(p.KeyIDs, o.key)
		p.Measures = append(p.Measures, o.measure)
		p.Most = append(p.Most, decimal.RequireFromString(o.most))
		p.Used = append(p.Used, decimal.RequireFromString(o.used))
		p.Asks = append(p.Asks, decimal.RequireFromString(o.ask))
		p.PeriodEnds = append(p.PeriodEnds, o.periodEnd)
	}
	rows, err := q.AdmissionFrees(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("finding when limits free enough: %w", err)
	}
	free := make(map[obstacle]time.Time, len(rows))
	for _, row := range rows {
		free[asked[row.Index]] = row.At
	}
	return free, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
