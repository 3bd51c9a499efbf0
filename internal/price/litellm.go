package price

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"unicode/utf8"

	"github.com/shopspring/decimal"
)

// Import is what a price file holds.
type Import struct {
	Prices  []Price
	Skipped []Skipped // by reason, in order
}

// Skipped counts entries of a price file that were passed over for one reason.
type Skipped struct {
	Reason string
	Count  int
}

// tokenModes are the modes of LiteLLM's file that are charged by the token; an
// entry that names no mode is judged by its prices.
var tokenModes = map[string]bool{"": true, "chat": true, "completion": true, "responses": true, "embedding": true, "rerank": true, "moderation": true}

// liteLLMEntry is the part of an entry that we read. Numbers are kept as text:
// a price never becomes a float.
type liteLLMEntry struct {
	Mode     string `json:"mode"`
	Provider string `json:"litellm_provider"`

	MaxOutput json.Number `json:"max_output_tokens"`

	Input        json.Number `json:"input_cost_per_token"`
	Output       json.Number `json:"output_cost_per_token"`
	CacheRead    json.Number `json:"cache_read_input_token_cost"`
	CacheWrite   json.Number `json:"cache_creation_input_token_cost"`
	CacheWrite1h json.Number `json:"cache_creation_input_token_cost_above_1hr"`

	LongInput        json.Number `json:"input_cost_per_token_above_200k_tokens"`
	LongOutput       json.Number `json:"output_cost_per_token_above_200k_tokens"`
	LongCacheRead    json.Number `json:"cache_read_input_token_cost_above_200k_tokens"`
	LongCacheWrite   json.Number `json:"cache_creation_input_token_cost_above_200k_tokens"`
	LongCacheWrite1h json.Number `json:"cache_creation_input_token_cost_above_1hr_above_200k_tokens"`
}

// ParseLiteLLM reads a price file in LiteLLM's format: an object of models,
// prices in USD per token. Entries that are not charged by the token are
// skipped and counted; an entry that cannot be read fails the whole file, by
// name, so that nothing is half imported.
// Source: https://docs.litellm.ai/docs/provider_registration/add_model_pricing
func ParseLiteLLM(file []byte) (Import, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(file, &raw); err != nil {
		return Import{}, fmt.Errorf("the file is not a JSON object of models: %w", err)
	}
	skipped := map[string]int{}
	var found Import
	for model, text := range raw {
		if model == "sample_spec" {
			skipped["sample_spec, the format's own description"]++
			continue
		}
		var entry liteLLMEntry
		if err := json.Unmarshal(text, &entry); err != nil {
			return Import{}, fmt.Errorf("entry %q: %w", model, err)
		}
		price, reason, err := entry.price(model)
		if err != nil {
			return Import{}, fmt.Errorf("entry %q: %w", model, err)
		}
		if reason != "" {
			skipped[reason]++
			continue
		}
		found.Prices = append(found.Prices, price)
	}
	sort.Slice(found.Prices, func(i, j int) bool { return found.Prices[i].Model < found.Prices[j].Model })
	for reason, n := range skipped {
		found.Skipped = append(found.Skipped, Skipped{reason, n})
	}
	sort.Slice(found.Skipped, func(i, j int) bool { return found.Skipped[i].Reason < found.Skipped[j].Reason })
	return found, nil
}

func (e liteLLMEntry) price(model string) (p Price, skip string, err error) {
	if !tokenModes[e.Mode] {
		return p, "mode " + e.Mode + " is not charged by the token", nil
	}
	if e.Input == "" && e.Output == "" {
		return p, "no price per token", nil
	}
	if n := utf8.RuneCountInString(model); n < 1 || n > 200 {
		return p, "", errors.New("the model's name must have 1 to 200 characters")
	}
	read := func(n json.Number) *decimal.Decimal {
		if n == "" || err != nil {
			return nil
		}
		var d decimal.Decimal
		d, err = perMillionRate(n)
		return &d
	}
	p = Price{
		Model: model, Provider: e.Provider, Source: SourceLiteLLM,
		Base: Rates{read(e.Input), read(e.Output), read(e.CacheRead), read(e.CacheWrite), read(e.CacheWrite1h)},
		Long: Rates{read(e.LongInput), read(e.LongOutput), read(e.LongCacheRead), read(e.LongCacheWrite), read(e.LongCacheWrite1h)},
	}
	if n, err := e.MaxOutput.Int64(); err == nil && n > 0 { // text in its place says nothing
		p.MaxOutput = n
	}
	return p, "", err
}

// perMillionRate reads a price per token exactly.
func perMillionRate(n json.Number) (decimal.Decimal, error) {
	d, err := decimal.NewFromString(n.String())
	if err != nil {
		return d, fmt.Errorf("price %q is not a number", n)
	}
	d = d.Shift(perMillion)
	return d, CheckRate(d)
}

// ErrRate is the rule that every price keeps.
var ErrRate = errors.New("a price must not be negative, must be below 1000000000000 USD per million tokens, and must have at most 12 decimals")

// CheckRate tells whether a price per million tokens can be stored exactly.
func CheckRate(d decimal.Decimal) error {
	const digits = 12
	if d.Exponent() > digits || d.Exponent() < -64 || d.IsNegative() ||
		d.GreaterThanOrEqual(decimal.New(1, digits)) || !d.Equal(d.Truncate(digits)) {
		return ErrRate
	}
	return nil
}
