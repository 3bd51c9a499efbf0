package envoy

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/plug/proxied"
	"github.com/keyledger/keyledger/internal/usage"
)

// rateLimit is Envoy's rate limit service.
type rateLimit struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	Options
}

// The entries of a descriptor that are read; others are passed over.
const (
	entryAPIKey    = "api_key"
	entryKeyID     = "key_id"
	entryAdmission = "admission_id"
	entryRequest   = "request_id"
	entryModel     = "model"
	entryService   = "service"
	entryAccount   = "account_id"
	entryClass     = "class" // what the hits of a descriptor count
)

// class is what hits count.
type class struct {
	limit string // the limit that stands for it in an answer
	count func(*usage.Counts, int64)
}

// The classes. Tokens that no class tells apart are priced as input.
const (
	classRequests = "requests"
	classCost     = "cost_usd_micro"
)

var classes = map[string]class{
	classRequests:    {"requests", nil},
	classCost:        {"cost", nil},
	"tokens":         {"tokens", func(c *usage.Counts, n int64) { c.Input += n }},
	"input":          {"tokens", func(c *usage.Counts, n int64) { c.Input += n }},
	"output":         {"tokens", func(c *usage.Counts, n int64) { c.Output += n }},
	"cache_read":     {"tokens", func(c *usage.Counts, n int64) { c.CacheRead += n }},
	"cache_write_5m": {"tokens", func(c *usage.Counts, n int64) { c.CacheCreate += n }},
	"cache_write_1h": {"tokens", func(c *usage.Counts, n int64) { c.CacheCreate += n; c.Ephemeral1h += n }},
}

// question is what the descriptors of a call say together.
type question struct {
	entries map[string]string
	classes []string // of each descriptor
	counts  usage.Counts
	cost    int64 // millionths of a dollar
	hits    bool  // of requests
	charge  bool
}

// ShouldRateLimit charges, where descriptors count tokens or cost; else it asks for admission,
// or, without hits and without a request id, only whether there would be one.
func (r *rateLimit) ShouldRateLimit(ctx context.Context, asked *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	q, err := read(asked)
	if err != nil {
		return nil, err
	}
	if q.charge {
		if err := r.charge(ctx, q); err != nil {
			return nil, err
		}
		return q.answer(admit.Decision{Allowed: true}, 0)
	}
	if q.entries[entryAdmission] != "" { // it was admitted before it came here
		if _, err := q.id(entryAdmission); err != nil {
			return nil, err
		}
		return q.answer(admit.Decision{Allowed: true}, 0)
	}
	return r.admit(ctx, q)
}

// read reads a call. What contradicts itself is a fault.
func read(asked *ratelimitv3.RateLimitRequest) (question, error) {
	q := question{entries: map[string]string{}}
	wrong := func(i int, message string) error {
		return fault.Fields(field.Error{Field: fmt.Sprintf("descriptors[%d]", i), Message: message})
	}
	if len(asked.GetDescriptors()) == 0 {
		return q, fault.Fields(field.Error{Field: "descriptors", Message: "must not be empty"})
	}
	for i, d := range asked.GetDescriptors() {
		if d.GetIsNegativeHits() {
			return q, wrong(i, "takes hits back: what was recorded is taken back by POST /v1/events/{id}/void")
		}
		of := classRequests
		for _, e := range d.GetEntries() {
			switch name, value := e.GetKey(), e.GetValue(); name {
			case entryClass:
				of = value
			case entryAPIKey, entryKeyID, entryAdmission, entryRequest, entryModel, entryService, entryAccount:
				if name != entryAPIKey {
					value = field.Fit(value)
				}
				if before := q.entries[name]; before != "" && before != value {
					return q, wrong(i, "has another "+name+" than those before it")
				}
				q.entries[name] = value
			}
		}
		kind, known := classes[of]
		if !known {
			return q, wrong(i, "has a class that is none of requests, tokens, input, output, cache_read, cache_write_5m, cache_write_1h and cost_usd_micro")
		}
		n := hits(asked, d)
		if n > usage.MaxCount {
			return q, wrong(i, "has more than 2^53 hits")
		}
		q.classes = append(q.classes, of)
		switch {
		case of == classRequests:
			q.hits = q.hits || n > 0
		case n == 0: // a check
		case of == classCost:
			q.cost, q.charge = q.cost+int64(n), true
		default:
			kind.count(&q.counts, int64(n))
			q.charge = true
		}
	}
	return q, nil
}

// hits are those of a descriptor: its own, else the call's, where none is one.
func hits(asked *ratelimitv3.RateLimitRequest, d *commonv3.RateLimitDescriptor) uint64 {
	if own := d.GetHitsAddend(); own != nil {
		return own.GetValue()
	}
	return uint64(max(1, asked.GetHitsAddend()))
}

// id is an entry that must be an id; nil: there is none.
func (q question) id(name string) (*uuid.UUID, error) {
	text := q.entries[name]
	if text == "" {
		return nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, fault.Fields(field.Error{Field: name, Message: "must be an id"})
	}
	return &id, nil
}

// key is the key that a call is of; refused: why none is.
func (r *rateLimit) key(ctx context.Context, q question) (id *uuid.UUID, window int32, refused admit.Decision, err error) {
	if text := q.entries[entryAPIKey]; text != "" {
		found, err := r.Verifier.Verify(ctx, text, nil)
		if err != nil {
			return nil, 0, refused, err
		}
		if found.Key == nil {
			return nil, 0, admit.Decision{Code: admit.Code(found.Code), Message: found.Code.Message()}, nil
		}
		return &found.Key.ID, found.Key.RateLimitWindow, refused, nil
	}
	id, err = q.id(entryKeyID)
	if err == nil && id == nil {
		err = fault.Fields(field.Error{Field: entryKeyID, Message: "or api_key or admission_id is required"})
	}
	return id, 0, refused, err
}

// admit decides a request.
func (r *rateLimit) admit(ctx context.Context, q question) (*ratelimitv3.RateLimitResponse, error) {
	id, window, refused, err := r.key(ctx, q)
	if err != nil {
		return nil, err
	}
	if id == nil {
		r.Decider.Unknown(string(refused.Code))
		return q.answer(refused, 0)
	}
	request := admit.Request{
		KeyID: *id, RequestID: q.entries[entryRequest], Service: q.entries[entryService], Model: q.entries[entryModel],
	}
	if request.RequestID != "" { // without a lease an admission is not repeated, and an answer that was lost would cost another
		request.LeaseSeconds = int32(r.LeaseTTL.Seconds())
	} else {
		request.DryRun = !q.hits
	}
	d, err := r.Decider.Decide(ctx, request, nil)
	if err != nil {
		return nil, err
	}
	return q.answer(d, window)
}

// charge records what was used. It settles the admission that it names, or that its request id
// has. Without a request id or an admission a call that comes twice counts twice.
func (r *rateLimit) charge(ctx context.Context, q question) error {
	admission, err := q.id(entryAdmission)
	if err != nil {
		return err
	}
	report := usage.Report{AdmissionID: admission, Usage: q.counts.JSON()}
	if admission == nil {
		id, _, refused, err := r.key(ctx, q)
		if err != nil {
			return err
		}
		if id == nil {
			return fault.Fields(field.Error{Field: entryAPIKey, Message: "is not a key that may be used: " + refused.Message})
		}
		report.KeyID = id
	}
	for name, into := range map[string]**string{entryRequest: &report.RequestID, entryModel: &report.Model, entryAccount: &report.AccountID} {
		if text := q.entries[name]; text != "" {
			*into = &text
		}
	}
	event, wrong := usage.Check(report, "")
	if wrong != nil {
		return fault.Fields(wrong...)
	}
	event.Via = usage.ViaEnvoy
	if q.counts == (usage.Counts{}) { // tokens, where there are any, are priced by the catalogue
		cost := decimal.New(q.cost, -6)
		event.Cost = &cost
	}
	_, err = r.Recorder.Record(ctx, []usage.Event{event})
	return err
}

// answer is a decision as Envoy reads it: a status for each descriptor, in their order.
func (q question) answer(d admit.Decision, window int32) (*ratelimitv3.RateLimitResponse, error) {
	a := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}
	headers := proxied.RateLimit(d, window)
	if !d.Allowed {
		a.OverallCode = ratelimitv3.RateLimitResponse_OVER_LIMIT
		var err error
		if _, headers, a.RawBody, err = refusal(d, window); err != nil {
			return nil, err
		}
	} else if d.AdmissionID != uuid.Nil {
		a.RequestHeadersToAdd = plainHeaders(http.Header{proxied.AdmissionID: {d.AdmissionID.String()}})
	}
	a.ResponseHeadersToAdd = plainHeaders(headers)
	for _, name := range q.classes {
		one := &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: a.GetOverallCode()}
		for _, l := range d.Limits {
			if of := classes[name].limit; l.Name != of && (of != "cost" || !strings.HasSuffix(l.Name, "Cost")) {
				continue
			}
			remaining := l.Remaining
			if name == classCost {
				remaining = remaining.Shift(6)
			}
			one.LimitRemaining = clipped(remaining)
			if l.ResetsAt != nil {
				one.DurationUntilReset = durationpb.New(max(0, l.ResetsAt.Sub(d.DecidedAt).Truncate(time.Second)))
			}
			break
		}
		a.Statuses = append(a.Statuses, one)
	}
	return a, nil
}

// clipped is an amount as the protocol has room for.
func clipped(amount decimal.Decimal) uint32 {
	whole := amount.IntPart()
	return uint32(max(0, min(whole, math.MaxUint32)))
}

func plainHeaders(h http.Header) (all []*corev3.HeaderValue) {
	for name, values := range h {
		all = append(all, &corev3.HeaderValue{Key: name, Value: values[0]})
	}
	return all
}
