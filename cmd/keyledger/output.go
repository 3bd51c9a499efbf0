package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/keyledger/keyledger/client/wire"
)

const timeLayout = "2006-01-02 15:04:05Z"

// table prints aligned columns for people.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, heads ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	cells := make([]any, len(heads))
	for i, h := range heads {
		cells[i] = h
	}
	if len(heads) > 0 {
		t.row(cells...)
	}
	return t
}

func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = plain(cell(c))
	}
	fmt.Fprintln(t.w, strings.Join(texts, "\t")) // errors come out of flush
}

func (t *table) flush() error { return t.w.Flush() }

// cell writes a value for people: nothing is "-".
func cell(v any) string {
	switch v := v.(type) {
	case *wire.Time:
		if v == nil {
			return "-"
		}
		return v.UTC().Format(timeLayout)
	case wire.Time:
		return v.UTC().Format(timeLayout)
	case time.Time:
		return v.UTC().Format(timeLayout)
	case *time.Time:
		if v == nil {
			return "-"
		}
		return v.UTC().Format(timeLayout)
	case wire.USD:
		return "$" + v.String()
	case *wire.USD:
		if v == nil {
			return "-"
		}
		return "$" + v.String()
	case *string:
		if v == nil {
			return "-"
		}
		return *v
	case []string:
		if len(v) == 0 {
			return "-"
		}
		return strings.Join(v, ",")
	case string:
		if v == "" {
			return "-"
		}
		return v
	}
	return fmt.Sprint(v)
}

// plain keeps control characters from the terminal: names and tags may hold
// anything.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}

// printJSON prints an answer for scripts, as the service gave it.
func printJSON(out io.Writer, raw []byte) error {
	var v any
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
