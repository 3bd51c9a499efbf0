package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"

	"github.com/shopspring/decimal"
)

// population is who a load is of: which keys it draws and how often, and how many
// accounts and models its usage names.
type population struct {
	keys, accounts, models int
	shares                 []float64 // of the first 1, 2, … keys; nil: all keys are equal
}

// even draws all keys equally: the worst case for a cache.
func even(keys int) population { return population{keys: keys, accounts: 20, models: 1} }

// The real shape: what a relay with a team behind it looks like. Keys are drawn by Zipf,
// the second half as often as the first, the third a third as often.
const (
	realKeys    = 500
	realClients = 64
)

func realShape(keys int) population {
	p := population{keys: keys, accounts: 5, models: len(models)}
	sum := 0.0
	for i := range keys {
		sum += 1 / float64(i+1)
		p.shares = append(p.shares, sum)
	}
	for i := range p.shares {
		p.shares[i] /= sum
	}
	return p
}

// String names the population.
func (p population) String() string {
	if p.shares == nil {
		return fmt.Sprintf("%d keys evenly, %d clients", p.keys, clients)
	}
	return fmt.Sprintf("%d keys by Zipf, %d accounts, %d clients", p.keys, p.accounts, realClients)
}

// anyKey is a key, drawn at random.
func (p population) anyKey() int { return p.keyAt(rand.Float64()) } //nolint:gosec // a choice, not a secret

// keyAt is the key at a place between 0 and 1.
func (p population) keyAt(place float64) int {
	if p.shares == nil {
		return min(int(place*float64(p.keys)), p.keys-1)
	}
	return min(sort.SearchFloat64s(p.shares, place), p.keys-1)
}

// pricedModel is a model of usage events, with its prices in USD a million tokens, in, out
// and read from the cache. Source: https://platform.claude.com/docs/en/about-claude/pricing
type pricedModel struct {
	name                  string
	input, output, cached string
}

var models = []pricedModel{
	{"claude-sonnet-4-20250514", "3", "15", "0.3"},
	{"claude-3-5-haiku-20241022", "0.8", "4", "0.08"},
	{"claude-opus-4-20250514", "15", "75", "1.5"},
}

// fact is what a usage event says.
type fact struct {
	key                   int
	account               string
	model                 pricedModel
	input, output, cached int64 // tokens
}

// fact is usage event n: the same n is the same event.
func (p population) fact(n int64) fact {
	place := float64(uint64(n)*0x9E3779B97F4A7C15>>11) / math.Exp2(53) //nolint:gosec // spreads them
	return fact{p.keyAt(place), fmt.Sprintf("account-%d", n%int64(p.accounts)), models[n%int64(p.models)], 1000 + n%1000, 100 + n%100, n % 5000}
}

// cost is what it costs, in USD.
func (f fact) cost() decimal.Decimal {
	of := func(tokens int64, rate string) decimal.Decimal {
		return decimal.NewFromInt(tokens).Mul(decimal.RequireFromString(rate)).Shift(-6)
	}
	return of(f.input, f.model.input).Add(of(f.output, f.model.output)).Add(of(f.cached, f.model.cached))
}

// event is usage event n as a relay sends it.
func (p population) event(into []byte, n int64) []byte {
	f := p.fact(n)
	return fmt.Appendf(into, `{"keyId":"%s","accountId":%q,"model":%q,"requestId":"b-%d","usage":{"input_tokens":%d,"output_tokens":%d,"cache_read_input_tokens":%d}}`,
		idOf(f.key), f.account, f.model.name, n, f.input, f.output, f.cached)
}
