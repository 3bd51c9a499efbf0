package relay

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// refusal is why a request is not forwarded, as a client of a provider may be told.
type refusal struct {
	reason  reason
	code    string // keyledger's, or the relay's own, in X-Keyledger-Code
	message string
	wait    time.Duration // 0: waiting does not help, or nobody can tell
}

// reason is one kind of refusal: each has its status and its words at each provider.
type reason int

const (
	badRequest reason = iota
	badKey
	notPermitted
	notFound
	tooLarge
	costReached // for good: until the period ends or somebody raises the limit
	occupied    // a cost limit, or the slots of concurrency, by requests that are under way
	limited     // by a window
	unavailable // keyledger, the journal or the upstream accounts
	badUpstream
)

// The longest waits that clients are asked for. SDKs sleep as long as they are told; the
// true wait is in X-Keyledger-Retry-After.
const (
	maxWait         = 60 * time.Second
	maxWaitOccupied = 5 * time.Second
)

// words are how each provider says it: the status; Anthropic's error type; OpenAI's error
// type and code; Gemini's status.
// Sources: https://platform.claude.com/docs/en/api/errors,
// https://developers.openai.com/api/docs/guides/error-codes, https://ai.google.dev/gemini-api/docs/troubleshooting
var words = map[reason]struct {
	status             int
	anthropic          string
	openAIType, openAI string
	gemini             string
	openAIStatus       int // 0: status
	retry              bool
}{
	badRequest:   {status: http.StatusBadRequest, anthropic: "invalid_request_error", openAIType: "invalid_request_error", gemini: "INVALID_ARGUMENT"},
	badKey:       {status: http.StatusUnauthorized, anthropic: "authentication_error", openAIType: "invalid_request_error", openAI: "invalid_api_key", gemini: "UNAUTHENTICATED"},
	notPermitted: {status: http.StatusForbidden, anthropic: "permission_error", openAIType: "invalid_request_error", openAI: "permission_denied", gemini: "PERMISSION_DENIED"},
	notFound:     {status: http.StatusNotFound, anthropic: "not_found_error", openAIType: "invalid_request_error", openAI: "not_found", gemini: "NOT_FOUND"},
	tooLarge:     {status: http.StatusRequestEntityTooLarge, anthropic: "request_too_large", openAIType: "invalid_request_error", openAI: "request_too_large", gemini: "INVALID_ARGUMENT"},
	costReached:  {status: http.StatusPaymentRequired, anthropic: "billing_error", openAIStatus: http.StatusTooManyRequests, openAIType: "insufficient_quota", openAI: "insufficient_quota", gemini: "RESOURCE_EXHAUSTED"},
	occupied:     {status: http.StatusTooManyRequests, anthropic: "rate_limit_error", openAIType: "requests", openAI: "rate_limit_exceeded", gemini: "RESOURCE_EXHAUSTED", retry: true},
	limited:      {status: http.StatusTooManyRequests, anthropic: "rate_limit_error", openAIType: "requests", openAI: "rate_limit_exceeded", gemini: "RESOURCE_EXHAUSTED", retry: true},
	unavailable:  {status: http.StatusServiceUnavailable, anthropic: "overloaded_error", openAIType: "server_error", openAI: "service_unavailable", gemini: "UNAVAILABLE", retry: true},
	badUpstream:  {status: http.StatusBadGateway, anthropic: "api_error", openAIType: "server_error", openAI: "bad_gateway", gemini: "UNAVAILABLE", retry: true},
}

// reasons are those of keyledger's codes; a code that is not here is of a bad key.
var reasons = map[string]reason{
	"SERVICE_NOT_PERMITTED": notPermitted, "MODEL_NOT_ALLOWED": notPermitted, "CLIENT_NOT_ALLOWED": notPermitted, "MODEL_NOT_PRICED": notPermitted,
	"CONCURRENCY_EXCEEDED": occupied, "REQUESTS_EXCEEDED": limited, "TOKENS_EXCEEDED": limited,
	"DAILY_COST_EXCEEDED": costReached, "WEEKLY_COST_EXCEEDED": costReached, "MONTHLY_COST_EXCEEDED": costReached, "TOTAL_COST_EXCEEDED": costReached,
	"MALFORMED": badKey, "NOT_FOUND": badKey, "DISABLED": badKey, "EXPIRED": badKey,
}

// refused is the refusal that keyledger's decision means.
func refused(d Decision) refusal {
	r := refusal{reason: reasons[d.Code], code: d.Code, message: d.Message, wait: d.RetryAfter}
	if _, known := reasons[d.Code]; !known {
		r.reason = badKey
	}
	if r.reason == costReached && d.reservedOnly() {
		r.reason, r.message = occupied, r.message+" by requests that are under way"
	}
	return r
}

// write answers in a provider's own format, so that its SDKs show the message, and neither
// hammer nor sleep for hours.
func (f refusal) write(w http.ResponseWriter, service, requestID string) {
	said := words[f.reason]
	status := said.status
	if service == serviceOpenAI && said.openAIStatus != 0 {
		status = said.openAIStatus
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Keyledger-Code", f.code)
	h.Set("X-Request-ID", requestID)
	if f.wait > 0 {
		h.Set("X-Keyledger-Retry-After", seconds(f.wait))
	}
	most := maxWait
	if f.reason == occupied {
		most = maxWaitOccupied
	}
	wait := min(max(f.wait, time.Second), most)
	switch {
	case f.reason == limited && f.wait == 0: // it never passes as it is
		h.Set("X-Should-Retry", "false")
	case said.retry:
		h.Set("Retry-After", seconds(wait))
	case status == http.StatusPaymentRequired || status == http.StatusTooManyRequests:
		h.Set("X-Should-Retry", "false")
	}
	var body any
	switch service {
	case serviceClaude:
		h.Set("Request-Id", requestID)
		body = map[string]any{"type": "error", "error": map[string]any{"type": said.anthropic, "message": f.message}, "request_id": requestID}
	case serviceGemini:
		e := map[string]any{"code": status, "message": f.message, "status": said.gemini}
		if said.retry {
			e["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fmt.Sprintf("%ds", int64(math.Ceil(wait.Seconds())))}}
		}
		body = map[string]any{"error": e}
	default:
		var code any
		if said.openAI != "" {
			code = said.openAI
		}
		body = map[string]any{"error": map[string]any{"message": f.message, "type": said.openAIType, "param": nil, "code": code}}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // a client that has gone does not read it
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
