package api

import (
	"context"
	"fmt"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// ListPrices answers GET /v1/prices.
func (s *Server) ListPrices(ctx context.Context, r ListPricesRequestObject) (ListPricesResponseObject, error) {
	size, read, err := pageSize(r.Params.Limit)
	if err != nil {
		return nil, err
	}
	params := db.PriceListParams{Pattern: likePattern(r.Params.Q), Provider: r.Params.Provider, RowLimit: read}
	after, err := readCursor(r.Params.Cursor, 2)
	if err != nil {
		return nil, err
	}
	if after != nil {
		from, err := time.Parse(time.RFC3339Nano, after[1])
		if err != nil {
			return nil, badCursor()
		}
		params.AfterModel, params.AfterFrom = &after[0], &from
	}
	rows, err := s.DB.PriceList(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("listing prices: %w", err)
	}
	answer := ListPrices200JSONResponse{Data: []Price{}}
	rows, answer.NextCursor = page(rows, size, func(last db.ModelPrice) []string {
		return []string{last.Model, last.EffectiveFrom.UTC().Format(time.RFC3339Nano)}
	})
	for _, row := range rows {
		answer.Data = append(answer.Data, priceOf(price.FromRow(row)))
	}
	return answer, nil
}

// PutPrice answers POST /v1/prices.
func (s *Server) PutPrice(ctx context.Context, r PutPriceRequestObject) (PutPriceResponseObject, error) {
	p, from, wrong := readPrice(*r.Body)
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	p.EffectiveFrom, p.Source = from, price.SourceManual
	if from.IsZero() {
		now, err := s.DB.Now(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the database's clock: %w", err)
		}
		p.EffectiveFrom = now
	}
	if _, err := s.Prices.Put(ctx, actor(ctx), price.SourceManual, p.EffectiveFrom, []price.Price{p}); err != nil {
		return nil, err
	}
	return PutPrice200JSONResponse(priceOf(p)), nil
}

// readPrice checks a price and names every wrong field.
func readPrice(body field.Object) (p price.Price, from time.Time, wrong []field.Error) {
	var message string
	p.Model, message = textMember(body, "model", 1, 200)
	wrong = appendWrong(wrong, "model", message)
	if raw, given := body["provider"]; given {
		p.Provider, message = field.Text(raw, 0, 200)
		wrong = appendWrong(wrong, "provider", message)
	}
	if raw, given := body["effectiveFrom"]; given && raw.Kind() != 'n' {
		var t wire.Time
		if jsonv2.Unmarshal(raw, &t) != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
			wrong = appendWrong(wrong, "effectiveFrom", "must be an RFC 3339 time like 2026-01-01T00:00:00Z")
		}
		from = t.Time
	}
	if raw, given := body["above200k"]; given && raw.Kind() != 'n' {
		var inner field.Object
		if raw.Kind() != '{' || jsonv2.Unmarshal(raw, &inner) != nil {
			wrong = appendWrong(wrong, "above200k", "must be an object of prices")
		}
		p.Long, wrong = readRates(inner, "above200k.", wrong)
		for name := range inner {
			wrong = appendWrong(wrong, "above200k."+name, "is not a known field")
		}
	}
	if raw, given := body["maxOutputTokens"]; given && raw.Kind() != 'n' {
		n, message := field.Integer(raw, usage.MaxCount)
		if p.MaxOutput = n; message == "" && n == 0 {
			message = "must be at least 1"
		}
		wrong = appendWrong(wrong, "maxOutputTokens", message)
	}
	p.Base, wrong = readRates(body, "", wrong)
	for _, known := range []string{"model", "provider", "effectiveFrom", "above200k", "maxOutputTokens"} {
		delete(body, known)
	}
	for name := range body {
		wrong = appendWrong(wrong, name, "is not a known field")
	}
	if p.Base.Input == nil && p.Base.Output == nil {
		wrong = appendWrong(wrong, "inputPerMillion", "or outputPerMillion is required")
	}
	return p, from, wrong
}

// readRates takes the prices out of a body.
func readRates(body field.Object, path string, wrong []field.Error) (price.Rates, []field.Error) {
	read := func(name string) *decimal.Decimal {
		raw, given := body[name]
		delete(body, name)
		if !given || raw.Kind() == jsontext.KindNull {
			return nil
		}
		amount, message := field.Money(raw)
		wrong = appendWrong(wrong, path+name, message)
		return &amount
	}
	return price.Rates{
		Input: read("inputPerMillion"), Output: read("outputPerMillion"), CacheRead: read("cacheReadPerMillion"),
		CacheWrite: read("cacheWritePerMillion"), CacheWrite1h: read("cacheWrite1hPerMillion"),
	}, wrong
}

// ImportPrices answers POST /v1/prices/import.
func (s *Server) ImportPrices(ctx context.Context, r ImportPricesRequestObject) (ImportPricesResponseObject, error) {
	file, err := price.ParseLiteLLM(*r.Body)
	if err != nil {
		return nil, fault.Fields(field.Error{Field: "body", Message: err.Error()})
	}
	var from time.Time
	if r.Params.EffectiveFrom != nil {
		if from = r.Params.EffectiveFrom.Time; from.UTC().Year() < 1 || from.UTC().Year() > 9999 {
			return nil, fault.Fields(field.Error{Field: "effectiveFrom", Message: "must be a time between the years 1 and 9999"})
		}
	} else if from, err = s.DB.Now(ctx); err != nil {
		return nil, fmt.Errorf("reading the database's clock: %w", err)
	}
	before, _, err := s.Prices.Current(ctx)
	if err != nil {
		return nil, err
	}
	dryRun, put := flag(r.Params.DryRun), s.Prices.Put
	if dryRun {
		put = s.Prices.Preview
	}
	changed, err := put(ctx, actor(ctx), price.SourceLiteLLM, from, file.Prices)
	if err != nil {
		return nil, err
	}
	answer := ImportPrices200JSONResponse{DryRun: dryRun, Models: len(file.Prices), Changed: len(changed), EffectiveFrom: wire.At(from),
		Changes: priceEdits(before, file.Prices, changed[:min(len(changed), maxPriceEdits)], from)}
	answer.Skipped = make([]struct {
		Count  int    `json:"count"`
		Reason string `json:"reason"`
	}, len(file.Skipped))
	for i, skipped := range file.Skipped {
		answer.Skipped[i].Count, answer.Skipped[i].Reason = skipped.Count, skipped.Reason
	}
	return answer, nil
}

// maxPriceEdits is how many changes of prices an answer lists.
const maxPriceEdits = 500

// priceEdits are what changes for models, by name, at an instant.
func priceEdits(before *price.Catalogue, after []price.Price, changed []string, from time.Time) []PriceEdit {
	byModel := make(map[string]price.Price, len(after))
	for _, p := range after {
		byModel[p.Model] = p
	}
	edits := make([]PriceEdit, len(changed))
	for i, model := range changed {
		p := byModel[model]
		p.Source, p.EffectiveFrom = price.SourceLiteLLM, from
		edits[i] = PriceEdit{Model: model, After: priceOf(p)}
		if old, known := before.InForce(model, from); known {
			view := priceOf(old)
			edits[i].Before = &view
		}
	}
	return edits
}

// ListUnpriced answers GET /v1/prices/unpriced.
func (s *Server) ListUnpriced(ctx context.Context, _ ListUnpricedRequestObject) (ListUnpricedResponseObject, error) {
	rows, err := s.DB.UnpricedModels(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing unpriced models: %w", err)
	}
	catalogue, now, err := s.Prices.Current(ctx)
	if err != nil {
		return nil, err
	}
	answer := ListUnpriced200JSONResponse{Data: make([]Unpriced, len(rows))}
	for i, row := range rows {
		priced := true
		for _, name := range row.Received {
			_, found := catalogue.Lookup(name, now)
			priced = priced && found
		}
		answer.Data[i] = Unpriced{Model: row.Model, Requests: row.Requests, Tokens: row.Tokens,
			FirstAt: wire.At(row.FirstAt), LastAt: wire.At(row.LastAt), PricedNow: priced}
	}
	return answer, nil
}

// maxChanges is how many changes an answer to Reprice lists.
const maxChanges = 1000

// Reprice answers POST /v1/prices/reprice.
func (s *Server) Reprice(ctx context.Context, r RepriceRequestObject) (RepriceResponseObject, error) {
	what := usage.Repricing{From: r.Body.From.Time, To: r.Body.To.Time, DryRun: r.Body.DryRun != nil && *r.Body.DryRun}
	var wrong []field.Error
	for _, day := range []struct {
		field string
		at    time.Time
	}{{"from", what.From}, {"to", what.To}} {
		if day.at.IsZero() {
			wrong = append(wrong, field.Error{Field: day.field, Message: "is required: a day such as 2026-11-23"})
		}
	}
	if wrong == nil && what.From.After(what.To) {
		wrong = append(wrong, field.Error{Field: "from", Message: "must not be after to"})
	}
	if r.Body.Model != nil {
		model, message := field.Trim(*r.Body.Model, 1, 200)
		if message != "" {
			wrong = append(wrong, field.Error{Field: "model", Message: message})
		}
		what.Model = price.Normalize(model)
	}
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	// It holds a connection for as long as it takes.
	if !s.repricing.TryLock() {
		return nil, fault.New(fault.Unavailable, "Usage is being priced again here already. Try again when that is done.")
	}
	defer s.repricing.Unlock()
	done, err := s.Usage.Reprice(ctx, s.DB, actor(ctx), what)
	if err != nil {
		return nil, err
	}
	before, after := decimal.Zero, decimal.Zero
	answer := Reprice200JSONResponse{DryRun: what.DryRun, Events: done.Events, Changes: []PriceChange{}, More: len(done.Changes) > maxChanges}
	for i, c := range done.Changes {
		before, after = before.Add(c.Before), after.Add(c.After)
		answer.Changed += c.Events
		if i < maxChanges {
			answer.Changes = append(answer.Changes, PriceChange{KeyID: c.KeyID, KeyName: c.KeyName, Model: c.Model, Events: c.Events, CostBefore: usd(c.Before), CostAfter: usd(c.After)})
		}
	}
	answer.CostBefore, answer.CostAfter = usd(before), usd(after)
	return answer, nil
}
