// Package wire holds the JSON forms of money and time that every answer of
// keyledger uses.
package wire

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// USD is an amount of money in US dollars. In JSON it is a plain number with all
// its digits and no exponent; a string is accepted too. It never passes through
// a float.
type USD struct{ decimal.Decimal }

// maxNumberText bounds the text of a number that is read: far more digits than
// any amount has, far fewer than would cost time to expand.
const maxNumberText = 64

// MarshalJSON writes a plain number.
func (u USD) MarshalJSON() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalJSON reads a number or a string that holds one. Texts over 64 bytes
// and exponents beyond ±64 are refused.
func (u *USD) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if len(text) > maxNumberText {
		return errors.New("number is too long")
	}
	d, err := decimal.NewFromString(text)
	if err != nil {
		return fmt.Errorf("not a number: %w", err)
	}
	if d.Exponent() > maxNumberText || d.Exponent() < -maxNumberText {
		return errors.New("number is out of range")
	}
	u.Decimal = d
	return nil
}

// Layout is how times are written: RFC 3339 in UTC with milliseconds.
const Layout = "2006-01-02T15:04:05.000Z07:00"

// Time is an instant. In JSON and in query parameters it is RFC 3339; written,
// it is UTC with exactly three decimals.
type Time struct{ time.Time }

// At makes a Time.
func At(t time.Time) Time { return Time{Time: t} }

// AtOrNil makes a Time of an instant that may be missing.
func AtOrNil(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	return &Time{Time: *t}
}

// String is the written form.
func (t Time) String() string { return t.UTC().Format(Layout) }

// MarshalText writes the form for query parameters and JSON.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads RFC 3339 with any offset and any number of decimals.
func (t *Time) UnmarshalText(text []byte) error {
	parsed, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return errors.New("not an RFC 3339 time")
	}
	t.Time = parsed
	return nil
}

// MarshalJSON writes the form in quotes.
func (t Time) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }

// UnmarshalJSON reads a JSON string in RFC 3339.
func (t *Time) UnmarshalJSON(raw []byte) error {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return errors.New("not an RFC 3339 time")
	}
	return t.UnmarshalText(raw[1 : len(raw)-1])
}

// Bind reads a query parameter; the generated server and client call it.
func (t *Time) Bind(src string) error { return t.UnmarshalText([]byte(src)) }
