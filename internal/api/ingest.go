package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/plug/litellm"
	"github.com/keyledger/keyledger/internal/plug/otlp"
	"github.com/keyledger/keyledger/internal/usage"
)

// ingestWriters is how many reports of one request are recorded at once: those that come
// together are one batch of the ledger.
const ingestWriters = 64

// registerIngest serves what other programs send in formats of their own. Its operations are in
// openapi.yaml and not generated: their bodies are not ours to be strict with.
func (s *Server) registerIngest(e *echo.Echo) {
	e.POST("/v1/ingest/litellm", s.ingestLiteLLM)
	e.POST("/otlp/v1/traces", s.ingestTraces)
}

// taken is what became of one report.
type taken struct {
	result usage.Result
	wrong  string // why it was refused; empty: it was not
}

// record records reports one by one: one that is wrong does not hinder the others. An error
// means that the service cannot record at the moment; what was recorded is not recorded twice
// when all of it comes again.
func (s *Server) record(ctx context.Context, via usage.Via, reports []usage.Report) ([]taken, error) {
	all := make([]taken, len(reports))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(ingestWriters)
	for i, report := range reports {
		event, wrong := usage.Check(report, "")
		if wrong != nil {
			all[i].wrong = wrong[0].Field + " " + wrong[0].Message
			continue
		}
		event.Via = via
		group.Go(func() error {
			results, err := s.Usage.Record(ctx, []usage.Event{event})
			if err == nil && results[0].Duplicate && event.AdmissionID != uuid.Nil && event.RequestID != "" {
				// Several calls of models may stand under one admission, which the first of them
				// has settled: the others count by their own ids.
				event.KeyID, event.AdmissionID = results[0].KeyID, uuid.Nil
				results, err = s.Usage.Record(ctx, []usage.Event{event})
			}
			if err == nil {
				all[i].result = results[0]
				return nil
			}
			f := asFault(err)
			if f.Code != fault.Invalid {
				return err
			}
			all[i].wrong = f.Message
			if len(f.Fields) > 0 {
				all[i].wrong = f.Fields[0].Field + " " + f.Fields[0].Message
			}
			return nil
		})
	}
	return all, group.Wait()
}

// ingestResult is what became of one payload.
type ingestResult struct {
	ID      string     `json:"id"`
	Status  string     `json:"status"`
	Message string     `json:"message,omitempty"`
	KeyID   *uuid.UUID `json:"keyId,omitempty"`
	Model   string     `json:"model,omitempty"`
	CostUSD *wire.USD  `json:"costUsd,omitempty"`
	Priced  *bool      `json:"priced,omitempty"`
}

// What becomes of a payload beside what becomes of usage.
const (
	skipped = "skipped"
	refused = "refused"
)

// ingestLiteLLM answers POST /v1/ingest/litellm.
func (s *Server) ingestLiteLLM(c echo.Context) error {
	leave, ok := s.enterIngest(c.Request().Context())
	defer leave()
	if !ok {
		return coalesce.ErrFull
	}
	body, err := plainBody(c.Request())
	if err != nil {
		return err
	}
	items, err := litellm.Read(body)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	var reports []usage.Report
	for _, item := range items {
		if item.Wrong == "" && item.Skip == "" {
			reports = append(reports, item.Report)
		}
	}
	all, err := s.record(ctx, usage.ViaLiteLLM, reports)
	if err != nil {
		return err
	}
	s.releaseSkipped(ctx, items)
	results := make([]ingestResult, len(items))
	for i, item := range items {
		switch {
		case item.Wrong != "":
			results[i] = ingestResult{ID: item.ID, Status: refused, Message: item.Wrong}
		case item.Skip != "":
			results[i] = ingestResult{ID: item.ID, Status: skipped, Message: item.Skip}
		default:
			results[i] = ingested(item.ID, all[0])
			all = all[1:]
		}
	}
	return c.JSON(http.StatusOK, map[string]any{"results": results})
}

// retryGrace is how long a request that has failed may be tried again by LiteLLM itself, under the
// same admission.
const retryGrace = time.Minute

// releaseSkipped gives back what requests hold that used nothing: at once what LiteLLM answered by
// itself, and what failed when it is not tried again. One that cannot be released ends by itself.
func (s *Server) releaseSkipped(ctx context.Context, items []litellm.Item) {
	for _, item := range items {
		admission := item.Report.AdmissionID
		if item.Skip == "" || item.Wrong != "" || admission == nil {
			continue
		}
		release := func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
			defer cancel()
			if err := s.Decider.Release(ctx, *admission); err != nil && fault.CodeOf(err) != fault.NotFound {
				s.Log.WarnContext(ctx, "an admission could not be released, and ends by itself", "error", err)
			}
		}
		if item.Failed {
			time.AfterFunc(retryGrace, release) // what has been settled by then stays so
		} else {
			release()
		}
	}
}

func ingested(id string, t taken) ingestResult {
	if t.wrong != "" {
		return ingestResult{ID: id, Status: refused, Message: t.wrong}
	}
	r := usageResult(t.result)
	return ingestResult{ID: id, Status: string(r.Status), KeyID: &r.KeyID, Model: r.Model, CostUSD: &r.CostUsd, Priced: &r.Priced}
}

// ingestTraces answers POST /otlp/v1/traces.
func (s *Server) ingestTraces(c echo.Context) error {
	r := c.Request()
	kind, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType))
	if err != nil || kind != otlp.JSON && kind != otlp.Protobuf {
		return fault.New(fault.Unsupported, "The body must be an export of traces: Content-Type: "+otlp.Protobuf+" or "+otlp.JSON+".")
	}
	leave, ok := s.enterIngest(r.Context())
	defer leave()
	if !ok {
		return coalesce.ErrFull
	}
	body, err := plainBody(r)
	if err != nil {
		return err
	}
	items, err := otlp.Read(body, kind, s.OTLPKeys)
	if err != nil {
		return err
	}
	var wrong, ids []string
	var reports []usage.Report
	for _, item := range items {
		if item.Wrong != "" {
			wrong = append(wrong, "span "+item.ID+" "+item.Wrong)
			continue
		}
		reports, ids = append(reports, item.Report), append(ids, item.ID)
	}
	all, err := s.record(r.Context(), usage.ViaOTLP, reports)
	if err != nil {
		return err
	}
	for i, t := range all {
		if t.wrong != "" {
			wrong = append(wrong, "span "+ids[i]+": "+t.wrong)
		}
	}
	const shown = 5
	answer, err := otlp.Answer(kind, len(wrong), strings.Join(wrong[:min(shown, len(wrong))], "; "))
	if err != nil {
		return fmt.Errorf("encoding the answer to an export: %w", err)
	}
	return c.Blob(http.StatusOK, kind, answer)
}

// plainBody is a request's body, unpacked where it is gzip.
func plainBody(r *http.Request) ([]byte, error) {
	var from io.Reader = r.Body // in memory already: see takeBody
	switch encoding := r.Header.Get(echo.HeaderContentEncoding); encoding {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, fault.Wrap(err, fault.Malformed, "The body is not gzip.")
		}
		from = unpacked
	default:
		return nil, fault.New(fault.Unsupported, "The body must be plain or gzip: Content-Encoding: gzip.")
	}
	var body bytes.Buffer
	n, err := io.Copy(&body, io.LimitReader(from, maxIngestBody+1))
	switch {
	case n > maxIngestBody:
		return nil, tooLarge(maxIngestBody)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return nil, fault.Wrap(err, fault.Malformed, "The body is not gzip.")
	case err != nil:
		return nil, fault.Wrap(err, fault.Malformed, "The body could not be read to its end.")
	}
	return body.Bytes(), nil
}
