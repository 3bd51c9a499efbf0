package importer

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// place is where usage is counted: a model, normalised, a day, and how finely the
// original parts it.
type place struct {
	model, day string
	level      level
}

// cell is usage to be brought.
type cell struct {
	place

	sums  Sums
	cost  decimal.Decimal
	known bool // somebody knew what it cost
	told  bool // the original says what it cost, or its month did
}

// level is how finely the original parts something: by day, for a month; by month, for
// a year; or only in all.
type level int

const (
	byDay level = iota
	byMonth
	inAll
)

// grains are the names of levels in imported_usage.
var grains = []string{"day", "month", "all"}

// ledger is what has been brought before.
type ledger map[place]imported

type imported struct {
	Sums

	cost decimal.Decimal
}

// cells are what is still to be brought of a history, so that days, months and totals
// are those of the original: what they should be now, less what has been brought before.
// They may be negative: the original counts a request in several steps, and what was read
// between two of them is put right by the next reading.
//
// What the original has parted by day and model is taken as it is; what a month has
// beyond its days goes to the month's first day, what there is beyond the months to the
// first day of all, without a model where none is known. What the original has forgotten
// by now stays as it was brought. doubts are what does not add up there.
func (h *History) cells(since time.Time, before ledger, catalogue *price.Catalogue) (more []cell, doubts []string) {
	kept := h.forgotten(before)
	b := &builder{before: kept, have: map[place]Sums{}, first: since.Format(time.DateOnly)}
	for p, was := range kept {
		b.have[p] = was.Sums
	}
	for _, model := range ordered(h.ModelDays) {
		for _, day := range ordered(h.ModelDays[model]) {
			b.rest(byDay, model, day, h.ModelDays[model][day].above(b.have[place{model, day, byDay}]))
		}
	}
	for _, day := range ordered(h.Days) {
		b.rest(byDay, usage.UnknownModel, day, h.Days[day].above(b.sumOf(func(p place) bool { return p.level == byDay && p.day == day })))
	}
	for _, model := range ordered(h.ModelMonths) {
		for _, month := range ordered(h.ModelMonths[model]) {
			have := b.sumOf(func(p place) bool { return p.level <= byMonth && p.model == model && p.day[:7] == month })
			b.rest(byMonth, model, b.firstOf(month), h.ModelMonths[model][month].above(have))
		}
	}
	for _, month := range ordered(h.Months) {
		have := b.sumOf(func(p place) bool { return p.level <= byMonth && p.day[:7] == month })
		b.rest(byMonth, usage.UnknownModel, b.firstOf(month), h.Months[month].above(have))
	}
	for _, model := range ordered(h.ModelTotals) {
		have := b.sumOf(func(p place) bool { return p.model == model })
		b.rest(inAll, model, b.earliest(), h.ModelTotals[model].above(have))
	}
	all := b.sumOf(func(place) bool { return true })
	b.rest(inAll, usage.UnknownModel, b.earliest(), h.Total.above(all))
	if beyond := all.above(h.Total); beyond.Requests > 0 || beyond.All() > 0 {
		doubts = append(doubts, fmt.Sprintf("its days and months add up to %d requests and %d tokens more than its total: they are kept", beyond.Requests, beyond.All()))
	}
	b.price(h, catalogue)
	doubts = append(doubts, b.charge(h)...)
	return difference(merged(b.new), before, kept), doubts
}

// forgotten is what was brought before of days and months that the original does not tell
// of any more, or not all that it once told.
func (h *History) forgotten(before ledger) ledger {
	days, months := map[string]bool{}, map[string]bool{} // that are told of
	for _, of := range h.ModelDays {
		for day := range of {
			days[day] = true
		}
	}
	for day := range h.Days {
		days[day] = true
	}
	for _, of := range h.ModelMonths {
		for month := range of {
			months[month] = true
		}
	}
	for month := range h.Months {
		months[month] = true
	}
	for p, was := range before {
		if p.model != usage.UnknownModel && was.Sums != (Sums{}) {
			if _, told := h.ModelDays[p.model][p.day]; p.level == byDay && !told {
				delete(days, p.day)
			}
			if _, told := h.ModelMonths[p.model][p.day[:7]]; p.level == byMonth && !told {
				delete(months, p.day[:7])
			}
		}
		if _, told := h.DayCosts[p.day]; p.level == byDay && !told && h.TotalCost != nil {
			delete(days, p.day)
		}
		if _, told := h.MonthCosts[p.day[:7]]; p.level == byMonth && !told && h.TotalCost != nil {
			delete(months, p.day[:7])
		}
	}
	kept := ledger{}
	for p, was := range before {
		if p.level == byDay && !days[p.day] || p.level == byMonth && !months[p.day[:7]] {
			kept[p] = was
		}
	}
	return kept
}

// difference is what cells, one for each place, have beyond what was brought before, but
// for what of that is kept.
func difference(cells []cell, before, kept ledger) (more []cell) {
	seen := map[place]bool{}
	take := func(c cell) {
		seen[c.place] = true
		if was, brought := before[c.place]; brought {
			if _, stays := kept[c.place]; !stays {
				c.sums, c.cost = c.sums.minus(was.Sums), c.cost.Sub(was.cost)
			}
		}
		if c.sums != (Sums{}) || !c.cost.IsZero() {
			more = append(more, c)
		}
	}
	for _, c := range cells {
		take(c)
	}
	for p := range before {
		if _, stays := kept[p]; !stays && !seen[p] {
			take(cell{place: p, known: true})
		}
	}
	slices.SortFunc(more, func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(a.model, b.model), cmp.Compare(a.level, b.level))
	})
	return more
}

// first is the first day that anything is known of; now when nothing is.
func (h *History) first(now time.Time) time.Time {
	earliest := now.Format(time.DateOnly)
	for _, days := range h.ModelDays {
		for day := range days {
			earliest = min(earliest, day)
		}
	}
	for day := range h.Days {
		earliest = min(earliest, day)
	}
	for month := range h.Months {
		earliest = min(earliest, month+"-01")
	}
	for _, months := range h.ModelMonths {
		for month := range months {
			earliest = min(earliest, month+"-01")
		}
	}
	at, err := time.Parse(time.DateOnly, earliest)
	if err != nil {
		return now
	}
	return at
}

// builder puts cells together.
type builder struct {
	before ledger
	have   map[place]Sums // with what is brought before and now
	new    []cell
	first  string // day before which nothing should have been used
}

// rest takes what is not had yet.
func (b *builder) rest(l level, model, day string, sums Sums) {
	if sums == (Sums{}) {
		return
	}
	p := place{model, day, l}
	b.have[p] = b.have[p].plus(sums)
	b.new = append(b.new, cell{place: p, sums: sums})
}

func (b *builder) sumOf(of func(place) bool) (sums Sums) {
	for p, s := range b.have {
		if of(p) {
			sums = sums.plus(s)
		}
	}
	return sums
}

// firstOf is the first day of a month on which anything can have been used.
func (b *builder) firstOf(month string) string {
	if b.first[:7] == month {
		return b.first
	}
	return month + "-01"
}

// earliest is the first day of all.
func (b *builder) earliest() string {
	first := b.first
	for p := range b.have {
		first = min(first, p.day)
	}
	return first
}

// price gives cells their cost: what the original says of the model, else by the
// catalogue.
func (b *builder) price(h *History, catalogue *price.Catalogue) {
	for i := range b.new {
		c := &b.new[i]
		if told, ok := h.modelCost(c.place); ok {
			c.cost, c.known = decimal.Max(decimal.Zero, told.Sub(b.costOf(i, c.place))), true
			continue
		}
		at, err := time.Parse(time.DateOnly, c.day)
		if err != nil {
			continue
		}
		if p, ok := catalogue.Lookup(c.model, at.Add(12*time.Hour)); ok {
			c.cost, c.known = p.CostOfMany(c.sums.Tokens()), true
		}
	}
}

// modelCost is what the original says that a model cost in the day, month or time of a
// place.
func (h *History) modelCost(p place) (cost decimal.Decimal, ok bool) {
	switch p.level {
	case byDay:
		cost, ok = h.ModelDayCosts[p.model][p.day]
	case byMonth:
		cost, ok = h.ModelMonthCosts[p.model][p.day[:7]]
	case inAll:
		cost, ok = h.ModelTotalCosts[p.model]
	}
	return cost, ok
}

// costOf is the cost of what a place's model has in its day, month or time already, in
// what was brought before and in the first n cells.
func (b *builder) costOf(n int, of place) (sum decimal.Decimal) {
	within := func(p place) bool {
		return p.model == of.model && (of.level == inAll || of.level == byMonth && p.day[:7] == of.day[:7] && p.level <= byMonth || of.level == byDay && p.day == of.day && p.level == byDay)
	}
	for p, was := range b.before {
		if within(p) {
			sum = sum.Add(was.cost)
		}
	}
	for _, c := range b.new[:n] {
		if within(c.place) {
			sum = sum.Add(c.cost)
		}
	}
	return sum
}

// charge gives cells what the original says that their day, month and total cost,
// where it says so, in proportion to their cost by the catalogue.
func (b *builder) charge(h *History) (doubts []string) {
	// settle makes the cells of a level cost so much more or less that it, with all that
	// is parted finer, costs what the original says.
	settle := func(l level, day string, cost decimal.Decimal, of func(place) bool) {
		more := cost
		for p, was := range b.before {
			if of(p) && p.level <= l {
				more = more.Sub(was.cost)
			}
		}
		var cells []*cell
		for _, c := range b.new {
			if of(c.place) && c.level <= l {
				more = more.Sub(c.cost)
			}
		}
		for i := range b.new {
			c := &b.new[i]
			// Too much in a month or in all is taken from what the catalogue alone has priced.
			if of(c.place) && (c.level == l || c.level < l && more.IsNegative() && !c.told) {
				cells = append(cells, c)
			}
		}
		if cells == nil && more.IsPositive() {
			b.new = append(b.new, cell{place: place{usage.UnknownModel, day, l}})
			cells = []*cell{&b.new[len(b.new)-1]}
		}
		left := spread(cells, more)
		for _, c := range cells {
			c.told = true
		}
		if left.LessThan(decimal.New(-1, -6)) {
			doubts = append(doubts, fmt.Sprintf("costs add up to $%s more than that of %s: they are kept", left.Neg(), []string{day, "the month of " + day, "all time"}[l]))
		}
	}
	for _, day := range ordered(h.DayCosts) {
		settle(byDay, day, h.DayCosts[day], func(p place) bool { return p.day == day })
	}
	for _, month := range ordered(h.MonthCosts) {
		settle(byMonth, b.firstOf(month), h.MonthCosts[month], func(p place) bool { return p.day[:7] == month })
	}
	if h.TotalCost != nil {
		settle(inAll, b.earliest(), *h.TotalCost, func(place) bool { return true })
	}
	return doubts
}

// spread changes the cost of cells by an amount, in proportion to what they cost, or to
// their tokens where they cost nothing, and none below 0. It returns what is left of it.
func spread(cells []*cell, more decimal.Decimal) (left decimal.Decimal) {
	weight := func(c *cell) decimal.Decimal { return c.cost }
	whole := decimal.Zero
	for _, c := range cells {
		whole = whole.Add(weight(c))
	}
	if whole.IsZero() {
		weight = func(c *cell) decimal.Decimal { return decimal.NewFromInt(c.sums.All()) }
		for _, c := range cells {
			whole = whole.Add(weight(c))
		}
	}
	left = more
	for i, c := range cells {
		c.known = true
		part := left
		if i < len(cells)-1 {
			part = decimal.Zero
			if whole.IsPositive() {
				part = more.Mul(weight(c)).Div(whole).Round(12)
			}
		}
		if c.cost.Add(part).IsNegative() {
			part = c.cost.Neg()
		}
		c.cost, left = c.cost.Add(part), left.Sub(part)
	}
	return left
}

// merged are cells, one for each place.
func merged(cells []cell) (all []cell) {
	at := map[place]int{}
	for _, c := range cells {
		i, seen := at[c.place]
		if !seen {
			at[c.place] = len(all)
			all = append(all, c)
			continue
		}
		all[i].sums, all[i].cost, all[i].known = all[i].sums.plus(c.sums), all[i].cost.Add(c.cost), all[i].known && c.known
	}
	return all
}
