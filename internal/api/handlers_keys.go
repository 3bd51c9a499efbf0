package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
)

// CreateKey answers POST /v1/keys.
func (s *Server) CreateKey(ctx context.Context, r CreateKeyRequestObject) (CreateKeyResponseObject, error) {
	fields, wrong := key.ForCreate(*r.Body, s.rules(), true)
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	idem, err := idempotency(r.Params.IdempotencyKey, *r.Body)
	if err != nil {
		return nil, err
	}
	made, err := s.Keys.Create(ctx, actor(ctx), fields, idem)
	if err != nil {
		return nil, err
	}
	answer, err := s.issuedAnswer(ctx, made)
	if err != nil {
		return nil, err
	}
	if made.Replayed {
		return CreateKey200JSONResponse{answer}, nil
	}
	return CreateKey201JSONResponse{Body: answer.Body, Headers: CreateKey201ResponseHeaders(answer.Headers)}, nil
}

func (s *Server) issuedAnswer(ctx context.Context, made keys.Issued) (IssuedKeyAnswerJSONResponse, error) {
	now, err := s.numbers(ctx, s.DB, made.Row.APIKey.ID)
	if err != nil {
		return IssuedKeyAnswerJSONResponse{}, err
	}
	return IssuedKeyAnswerJSONResponse{
		Body:    issued(made, now[made.Row.APIKey.ID]),
		Headers: IssuedKeyAnswerResponseHeaders{ETag: etag(made.Row.APIKey.Version)},
	}, nil
}

// numbers reads what keys have used and hold: two statements, however many keys.
func (s *Server) numbers(ctx context.Context, from *db.DB, ids ...uuid.UUID) (map[uuid.UUID]numbers, error) {
	periods, err := s.Stats.From(from).Keys(ctx, ids, nil)
	if err != nil {
		return nil, err
	}
	held, err := from.AdmissionsHeld(ctx, db.AdmissionsHeldParams{KeyIDs: ids})
	if err != nil {
		return nil, fmt.Errorf("reading what keys hold: %w", err)
	}
	all := make(map[uuid.UUID]numbers, len(ids))
	for id, p := range periods {
		all[id] = numbers{periods: p}
	}
	for _, h := range held {
		all[h.KeyID] = numbers{all[h.KeyID].periods, h}
	}
	return all, nil
}

// idempotency makes a claim of an Idempotency-Key header and the body it came with.
func idempotency(header *string, body any) (keys.Idempotency, error) {
	if header == nil {
		return keys.Idempotency{}, nil
	}
	if len(*header) < 1 || len(*header) > 200 {
		return keys.Idempotency{}, fault.Fields(field.Error{Field: "Idempotency-Key", Message: "must have 1 to 200 characters"})
	}
	raw, err := jsonv2.Marshal(body, jsonv2.Deterministic(true))
	if err != nil {
		return keys.Idempotency{}, fmt.Errorf("encoding a body: %w", err)
	}
	sum := sha256.Sum256(raw)
	return keys.Idempotency{Key: *header, Fingerprint: sum[:]}, nil
}

// CreateKeys answers POST /v1/keys/batch.
func (s *Server) CreateKeys(ctx context.Context, r CreateKeysRequestObject) (CreateKeysResponseObject, error) {
	body := *r.Body
	base, wrongBase := textMember(body, "baseName", 1, 96)
	count, wrongCount := field.Integer(body["count"], keys.MaxBatch)
	if wrongCount == "" && count < 1 {
		wrongCount = "must be at least 1"
	}
	delete(body, "baseName")
	delete(body, "count")
	fields, wrong := key.ForCreate(body, s.rules(), false)
	wrong = appendWrong(wrong, "baseName", wrongBase)
	wrong = appendWrong(wrong, "count", wrongCount)
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	made, err := s.Keys.CreateBatch(ctx, actor(ctx), base, int(count), fields)
	if err != nil {
		return nil, err
	}
	answer := CreateKeys201JSONResponse{Data: make([]IssuedKey, len(made))}
	for i, m := range made {
		answer.Data[i] = issued(m, numbers{}) // a new key has used nothing
	}
	return answer, nil
}

func textMember(o field.Object, name string, low, high int) (value, wrong string) {
	raw, given := o[name]
	if !given {
		return "", "is required"
	}
	return field.Text(raw, low, high)
}

func appendWrong(wrong []field.Error, name, message string) []field.Error {
	if message == "" {
		return wrong
	}
	return append(wrong, field.Error{Field: name, Message: message})
}

// GetKey answers GET /v1/keys/{id}.
func (s *Server) GetKey(ctx context.Context, r GetKeyRequestObject) (GetKeyResponseObject, error) {
	row, err := s.Keys.Show(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	answer, err := s.keyAnswer(ctx, row)
	return GetKey200JSONResponse{answer}, err
}

func (s *Server) keyAnswer(ctx context.Context, row db.KeyShowRow) (KeyAnswerJSONResponse, error) {
	now, err := s.numbers(ctx, s.DB, row.APIKey.ID)
	if err != nil {
		return KeyAnswerJSONResponse{}, err
	}
	return KeyAnswerJSONResponse{
		Body:    details(row, now[row.APIKey.ID]),
		Headers: KeyAnswerResponseHeaders{ETag: etag(row.APIKey.Version)},
	}, nil
}

func etag(version int64) *string {
	tag := strconv.Quote(strconv.FormatInt(version, 10))
	return &tag
}

// UpdateKey answers PATCH /v1/keys/{id}.
func (s *Server) UpdateKey(ctx context.Context, r UpdateKeyRequestObject) (UpdateKeyResponseObject, error) {
	fields, wrong := key.ForUpdate(*r.Body, s.rules())
	version, message := ifMatch(r.Params.IfMatch)
	wrong = appendWrong(wrong, "If-Match", message)
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	row, err := s.Keys.Update(ctx, actor(ctx), r.ID, fields, version)
	if err != nil {
		return nil, err
	}
	answer, err := s.keyAnswer(ctx, row)
	return UpdateKey200JSONResponse{answer}, err
}

// ifMatch reads a version from If-Match, with or without quotes; * is any.
func ifMatch(header *string) (version *int64, wrong string) {
	if header == nil || *header == "*" {
		return nil, ""
	}
	n, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(*header, "W/"), `"`), 10, 64)
	if err != nil {
		return nil, `must be a version as in ETag, like "3"`
	}
	return &n, ""
}

// UpdateKeys answers PATCH /v1/keys/batch.
func (s *Server) UpdateKeys(ctx context.Context, r UpdateKeysRequestObject) (UpdateKeysResponseObject, error) {
	body := *r.Body
	var ids []uuid.UUID
	message := "is required"
	if raw, given := body["ids"]; given {
		message = ""
		if jsonv2.Unmarshal(raw, &ids) != nil {
			message = "must be a list of UUIDs"
		}
	}
	delete(body, "ids")
	fields, wrong := key.ForUpdate(body, s.rules())
	if message == "" {
		ids, message = distinct(ids)
	}
	wrong = appendWrong(wrong, "ids", message)
	if wrong == nil && len(fields) == 0 {
		wrong = appendWrong(wrong, "body", "must name at least one field to change")
	}
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	if err := s.Keys.UpdateBatch(ctx, actor(ctx), ids, fields); err != nil {
		return nil, err
	}
	return UpdateKeys200JSONResponse{ChangedAnswerJSONResponse{Changed: len(ids)}}, nil
}

// distinct checks the ids of a batch and takes repeats out.
func distinct(ids []uuid.UUID) (unique []uuid.UUID, wrong string) {
	if len(ids) < 1 || len(ids) > keys.MaxBatch {
		return nil, fmt.Sprintf("must have 1 to %d entries", keys.MaxBatch)
	}
	for _, id := range ids {
		if !slices.Contains(unique, id) {
			unique = append(unique, id)
		}
	}
	return unique, ""
}

// DeleteKeys answers POST /v1/keys/batch-delete.
func (s *Server) DeleteKeys(ctx context.Context, r DeleteKeysRequestObject) (DeleteKeysResponseObject, error) {
	ids, wrong := distinct(r.Body.Ids)
	if wrong != "" {
		return nil, fault.Fields(field.Error{Field: "ids", Message: wrong})
	}
	if err := s.Keys.Delete(ctx, actor(ctx), ids); err != nil {
		return nil, err
	}
	return DeleteKeys200JSONResponse{ChangedAnswerJSONResponse{Changed: len(ids)}}, nil
}

// DeleteKey answers DELETE /v1/keys/{id}.
func (s *Server) DeleteKey(ctx context.Context, r DeleteKeyRequestObject) (DeleteKeyResponseObject, error) {
	var err error
	if r.Params.Purge != nil && *r.Params.Purge {
		err = s.Keys.Purge(ctx, actor(ctx), r.ID)
	} else {
		err = s.Keys.Delete(ctx, actor(ctx), []uuid.UUID{r.ID})
	}
	return DeleteKey204Response{}, err
}

// RestoreKey answers POST /v1/keys/{id}/restore.
func (s *Server) RestoreKey(ctx context.Context, r RestoreKeyRequestObject) (RestoreKeyResponseObject, error) {
	row, err := s.Keys.Restore(ctx, actor(ctx), r.ID)
	if err != nil {
		return nil, err
	}
	answer, err := s.keyAnswer(ctx, row)
	return RestoreKey200JSONResponse{answer}, err
}

// maxGrace is the longest grace of a rotated secret: 30 days, in seconds.
const maxGrace = 2592000

// RotateKey answers POST /v1/keys/{id}/rotate.
func (s *Server) RotateKey(ctx context.Context, r RotateKeyRequestObject) (RotateKeyResponseObject, error) {
	grace := int32(0)
	if r.Body != nil && r.Body.GraceSeconds != nil {
		grace = *r.Body.GraceSeconds
	}
	if grace < 0 || grace > maxGrace {
		return nil, fault.Fields(field.Error{Field: "graceSeconds", Message: "must be between 0 and 2592000 (30 days)"})
	}
	idem, err := idempotency(r.Params.IdempotencyKey, grace)
	if err != nil {
		return nil, err
	}
	made, err := s.Keys.Rotate(ctx, actor(ctx), r.ID, grace, idem)
	if err != nil {
		return nil, err
	}
	answer, err := s.issuedAnswer(ctx, made)
	return RotateKey200JSONResponse{answer}, err
}

// ListTags answers GET /v1/tags.
func (s *Server) ListTags(ctx context.Context, _ ListTagsRequestObject) (ListTagsResponseObject, error) {
	rows, err := s.DB.TagList(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing tags: %w", err)
	}
	answer := ListTags200JSONResponse{Data: make([]Tag, len(rows))}
	for i, row := range rows {
		answer.Data[i] = Tag{Tag: row.Tag, Keys: row.Keys}
	}
	return answer, nil
}

// ListClients answers GET /v1/clients.
func (s *Server) ListClients(context.Context, ListClientsRequestObject) (ListClientsResponseObject, error) {
	answer := ListClients200JSONResponse{Data: make([]ClientProgram, len(s.Clients))}
	for i, c := range s.Clients {
		answer.Data[i] = ClientProgram{ID: c.ID, Name: c.Name, Pattern: c.Pattern}
	}
	return answer, nil
}
