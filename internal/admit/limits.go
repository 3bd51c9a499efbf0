package admit

import (
	"fmt"
	"slices"
	"time"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
)

// limit is one limit that a key may have. The list below is the only list of limits in Go:
// codes, messages, the order in which limits are tried and shown, explanations and waits
// all come from it.
//
// A new limit touches, beside its row here:
//
//   - a column of api_keys with its comment, a column of key_counters if it counts something
//     new, and the views reporting.keys and reporting.limits (migrations/);
//   - the lists of columns in KeyCreate, KeyUpdate and ImportKeyCreate (queries/);
//   - Admit (queries/admissions.sql): what is used of it, its argument of admit_in_order and
//     its columns in the answer; and admit_step, which compares it;
//   - LedgerAppend (queries/ledger.sql), if usage moves its counter;
//   - AlertLimits (queries/webhooks.sql), and what messages call it (internal/alert/format.go);
//   - the table of fields (internal/key/fields.go), which checks it;
//   - its code (admit.go) and the status that a proxy gets for it (internal/plug/proxied);
//   - openapi.yaml (Key, KeyFields, HolderKey, their examples, the names of limits and codes)
//     and the two structs that answers are made of (internal/api/views.go, convert.go);
//   - the table of flags (cmd/keyledger/keyfields.go), and what keys show prints (keys.go).
type limit struct {
	name    string // as answers show it
	place   int    // in the list of an answer
	code    Code   // what it refuses with
	message string
	// measure is what admissions hold against it, as AdmissionEnds names it; empty: nothing.
	measure string
	// state is where a key stands with it; false: the key has no such limit.
	state func(db.AdmitRow) (state, bool)
	// asks is how much of it a request asks for; false: none.
	asks func(Request, db.AdmitRow) (decimal.Decimal, bool)
}

// state is where a key stands with a limit.
type state struct {
	most, used, reserved decimal.Decimal
	resetsAt             time.Time // zero: it does not
}

// limits are all limits, in the order in which they are tried.
var limits = []limit{
	{
		name: "concurrency", place: 2, code: ConcurrencyExceeded, message: "Too many requests in flight", measure: measureLeases,
		state: func(row db.AdmitRow) (state, bool) {
			return counted(row.ConcurrencyLimit, row.ConcurrencyUsed, 0, time.Time{})
		},
		asks: func(r Request, _ db.AdmitRow) (decimal.Decimal, bool) { return one, r.LeaseSeconds > 0 },
	},
	{
		name: "requests", place: 0, code: RequestsExceeded, message: "Too many requests in this window",
		state: func(row db.AdmitRow) (state, bool) {
			return counted(row.RequestsLimit, row.RequestsUsed, 0, row.WindowEnd)
		},
		asks: func(Request, db.AdmitRow) (decimal.Decimal, bool) { return one, true },
	},
	{
		name: "tokens", place: 1, code: TokensExceeded, message: "Too many tokens in this window", measure: measureTokens,
		state: func(row db.AdmitRow) (state, bool) {
			return counted(row.TokensLimit, row.TokensUsed, row.TokensReserved, row.WindowEnd)
		},
		asks: func(r Request, _ db.AdmitRow) (decimal.Decimal, bool) { return decimal.NewFromInt(r.Tokens), true },
	},
	costLimit(3, "daily", DailyCostExceeded, func(row db.AdmitRow) (string, string, time.Time) {
		return row.DailyLimit, row.DailyUsed, row.DayEnd
	}),
	costLimit(4, "weekly", WeeklyCostExceeded, func(row db.AdmitRow) (string, string, time.Time) {
		return row.WeeklyLimit, row.WeeklyUsed, row.WeekEnd
	}),
	costLimit(5, "monthly", MonthlyCostExceeded, func(row db.AdmitRow) (string, string, time.Time) {
		return row.MonthlyLimit, row.MonthlyUsed, row.MonthEnd
	}),
	costLimit(6, "total", TotalCostExceeded, func(row db.AdmitRow) (string, string, time.Time) {
		return row.TotalLimit, row.TotalUsed, time.Time{}
	}),
}

// What admissions hold, as AdmissionEnds names it.
const (
	measureLeases = "leases"
	measureTokens = "tokens"
	measureCost   = "cost"
)

var one = decimal.NewFromInt(1)

// costLimit is a limit of the cost of a period.
func costLimit(place int, period string, code Code, of func(db.AdmitRow) (most, used string, end time.Time)) limit {
	return limit{
		name: period + "Cost", place: place, code: code, message: fmt.Sprintf("The %s cost limit is reached", period), measure: measureCost,
		state: func(row db.AdmitRow) (state, bool) {
			most, used, end := of(row)
			if most == "" {
				return state{}, false
			}
			return state{amount(most), amount(used), amount(row.CostReserved), end}, true
		},
		asks: func(_ Request, row db.AdmitRow) (decimal.Decimal, bool) { return amount(row.CostAsked), true },
	}
}

// counted is the state of a limit of whole numbers; a negative limit is none.
func counted(most, used, reserved int64, resetsAt time.Time) (state, bool) {
	if most < 0 {
		return state{}, false
	}
	return state{decimal.NewFromInt(most), decimal.NewFromInt(used), decimal.NewFromInt(reserved), resetsAt}, true
}

// limitOf is the limit that a code refuses by.
func limitOf(code Code) (limit, bool) {
	i := slices.IndexFunc(limits, func(l limit) bool { return l.code == code })
	if i < 0 {
		return limit{}, false
	}
	return limits[i], true
}

// LimitOf is the name of the limit that a code refuses by; empty: it refuses by none.
func LimitOf(code Code) string {
	l, _ := limitOf(code)
	return l.name
}

// shown is the list of limits as answers have it.
var shown = slices.SortedFunc(slices.Values(limits), func(a, b limit) int { return a.place - b.place })

// limitsOf are the limits of a key that are set, as they stand after the decision.
func limitsOf(row db.AdmitRow) (set []Limit) {
	for _, l := range shown {
		if s, has := l.state(row); has {
			remaining := decimal.Max(decimal.Zero, s.most.Sub(s.used).Sub(s.reserved))
			set = append(set, Limit{l.name, s.most, s.used, s.reserved, remaining, timeOrNil(s.resetsAt)})
		}
	}
	return set
}

// rules are the codes of what is tried before the limits, in order, in words.
var rules = []struct {
	code    Code
	message string
}{
	{"NOT_FOUND", "API key not found"},
	{"DISABLED", "API key is disabled"},
	{"EXPIRED", "API key has expired"},
	{RequestSettled, "Usage of this request was recorded already"},
	{ServiceNotPermitted, "The key may not use this service"},
	{ModelNotAllowed, "The key may not use this model"},
	{ClientNotAllowed, "The key may not be used by this client"},
	{ModelNotPriced, "The model has no price, and the key has a cost limit"},
}

// order is the order in which rules and limits are tried, by the code that each refuses with.
var order = func() (codes []Code) {
	for _, r := range rules {
		codes = append(codes, r.code)
	}
	for _, l := range limits {
		codes = append(codes, l.code)
	}
	return codes
}()

// messages are all codes in words.
var messages = func() map[Code]string {
	all := map[Code]string{Allowed: "The request may go on"}
	for _, r := range rules {
		all[r.code] = r.message
	}
	for _, l := range limits {
		all[l.code] = l.message
	}
	return all
}()
