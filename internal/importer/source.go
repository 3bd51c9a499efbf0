// Package importer brings keys and usage from claude-relay-service, "the original":
// from its JSON export or from its Redis, to the same database. It reads first, plans,
// and then applies one key or account a transaction, so that it can be broken off and
// run again at any time: what has been brought is noted with it, and only what came since
// is added.
package importer

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// Source is what the original has, as it has it.
type Source struct {
	Keys     []Key
	Accounts []Account
	Refused  []Refusal // records that are no key
	Notes    []string  // what the source lacks
}

// Refusal is a record that is not brought, and why.
type Refusal struct {
	Subject, Reason string
	Gone            bool // what is left of a key that was deleted there for good
}

// Key is a key of the original.
type Key struct {
	ID      string
	Fields  map[string]string // of its record: text, numbers as text, lists as JSON
	History History
	// Barred says why the key does not work there although its own record would let it.
	Barred string
}

// Account is an upstream account of the original.
type Account struct {
	ID      string
	History History
}

// History is what a key or an account used: days for a month or so, months for a year,
// and in all. Days and months are the original's own (2026-11-23 and 2026-11).
type History struct {
	Total       Sums
	Months      map[string]Sums
	Days        map[string]Sums
	ModelMonths map[string]map[string]Sums // by model, normalised
	ModelDays   map[string]map[string]Sums
	ModelTotals map[string]Sums
	// What models cost, as the original has rated them.
	ModelMonthCosts, ModelDayCosts map[string]map[string]decimal.Decimal
	ModelTotalCosts                map[string]decimal.Decimal
	// Costs, where they are known: the original's doubles, rounded once.
	TotalCost  *decimal.Decimal
	MonthCosts map[string]decimal.Decimal
	DayCosts   map[string]decimal.Decimal
	RealCost   *decimal.Decimal // before the original's rates of services; nil: not told
}

func newHistory() History {
	return History{Months: map[string]Sums{}, Days: map[string]Sums{}, ModelMonths: map[string]map[string]Sums{}, ModelDays: map[string]map[string]Sums{},
		ModelTotals: map[string]Sums{}, ModelMonthCosts: map[string]map[string]decimal.Decimal{}, ModelDayCosts: map[string]map[string]decimal.Decimal{}, ModelTotalCosts: map[string]decimal.Decimal{},
		MonthCosts: map[string]decimal.Decimal{}, DayCosts: map[string]decimal.Decimal{}}
}

// Sums are counts over many requests.
type Sums struct {
	Requests int64
	usage.Counts
}

func (s Sums) each(other Sums, f func(a, b int64) int64) Sums {
	return Sums{f(s.Requests, other.Requests), usage.Counts{
		Input: f(s.Input, other.Input), Output: f(s.Output, other.Output),
		CacheCreate: f(s.CacheCreate, other.CacheCreate), CacheRead: f(s.CacheRead, other.CacheRead),
		Ephemeral1h: f(s.Ephemeral1h, other.Ephemeral1h),
	}}
}

func (s Sums) plus(other Sums) Sums {
	return s.each(other, func(a, b int64) int64 { return a + b })
}

func (s Sums) minus(other Sums) Sums {
	return s.each(other, func(a, b int64) int64 { return a - b })
}

// above is what of s goes beyond other, in each count.
func (s Sums) above(other Sums) Sums {
	return s.each(other, func(a, b int64) int64 { return max(0, a-b) }).lifetimes()
}

// lifetimes makes one kind of cache writes no more than all of them.
func (s Sums) lifetimes() Sums {
	s.Ephemeral1h = min(s.Ephemeral1h, s.CacheCreate)
	return s
}

// All are the tokens of all four kinds.
func (s Sums) All() int64 { return s.Input + s.Output + s.CacheCreate + s.CacheRead }

// legacyInput is the part of input tokens in a record that knows only how many tokens
// there were in all: the original shows such records so.
const legacyInput = 0.3

// readSums reads a record of usage; prefix is that of its names. What is empty, NaN or
// no number is 0.
func readSums(fields map[string]string, prefix string) Sums {
	n := func(name string) int64 {
		if prefix != "" {
			name = prefix + strings.ToUpper(name[:1]) + name[1:]
		}
		return number(fields[name])
	}
	s := Sums{n("requests"), usage.Counts{Input: n("inputTokens"), Output: n("outputTokens"), CacheCreate: n("cacheCreateTokens"), CacheRead: n("cacheReadTokens"), Ephemeral1h: n("ephemeral1hTokens")}}
	s.CacheCreate = max(s.CacheCreate, n("ephemeral5mTokens")+s.Ephemeral1h)
	if all := max(n("allTokens"), n("tokens")); s.All() == 0 && all > 0 {
		s.Input = int64(math.Round(float64(all) * legacyInput))
		s.Output = all - s.Input
	}
	return s.lifetimes()
}

// number reads a count of the original, which may be a double.
func number(text string) int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n > usage.MaxCount {
			return 0
		}
		return max(0, n)
	}
	d, ok := amount(text)
	if !ok || d.GreaterThan(decimal.NewFromInt(usage.MaxCount)) {
		return 0
	}
	return d.IntPart()
}

// amount reads an amount of the original, once, to 12 places; false: it is none.
func amount(text string) (decimal.Decimal, bool) {
	if len(text) > 64 {
		return decimal.Zero, false
	}
	d, err := decimal.NewFromString(strings.TrimSpace(text))
	if err != nil || d.IsNegative() || d.Exponent() > 15 || d.Exponent() < -400 {
		return decimal.Zero, false
	}
	d = d.Round(12)
	return d, d.LessThan(mostAmount)
}

// mostAmount bounds amounts in USD: what is more is no amount.
var mostAmount = decimal.New(1, 12)

// isDay and isMonth tell whether a text is one.
func isDay(text string) bool {
	_, err := time.Parse(time.DateOnly, text)
	return err == nil
}

func isMonth(text string) bool {
	_, err := time.Parse("2006-01", text)
	return err == nil
}

func ordered[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// maxModel bounds the names of models, in characters.
const maxModel = 200

// put adds to what a model was used in a period, and to its cost where it is told: a model
// may have several names there.
func put(m map[string]map[string]Sums, costs map[string]map[string]decimal.Decimal, model, period string, fields map[string]string) {
	model = modelName(model)
	if m[model] == nil {
		m[model], costs[model] = map[string]Sums{}, map[string]decimal.Decimal{}
	}
	m[model][period] = m[model][period].plus(readSums(fields, ""))
	if cost, ok := ratedCost(fields); ok {
		costs[model][period] = costs[model][period].Add(cost)
	}
}

// modelName is a model's name, normalised; unknown for what is none.
func modelName(model string) string {
	model = price.Normalize(model)
	if _, wrong := field.Trim(model, 1, maxModel); wrong != "" || !utf8.ValidString(model) {
		return usage.UnknownModel
	}
	return model
}

// ratedCost is what a record says that it cost, in millionths of a dollar.
func ratedCost(fields map[string]string) (decimal.Decimal, bool) {
	d, ok := amount(fields["ratedCostMicro"])
	return d.Shift(-6), ok
}
