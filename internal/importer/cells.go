package importer

import (
	"slices"
	"time"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// place is where usage is counted: a model, normalised, and a day.
type place struct{ model, day string }

// cell is usage to be brought.
type cell struct {
	place

	sums  Sums
	cost  decimal.Decimal
	known bool // somebody knew what it cost
	level level
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

// ledger is what has been brought before.
type ledger map[place]imported

type imported struct {
	Sums

	cost decimal.Decimal
}

// cells are what is still to be brought of a history, so that days, months and totals
// are those of the original. What it has parted by day and model is taken as it is; what
// a month has beyond its days goes to the month's first day, what there is beyond the
// months to the first day of all, without a model where none is known. What was brought
// before stays, also where the original has forgotten the day by now. doubts are what
// does not add up there.
func (h *History) cells(since time.Time, before ledger, catalogue *price.Catalogue) (more []cell, doubts []string) {
	b := &builder{before: before, have: map[place]Sums{}, first: since.Format(time.DateOnly)}
	for p, was := range before {
		b.have[p] = was.Sums
	}
	for _, model := range ordered(h.ModelDays) {
		for _, day := range ordered(h.ModelDays[model]) {
			b.rest(byDay, model, day, h.ModelDays[model][day].above(b.have[place{model, day}]))
		}
	}
	for _, day := range ordered(h.Days) {
		b.rest(byDay, usage.UnknownModel, day, h.Days[day].above(b.sumOf(func(p place) bool { return p.day == day })))
	}
	for _, model := range ordered(h.ModelMonths) {
		for _, month := range ordered(h.ModelMonths[model]) {
			have := b.sumOf(func(p place) bool { return p.model == model && p.day[:7] == month })
			b.rest(byMonth, model, b.firstOf(month), h.ModelMonths[model][month].above(have))
		}
	}
	for _, month := range ordered(h.Months) {
		have := b.sumOf(func(p place) bool { return p.day[:7] == month })
		b.rest(byMonth, usage.UnknownModel, b.firstOf(month), h.Months[month].above(have))
	}
	all := b.sumOf(func(place) bool { return true })
	b.rest(inAll, usage.UnknownModel, b.earliest(), h.Total.above(all))
	if all.Requests > h.Total.Requests || all.All() > h.Total.All() {
		doubts = append(doubts, "its days and months add up to more than its total: they are kept")
	}
	if len(before) > 0 {
		// The original may have counted while it was read the last time: what its total had
		// then, and its days not yet, was brought without a day. It is not brought twice.
		b.cap(h.whole(since, catalogue).above(b.brought()))
	}
	b.price(catalogue)
	return b.new, append(doubts, b.charge(h)...)
}

// whole is all that there is of a history now.
func (h *History) whole(since time.Time, catalogue *price.Catalogue) (all Sums) {
	cells, _ := h.cells(since, nil, catalogue)
	for _, c := range cells {
		all = all.plus(c.sums)
	}
	return all
}

// brought is all that was brought before.
func (b *builder) brought() (all Sums) {
	for _, was := range b.before {
		all = all.plus(was.Sums)
	}
	return all
}

// cap takes away what goes beyond most of the cells, in each count, from the coarsest on.
func (b *builder) cap(most Sums) {
	var sum Sums
	for _, c := range b.new {
		sum = sum.plus(c.sums)
	}
	excess := sum.above(most)
	var kept []cell
	for i := len(b.new) - 1; i >= 0; i-- {
		c := b.new[i]
		less := c.sums.above(excess)
		excess = excess.above(c.sums)
		if c.sums = less; c.sums != (Sums{}) {
			kept = append(kept, c)
		}
	}
	slices.Reverse(kept)
	b.new = kept
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
	p := place{model, day}
	b.have[p] = b.have[p].plus(sums)
	b.new = append(b.new, cell{place: p, sums: sums, level: l})
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

// price gives cells their cost by the catalogue.
func (b *builder) price(catalogue *price.Catalogue) {
	for i := range b.new {
		c := &b.new[i]
		at, err := time.Parse(time.DateOnly, c.day)
		if err != nil {
			continue
		}
		if p, ok := catalogue.Lookup(c.model, at.Add(12*time.Hour)); ok {
			c.cost, c.known = p.CostOfMany(c.sums.Tokens()), true
		}
	}
}

// charge gives cells what the original says that their day, month and total cost,
// where it says so, in proportion to their cost by the catalogue.
func (b *builder) charge(h *History) (doubts []string) {
	// settle makes the cells of a level cost so much more or less that it, with all that
	// is parted finer, costs what the original says.
	settle := func(l level, day string, cost decimal.Decimal, of func(place) bool) {
		more, again := cost, false
		for p, was := range b.before {
			if of(p) {
				more, again = more.Sub(was.cost), true
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
			// Too much in all is taken from what the catalogue alone has priced.
			if of(c.place) && (c.level == l || l == inAll && more.IsNegative() && !c.told) {
				cells = append(cells, c)
			}
		}
		if cells == nil && more.IsPositive() {
			b.new = append(b.new, cell{place: place{usage.UnknownModel, day}, level: l})
			cells = []*cell{&b.new[len(b.new)-1]}
		}
		left := spread(cells, more)
		for _, c := range cells {
			c.told = true
		}
		if again && l < inAll {
			return // what was brought before may be of a coarser level
		}
		if left.LessThan(decimal.New(-1, -6)) {
			doubts = append(doubts, "costs add up to more than that of "+[]string{day, "the month of " + day, "all time"}[l]+": they are kept")
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
