// Package price is the catalogue of model prices and the exact arithmetic on
// it: which entry a model name means, and what a request costs by it.
package price

import (
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// Tokens are the counts of one request, each kind counted once.
type Tokens struct {
	Input        int64 // not counting those read from or written to cache
	Output       int64
	CacheRead    int64
	CacheWrite   int64 // written to the 5-minute cache
	CacheWrite1h int64 // written to the 1-hour cache
}

// Rates are prices in USD per million tokens; nil: none of its own.
type Rates struct {
	Input        *decimal.Decimal
	Output       *decimal.Decimal
	CacheRead    *decimal.Decimal
	CacheWrite   *decimal.Decimal
	CacheWrite1h *decimal.Decimal
}

// Price is one entry of the catalogue.
type Price struct {
	Model         string
	Provider      string
	Source        string
	EffectiveFrom time.Time
	Base          Rates
	// Long holds the prices of requests whose input and cache tokens pass
	// LongContext. They apply to the whole request.
	Long Rates
	// MaxOutput is the most tokens that one answer can have; 0: unknown.
	MaxOutput int64
}

// LongContext is the number of input and cache tokens above which a request is
// charged at long rates, where a model has them.
// Source: https://ai.google.dev/gemini-api/docs/pricing
const LongContext = 200_000

// UnknownMaxOutput stands for the largest answer of a model of which none is known: as much
// as the largest of the common models can give.
const UnknownMaxOutput = 128_000

// scale is the number of decimals that money is kept with.
const scale = 12

// perMillion is the power of ten between a rate and the price of one token.
const perMillion = 6

var two = decimal.New(2, 0)

// Cost is what a request costs, in USD, rounded once and half up to 12
// decimals. A kind of token without a price of its own is charged as input;
// 1-hour cache writes of Anthropic models are charged twice the input price.
// Source: https://platform.claude.com/docs/en/about-claude/pricing
func (p Price) Cost(t Tokens) decimal.Decimal {
	long := t.Input+t.CacheRead+t.CacheWrite+t.CacheWrite1h > LongContext
	rate := func(base, dear *decimal.Decimal) *decimal.Decimal {
		if long && dear != nil {
			return dear
		}
		return base
	}
	input := decimal.Zero
	if r := rate(p.Base.Input, p.Long.Input); r != nil {
		input = *r
	}
	or := func(own *decimal.Decimal, other decimal.Decimal) decimal.Decimal {
		if own != nil {
			return *own
		}
		return other
	}
	hour := input
	if p.anthropic() {
		hour = input.Mul(two)
	}
	sum := decimal.NewFromInt(t.Input).Mul(input).
		Add(decimal.NewFromInt(t.Output).Mul(or(rate(p.Base.Output, p.Long.Output), input))).
		Add(decimal.NewFromInt(t.CacheRead).Mul(or(rate(p.Base.CacheRead, p.Long.CacheRead), input))).
		Add(decimal.NewFromInt(t.CacheWrite).Mul(or(rate(p.Base.CacheWrite, p.Long.CacheWrite), input))).
		Add(decimal.NewFromInt(t.CacheWrite1h).Mul(or(rate(p.Base.CacheWrite1h, p.Long.CacheWrite1h), hour)))
	return sum.Shift(-perMillion).Round(scale)
}

// CostOfMany is what many requests cost together, each of them at base rates: sums do
// not tell which of them were long.
func (p Price) CostOfMany(t Tokens) decimal.Decimal {
	p.Long = Rates{}
	return p.Cost(t)
}

// Dearest is the most that so many tokens can cost, in USD: all of them at the
// highest of the entry's rates.
func (p Price) Dearest(tokens int64) decimal.Decimal {
	most := decimal.Zero
	for _, r := range []*decimal.Decimal{
		p.Base.Input, p.Base.Output, p.Base.CacheRead, p.Base.CacheWrite, p.Base.CacheWrite1h,
		p.Long.Input, p.Long.Output, p.Long.CacheRead, p.Long.CacheWrite, p.Long.CacheWrite1h,
	} {
		if r != nil && r.GreaterThan(most) {
			most = *r
		}
	}
	if p.anthropic() { // a 1-hour write without a rate of its own costs twice the input
		for _, input := range []*decimal.Decimal{p.Base.Input, p.Long.Input} {
			if input != nil && input.Mul(two).GreaterThan(most) {
				most = input.Mul(two)
			}
		}
	}
	return decimal.NewFromInt(tokens).Mul(most).Shift(-perMillion).RoundUp(scale)
}

func (p Price) anthropic() bool {
	return strings.Contains(strings.ToLower(p.Provider), "anthropic") || strings.Contains(strings.ToLower(p.Model), "claude")
}
