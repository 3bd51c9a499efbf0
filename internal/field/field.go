// Package field checks single members of requests: text, whole numbers, amounts of money,
// lists and objects. What is wrong is told in words that say the rule.
package field

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/shopspring/decimal"
)

// Error names a wrong field and the rule it breaks.
type Error struct {
	Field   string
	Message string
}

// Object is a JSON object as received, by member.
type Object map[string]jsontext.Value

// maxUSDScale is how many decimals an amount may have.
const maxUSDScale = 12

// maxUSD is the first amount too large for numeric(24,12).
var maxUSD = decimal.New(1, 12)

// Text reads a JSON string of low to high characters after trimming.
func Text(raw jsontext.Value, low, high int) (value, message string) {
	if raw.Kind() != '"' || jsonv2.Unmarshal(raw, &value) != nil {
		return "", "must be a string"
	}
	return Trim(value, low, high)
}

// Trim trims a text and checks that low to high characters remain, without
// U+0000, which PostgreSQL cannot hold.
func Trim(text string, low, high int) (value, message string) {
	value = strings.TrimSpace(text)
	switch n := utf8.RuneCountInString(value); {
	case strings.ContainsRune(value, 0):
		return "", "must not contain U+0000"
	case n < low && n == 0:
		return "", "must not be empty"
	case n < low || n > high:
		return "", fmt.Sprintf("must have %d to %d characters", low, high)
	}
	return value, ""
}

// Integer reads a whole JSON number between 0 and high.
func Integer(raw jsontext.Value, high int64) (value int64, message string) {
	if raw.Kind() != '0' {
		return 0, "must be a whole number"
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case err != nil && strings.ContainsAny(string(raw), ".eE"):
		return 0, "must be a whole number, written without a point or an exponent"
	case err != nil || n > high:
		return 0, fmt.Sprintf("must be at most %d", high)
	case n < 0:
		return 0, "must not be negative"
	}
	return n, ""
}

// Range checks a number against bounds, both allowed.
func Range(n, low, high int64) (message string) {
	if n < low || n > high {
		return fmt.Sprintf("must be between %d and %d", low, high)
	}
	return ""
}

// Money reads an amount in USD, as a number or a string: not negative, at most
// 12 decimals, below 10^12.
func Money(raw jsontext.Value) (amount decimal.Decimal, message string) {
	const rule = "must be an amount in USD, a number or a string like \"12.50\""
	written := string(raw)
	if raw.Kind() == '"' && jsonv2.Unmarshal(raw, &written) != nil {
		return amount, rule
	}
	if raw.Kind() != '0' && raw.Kind() != '"' || len(written) > 64 {
		return amount, rule
	}
	amount, err := decimal.NewFromString(written)
	switch {
	case err != nil:
		return amount, rule
	case amount.IsNegative():
		return amount, "must not be negative"
	case amount.Exponent() > 64 || amount.GreaterThanOrEqual(maxUSD):
		return amount, "must be below 1000000000000"
	case amount.Exponent() < -64 || !amount.Equal(amount.Truncate(maxUSDScale)):
		return amount, "must have at most 12 decimals"
	}
	return amount, ""
}

// Texts reads a JSON list of distinct texts of 1 to high characters.
func Texts(raw jsontext.Value, most, high int) (values []string, message string) {
	return list(raw, most, "strings", func(item jsontext.Value) (string, string) { return Text(item, 1, high) })
}

// Integers reads a JSON list of distinct whole numbers between 1 and high.
func Integers(raw jsontext.Value, most int, high int64) (values []int64, message string) {
	return list(raw, most, "whole numbers", func(item jsontext.Value) (int64, string) {
		value, wrong := Integer(item, high)
		if wrong == "" {
			wrong = Range(value, 1, high)
		}
		return value, wrong
	})
}

// list reads a JSON list of at most so many distinct entries.
func list[T comparable](raw jsontext.Value, most int, of string, read func(jsontext.Value) (T, string)) (values []T, message string) {
	var items []jsontext.Value
	if raw.Kind() != '[' || jsonv2.Unmarshal(raw, &items) != nil {
		return nil, "must be a list of " + of
	}
	if len(items) > most {
		return nil, fmt.Sprintf("must have at most %d entries", most)
	}
	values = make([]T, 0, len(items))
	for i, item := range items {
		value, wrong := read(item)
		if wrong != "" {
			return nil, fmt.Sprintf("entry %d %s", i, wrong)
		}
		if slices.Contains(values, value) {
			return nil, fmt.Sprintf("entry %d repeats %#v", i, value)
		}
		values = append(values, value)
	}
	return values, ""
}

// Clip cuts a text that nobody is told about to so many bytes, and takes out of it what the
// database takes no text of.
func Clip(text string, most int) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// Fit is another program's id or name as ours may be: trimmed, without what is no UTF-8 and
// U+0000, and where it is longer than 200 characters it ends in a hash of itself.
func Fit(text string) string {
	const most, kept = 200, 160
	text = strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), ""))
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return Clip(text, kept) + hex.EncodeToString(sum[:16])
}
