package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/usage"
)

// RecordUsage answers POST /v1/usage.
func (s *Server) RecordUsage(ctx context.Context, r RecordUsageRequestObject) (RecordUsageResponseObject, error) {
	events, err := readEvents(*r.Body)
	if err != nil {
		return nil, err
	}
	results, err := s.Usage.Record(ctx, events)
	if err != nil {
		return nil, err
	}
	return recorded(results), nil
}

// readEvents checks one event or each of a list, and names all that is wrong.
func readEvents(body jsontext.Value) ([]usage.Event, error) {
	// Most bodies are one event in which all is right, and are read once.
	var alone struct {
		usage.Report

		Events jsontext.Value `json:"events"`
	}
	if jsonv2.Unmarshal(body, &alone, jsonv2.RejectUnknownMembers(true)) == nil && alone.Events == nil {
		if event, wrong := usage.Check(alone.Report, ""); wrong == nil {
			return []usage.Event{event}, nil
		}
	}
	var members map[string]jsontext.Value
	if body.Kind() != jsontext.KindBeginObject || jsonv2.Unmarshal(body, &members) != nil {
		return nil, fault.Fields(field.Error{Field: "body", Message: "must be an object"})
	}
	list, several := members["events"]
	if !several {
		event, wrong, err := readEvent(body, "")
		if err != nil || wrong != nil {
			return nil, errors.Join(err, fault.OrNil(wrong))
		}
		return []usage.Event{event}, nil
	}
	if len(members) > 1 {
		return nil, fault.Fields(field.Error{Field: "events", Message: "must stand alone: send one event, or a list of them"})
	}
	items := readList(list, usage.MaxBatch)
	if len(items) < 1 || len(items) > usage.MaxBatch {
		return nil, fault.Fields(field.Error{Field: "events", Message: fmt.Sprintf("must be a list of 1 to %d events", usage.MaxBatch)})
	}
	events := make([]usage.Event, len(items))
	var wrong []field.Error
	for i, item := range items {
		event, bad, err := readEvent(item, fmt.Sprintf("events[%d].", i))
		if err != nil {
			return nil, err
		}
		wrong = append(wrong, bad...)
		events[i] = event
	}
	return events, fault.OrNil(wrong)
}

// readList reads the items of a list up to one past most; nil: it is none. A list of
// millions of nothings is not unfolded to be counted.
func readList(list jsontext.Value, most int) (items []jsontext.Value) {
	d := jsontext.NewDecoder(bytes.NewReader(list))
	if t, err := d.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginArray {
		return nil
	}
	for len(items) <= most && d.PeekKind() != jsontext.KindEndArray {
		item, err := d.ReadValue()
		if err != nil {
			return nil
		}
		items = append(items, item.Clone())
	}
	return items
}

// readEvent reads one event. What cannot be read of it is named, and the rules are
// checked on the rest all the same.
func readEvent(raw jsontext.Value, path string) (usage.Event, []field.Error, error) {
	var one usage.Report
	misfits, err := decode(raw, &one)
	if err != nil {
		return usage.Event{}, nil, err
	}
	event, bad := usage.Check(one, path)
	var wrong []field.Error
	unread := map[string]bool{}
	for _, f := range misfits {
		unread[path+f.Field] = true
		wrong = append(wrong, field.Error{Field: path + f.Field, Message: f.Message})
	}
	for _, f := range bad {
		if !unread[f.Field] && !unread[path+"body"] {
			wrong = append(wrong, f)
		}
	}
	return event, wrong, nil
}

// GetKeyUsage answers GET /v1/keys/{id}/usage.
func (s *Server) GetKeyUsage(ctx context.Context, r GetKeyUsageRequestObject) (GetKeyUsageResponseObject, error) {
	row, err := s.Keys.Show(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	full, err := s.keyStats(ctx, row, timeIn(r.Params.AsOf))
	if err != nil {
		return nil, err
	}
	return GetKeyUsage200JSONResponse{StatsAnswerJSONResponse(full)}, nil
}

func timeIn(t *wire.Time) *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}

func (s *Server) keyStats(ctx context.Context, row db.KeyShowRow, asOf *time.Time) (stats, error) {
	id, at := row.APIKey.ID, row.AsOf
	if asOf != nil {
		at = *asOf
	}
	periods, err := s.Stats.Keys(ctx, []uuid.UUID{id}, &at)
	if err != nil {
		return stats{}, err
	}
	models, err := s.Stats.KeyModels(ctx, id)
	if err != nil {
		return stats{}, err
	}
	return statsOf(usage.OfKey(row.KeyCounter), periods[id], models, row.APIKey.CreatedAt, at, usage.Block.All), nil
}

// GetAccountUsage answers GET /v1/accounts/{accountId}/usage.
func (s *Server) GetAccountUsage(ctx context.Context, r GetAccountUsageRequestObject) (GetAccountUsageResponseObject, error) {
	one, err := s.Stats.Account(ctx, r.AccountID, timeIn(r.Params.AsOf))
	if err != nil {
		return nil, err
	}
	models, err := s.Stats.AccountModels(ctx, r.AccountID)
	if err != nil {
		return nil, err
	}
	full := statsOf(one.Total, one.Periods, models, one.FirstUsed, one.AsOf, usage.Block.Core)
	return GetAccountUsage200JSONResponse{StatsAnswerJSONResponse(full)}, nil
}

// ListAccountUsage answers GET /v1/accounts/usage.
func (s *Server) ListAccountUsage(ctx context.Context, r ListAccountUsageRequestObject) (ListAccountUsageResponseObject, error) {
	size, read, err := pageSize(r.Params.Limit)
	if err != nil {
		return nil, err
	}
	cursor, err := readCursor(r.Params.Cursor, 2)
	if err != nil {
		return nil, err
	}
	var after *usage.AccountsAfter
	if cursor != nil {
		tokens, err := strconv.ParseInt(cursor[0], 10, 64)
		if err != nil {
			return nil, badCursor()
		}
		after = &usage.AccountsAfter{Tokens: tokens, ID: cursor[1]}
	}
	var found []usage.Account
	asOf, err := s.list(func(from *db.DB) (err error) {
		found, err = s.Stats.From(from).AccountList(ctx, after, timeIn(r.Params.AsOf), read)
		return err
	})
	if err != nil {
		return nil, err
	}
	answer := ListAccountUsage200JSONResponse{Data: []AccountUsage{}, AsOf: asOf}
	found, answer.NextCursor = page(found, size, func(last usage.Account) []string {
		return []string{strconv.FormatInt(last.Daily.All(), 10), last.ID}
	})
	for _, a := range found {
		answer.Data = append(answer.Data, accountUsage{
			AccountID: a.ID, FirstUsedAt: wire.At(a.FirstUsed), LastUsedAt: wire.At(a.LastUsed),
			Usage: usageOf(a.Total, a.Periods, a.FirstUsed, a.AsOf, usage.Block.Core),
		})
	}
	return answer, nil
}

// ListEvents answers GET /v1/events.
func (s *Server) ListEvents(ctx context.Context, r ListEventsRequestObject) (ListEventsResponseObject, error) {
	size, read, err := pageSize(r.Params.Limit)
	if err != nil {
		return nil, err
	}
	q := r.Params
	params := db.EventListParams{OfKey: q.KeyID, AccountID: q.AccountID, Model: q.Model, RequestID: q.RequestID,
		From: timeIn(q.From), To: timeIn(q.To), RowLimit: read}
	if q.Kind != nil {
		kind := string(*q.Kind)
		if kind != "usage" && kind != "adjustment" && kind != "opening" {
			return nil, fault.Fields(field.Error{Field: "kind", Message: "must be usage, adjustment or opening"})
		}
		params.Kind = &kind
	}
	after, err := readCursor(q.Cursor, 2)
	if err != nil {
		return nil, err
	}
	if after != nil {
		id, err := uuid.Parse(after[0])
		chunk, wrong := strconv.ParseInt(after[1], 10, 64)
		if err != nil || wrong != nil {
			return nil, badCursor()
		}
		params.AfterID, params.AfterChunk = &id, &chunk
	}
	var rows []db.EventListRow
	asOf, err := s.list(func(from *db.DB) (err error) {
		rows, err = db.Steady(ctx, from, func(q *db.Queries) ([]db.EventListRow, error) { return q.EventList(ctx, params) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing events: %w", err)
	}
	answer := ListEvents200JSONResponse{Data: []Event{}, AsOf: asOf}
	rows, answer.NextCursor = page(rows, size, func(last db.EventListRow) []string {
		return []string{last.StoredUsageArchive.EventID.String(), strconv.FormatInt(last.StoredUsageArchive.Chunk, 10)}
	})
	for _, row := range rows {
		answer.Data = append(answer.Data, event(db.LedgerRow(row.StoredUsageArchive), row.KeyID))
	}
	return answer, nil
}

// GetEvent answers GET /v1/events/{id}.
func (s *Server) GetEvent(ctx context.Context, r GetEventRequestObject) (GetEventResponseObject, error) {
	row, err := db.Steady(ctx, s.DB, func(q *db.Queries) (db.EventFindRow, error) { return q.EventFind(ctx, r.ID) })
	if db.Missing(err) {
		return nil, fault.New(fault.NotFound, "No such event in the retained ledger.")
	}
	if err != nil {
		return nil, fmt.Errorf("reading an event: %w", err)
	}
	if row.KeyID == uuid.Nil {
		row.KeyID = row.LedgerRow.LedgerID
	}
	return GetEvent200JSONResponse(event(row.LedgerRow, row.KeyID)), nil
}

// VoidEvent answers POST /v1/events/{id}/void.
func (s *Server) VoidEvent(ctx context.Context, r VoidEventRequestObject) (VoidEventResponseObject, error) {
	reason, wrong := field.Trim(r.Body.Reason, 1, 500)
	if wrong != "" {
		return nil, fault.Fields(field.Error{Field: "reason", Message: wrong})
	}
	result, err := s.Usage.Void(ctx, actor(ctx), r.ID, reason)
	if err != nil {
		return nil, err
	}
	return VoidEvent200JSONResponse(usageResult(result)), nil
}
