package api

import (
	"encoding/base64"
	"encoding/json"

	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// A cursor is a list of texts that name the last row of a page, opaque to the
// caller.

func writeCursor(parts ...string) string {
	raw, err := json.Marshal(parts)
	if err != nil {
		return "" // texts can always be encoded
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// readCursor reads a cursor of n parts; nil when none was given.
func readCursor(cursor *string, n int) ([]string, error) {
	if cursor == nil || *cursor == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(*cursor)
	var parts []string
	if err != nil || json.Unmarshal(raw, &parts) != nil || len(parts) != n {
		return nil, badCursor()
	}
	return parts, nil
}

func badCursor() error {
	return fault.Fields(field.Error{Field: "cursor", Message: "must be the nextCursor of a page of this same list"})
}

// Page sizes.
const (
	defaultLimit = 50
	maxLimit     = 200
)

// pageSize is the number of rows asked for, and of rows to read: one more, which
// tells whether there is a next page.
func pageSize(limit *int) (size int, read int32, err error) {
	size = defaultLimit
	if limit != nil {
		size = *limit
	}
	if message := field.Range(int64(size), 1, maxLimit); message != "" {
		return 0, 0, fault.Fields(field.Error{Field: "limit", Message: message})
	}
	return size, int32(size) + 1, nil
}

// page cuts what was read to the page that was asked for, and returns the cursor of the next
// one: place names the last row. Empty: there is no next page.
func page[T any](rows []T, size int, place func(last T) []string) (cut []T, nextCursor string) {
	if len(rows) <= size {
		return rows, ""
	}
	return rows[:size], writeCursor(place(rows[size-1])...)
}
