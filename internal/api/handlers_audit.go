package api

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
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
		answer.Data[i] = AuditEntry{At: wire.At(row.At), Actor: row.Actor, Action: row.Action, RequestID: row.RequestID,
			Before: object(row.Before), After: object(row.After)}
	}
	return answer, nil
}

// object makes a JSON object of one in the database; nil when there is none.
func object(raw json.RawMessage) *map[string]any {
	var o map[string]any
	if len(raw) == 0 || json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return &o
}
