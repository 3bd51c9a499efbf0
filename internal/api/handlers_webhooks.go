package api

import (
	"context"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// ListWebhooks answers GET /v1/webhooks.
func (s *Server) ListWebhooks(ctx context.Context, _ ListWebhooksRequestObject) (ListWebhooksResponseObject, error) {
	rows, err := s.Webhooks.List(ctx)
	if err != nil {
		return nil, err
	}
	answer := ListWebhooks200JSONResponse{Data: make([]webhookView, len(rows))}
	for i, row := range rows {
		if answer.Data[i] = webhook(row); callOf(ctx).identity.Role != access.Admin {
			answer.Data[i].URL = hostOf(row.Webhook.URL)
		}
	}
	return answer, nil
}

// CreateWebhook answers POST /v1/webhooks.
func (s *Server) CreateWebhook(ctx context.Context, r CreateWebhookRequestObject) (CreateWebhookResponseObject, error) {
	events := texts(r.Body.Events)
	row, secret, err := s.Webhooks.Create(ctx, actor(ctx), alert.Settings{URL: &r.Body.URL, Format: (*string)(r.Body.Format), Events: &events})
	if err != nil {
		return nil, err
	}
	return CreateWebhook201JSONResponse{webhook(db.WebhookListRow{Webhook: row}), secret}, nil
}

// UpdateWebhook answers PATCH /v1/webhooks/{id}.
func (s *Server) UpdateWebhook(ctx context.Context, r UpdateWebhookRequestObject) (UpdateWebhookResponseObject, error) {
	settings := alert.Settings{URL: r.Body.URL, Format: (*string)(r.Body.Format), IsActive: r.Body.IsActive, NewSecret: r.Body.NewSecret != nil && *r.Body.NewSecret}
	if r.Body.Events != nil {
		settings.Events = new(texts(*r.Body.Events))
	}
	secret, err := s.Webhooks.Update(ctx, actor(ctx), r.ID, settings)
	if err != nil {
		return nil, err
	}
	row, err := s.Webhooks.Show(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return UpdateWebhook200JSONResponse{webhook(row), secret}, nil
}

// DeleteWebhook answers DELETE /v1/webhooks/{id}.
func (s *Server) DeleteWebhook(ctx context.Context, r DeleteWebhookRequestObject) (DeleteWebhookResponseObject, error) {
	return DeleteWebhook204Response{}, s.Webhooks.Delete(ctx, actor(ctx), r.ID)
}

// TestWebhook answers POST /v1/webhooks/{id}/test.
func (s *Server) TestWebhook(ctx context.Context, r TestWebhookRequestObject) (TestWebhookResponseObject, error) {
	event, err := s.Webhooks.Test(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return TestWebhook202JSONResponse{EventID: event}, nil
}

// ListDeliveries answers GET /v1/webhooks/{id}/deliveries.
func (s *Server) ListDeliveries(ctx context.Context, r ListDeliveriesRequestObject) (ListDeliveriesResponseObject, error) {
	size, read, wrongSize := pageSize(r.Params.Limit)
	p := db.DeliveryListParams{WebhookID: r.ID, State: (*string)(r.Params.State), RowLimit: read}
	var wrong []field.Error
	if p.State != nil && !slices.Contains([]string{"pending", "delivered", "dead"}, *p.State) {
		wrong = append(wrong, field.Error{Field: "state", Message: "must be pending, delivered or dead"})
	}
	after, err := readCursor(r.Params.Cursor, 2)
	if err := fault.Join(wrongSize, fault.OrNil(wrong), err); err != nil {
		return nil, err
	}
	if after != nil {
		at, wrongTime := time.Parse(time.RFC3339Nano, after[0])
		id, wrongID := uuid.Parse(after[1])
		if wrongTime != nil || wrongID != nil {
			return nil, badCursor()
		}
		p.BeforeAt, p.BeforeID = &at, &id
	}
	rows, err := s.Webhooks.Deliveries(ctx, p)
	if err != nil {
		return nil, err
	}
	answer := ListDeliveries200JSONResponse{Data: []Delivery{}}
	rows, answer.NextCursor = page(rows, size, func(last db.DeliveryListRow) []string {
		return []string{last.At.Format(time.RFC3339Nano), last.WebhookDelivery.EventID.String()}
	})
	for _, row := range rows {
		answer.Data = append(answer.Data, delivery(row))
	}
	return answer, nil
}

// RetryDelivery answers POST /v1/webhooks/{id}/deliveries/{eventId}/retry.
func (s *Server) RetryDelivery(ctx context.Context, r RetryDeliveryRequestObject) (RetryDeliveryResponseObject, error) {
	return RetryDelivery204Response{}, s.Webhooks.Again(ctx, r.ID, r.EventID)
}

// hostOf is all of an address that who may not change it sees: chats keep a secret in the rest.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + "/..."
}

func webhook(row db.WebhookListRow) webhookView {
	w := row.Webhook
	view := webhookView{ID: w.ID, URL: w.URL, Format: w.Format, Events: w.Events, IsActive: w.IsActive, DisabledFor: w.DisabledFor, CreatedBy: w.CreatedBy,
		CreatedAt: wire.At(w.CreatedAt), UpdatedAt: wire.At(w.UpdatedAt), Pending: row.Pending, Dead: row.Dead}
	if row.DeliveredAt.Year() > 1 {
		view.DeliveredAt = wire.AtOrNil(&row.DeliveredAt)
	}
	return view
}

func delivery(row db.DeliveryListRow) Delivery {
	d := row.WebhookDelivery
	view := Delivery{EventID: d.EventID, Type: row.Type, At: wire.At(row.At), KeyID: row.KeyID, State: DeliveryState(d.State), Attempts: d.Attempts,
		LastStatus: d.LastStatus, LastError: d.LastError, EndedAt: wire.AtOrNil(d.EndedAt)}
	if d.EndedAt == nil {
		view.NextAt = wire.AtOrNil(&d.NextAt)
	}
	return view
}

// texts are the values of an enumeration as plain text.
func texts[T ~string](values []T) []string {
	plain := make([]string, len(values))
	for i, value := range values {
		plain[i] = string(value)
	}
	return plain
}
