package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

// ListKeys answers GET /v1/keys.
func (s *Server) ListKeys(ctx context.Context, r ListKeysRequestObject) (ListKeysResponseObject, error) {
	size, read, wrongSize := pageSize(r.Params.Limit)
	params, err := listParams(r.Params)
	if err := fault.Join(wrongSize, err); err != nil {
		return nil, err
	}
	params.RowLimit = read
	var rows []db.KeyListRow
	var now map[uuid.UUID]numbers
	asOf, err := s.list(func(from *db.DB) (err error) {
		asked, err := narrow(ctx, from, params)
		if err != nil {
			return err
		}
		if rows, err = from.KeyList(ctx, asked); err != nil {
			return fmt.Errorf("listing keys: %w", err)
		}
		ids := make([]uuid.UUID, len(rows))
		for i, row := range rows {
			ids[i] = row.APIKey.ID
		}
		now, err = s.numbers(ctx, from, ids...)
		return err
	})
	if err != nil {
		return nil, err
	}
	answer := ListKeys200JSONResponse{Data: []KeyDetails{}, AsOf: asOf}
	rows, answer.NextCursor = page(rows, size, func(last db.KeyListRow) []string {
		return []string{sortName(r.Params.Sort), last.ByText, last.ByTime, last.ByNumber, last.APIKey.ID.String()}
	})
	for _, row := range rows {
		shown := db.KeyShowRow{APIKey: row.APIKey, Hint: row.Hint, KeyCounter: row.KeyCounter, AsOf: row.AsOf}
		answer.Data = append(answer.Data, details(shown, now[row.APIKey.ID]))
	}
	return answer, nil
}

// maxFound bounds how many keys a search lists by their ids.
const maxFound = 1000

// narrow does the search of a list first: where it finds few keys, they are listed by their ids.
// Where it finds more than maxFound, the list looks for the text itself while it reads keys in its
// order, until its page is full.
func narrow(ctx context.Context, from *db.DB, p db.KeyListParams) (db.KeyListParams, error) {
	if p.Pattern == nil {
		return p, nil
	}
	found, err := from.KeysFound(ctx, db.KeysFoundParams{Pattern: *p.Pattern, RowLimit: maxFound + 1})
	if err != nil {
		return p, fmt.Errorf("searching keys: %w", err)
	}
	if len(found) <= maxFound {
		p.Pattern, p.IDs = nil, append([]uuid.UUID{}, found...) // empty where none is found: nil would list all keys
	}
	return p, nil
}

// sorts are the orders a list can have, each with or without - before it.
var sorts = []string{"name", "createdAt", "lastUsedAt", "expiresAt", "cost", "requests"}

func sortName(sort *ListKeysParamsSort) string {
	if sort == nil {
		return "-createdAt"
	}
	return string(*sort)
}

func listParams(q ListKeysParams) (db.KeyListParams, error) {
	sort := sortName(q.Sort)
	name, descending := strings.CutPrefix(sort, "-")
	p := db.KeyListParams{Sort: name, Descending: descending, Tag: q.Tag, Permission: q.Permission, AccountID: q.AccountID,
		AfterTime: "-infinity", AfterNumber: "0"}
	var wrong []field.Error
	if !slices.Contains(sorts, name) {
		wrong = append(wrong, field.Error{Field: "sort", Message: "must be one of " + strings.Join(sorts, ", ") + ", with - before it to descend"})
	}
	if q.Status != nil {
		p.Status = string(*q.Status)
		if !slices.Contains([]string{key.StatusActive, key.StatusDisabled, key.StatusExpired, key.StatusDeleted}, p.Status) {
			wrong = append(wrong, field.Error{Field: "status", Message: "must be active, disabled, expired or deleted"})
		}
	}
	p.Pattern = likePattern(q.Q)
	after, err := readCursor(q.Cursor, 5)
	if err := fault.Join(err, fault.OrNil(wrong)); err != nil || after == nil {
		return p, err
	}
	id, err := uuid.Parse(after[4])
	if err != nil || after[0] != sort {
		return p, badCursor()
	}
	p.AfterText, p.AfterTime, p.AfterNumber, p.AfterID = after[1], after[2], after[3], &id
	return p, nil
}

// likePattern makes a pattern of LIKE that finds a text as it is, anywhere.
func likePattern(part *string) *string {
	if part == nil || *part == "" {
		return nil
	}
	pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(*part) + "%"
	return &pattern
}
