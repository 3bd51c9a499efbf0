package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// ListKeyAudit answers GET /v1/keys/{id}/audit.
func (s *Server) ListKeyAudit(ctx context.Context, r ListKeyAuditRequestObject) (ListKeyAuditResponseObject, error) {
	if _, err := s.Keys.Show(ctx, r.ID); err != nil {
		return nil, err
	}
	rows, err := s.DB.AuditList(ctx, db.AuditListParams{TargetID: r.ID.String(), TargetTypes: []string{"key", "secret"}, RowLimit: maxLimit})
	if err != nil {
		return nil, fmt.Errorf("reading the audit trail: %w", err)
	}
	answer := ListKeyAudit200JSONResponse{Data: make([]AuditEntry, len(rows))}
	for i, row := range rows {
		answer.Data[i] = auditEntry(row)
	}
	return answer, nil
}

// ListAudit answers GET /v1/audit.
func (s *Server) ListAudit(ctx context.Context, r ListAuditRequestObject) (ListAuditResponseObject, error) {
	size, read, wrongSize := pageSize(r.Params.Limit)
	p := db.AuditTrailParams{TargetID: r.Params.TargetID, Actor: r.Params.Actor, RowLimit: read}
	var wrong []field.Error
	if kind := r.Params.TargetType; kind != nil {
		text := string(*kind)
		if p.TargetType = &text; !slices.Contains(auditTargets, text) {
			wrong = append(wrong, field.Error{Field: "targetType", Message: "must be one of " + strings.Join(auditTargets, ", ")})
		}
	}
	for name, text := range map[string]*string{"targetId": r.Params.TargetID, "actor": r.Params.Actor} {
		if text != nil && utf8.RuneCountInString(*text) > maxAuditText {
			wrong = append(wrong, field.Error{Field: name, Message: fmt.Sprintf("must have at most %d characters", maxAuditText)})
		}
	}
	after, err := readCursor(r.Params.Cursor, 1)
	if err := fault.Join(wrongSize, fault.OrNil(wrong), err); err != nil {
		return nil, err
	}
	if after != nil {
		id, err := strconv.ParseInt(after[0], 10, 64)
		if err != nil {
			return nil, badCursor()
		}
		p.BeforeID = &id
	}
	var rows []db.AuditLog
	asOf, err := s.list(func(from *db.DB) (err error) {
		rows, err = from.AuditTrail(ctx, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the audit trail: %w", err)
	}
	answer := ListAudit200JSONResponse{Data: []auditRow{}, AsOf: asOf}
	rows, answer.NextCursor = page(rows, size, func(last db.AuditLog) []string { return []string{strconv.FormatInt(last.ID, 10)} })
	for _, row := range rows {
		answer.Data = append(answer.Data, auditRow{auditEntry(row), row.TargetType, row.TargetID})
	}
	return answer, nil
}

// maxAuditText bounds what the trail is searched by, in characters.
const maxAuditText = 200

// auditTargets are the kinds of things that the audit trail tells of.
var auditTargets = []string{"key", "secret", "token", "prices", "event", "ledger", "rollups", "webhook"}

func auditEntry(row db.AuditLog) AuditEntry {
	return AuditEntry{ID: row.ID, At: wire.At(row.At), Actor: row.Actor, Action: row.Action, RequestID: row.RequestID, Before: object(row.Before), After: object(row.After)}
}

// object makes a JSON object of one in the database; nil when there is none.
func object(raw json.RawMessage) *map[string]any {
	var o map[string]any
	if len(raw) == 0 || json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return &o
}
