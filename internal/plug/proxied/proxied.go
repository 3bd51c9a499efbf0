// Package proxied is what a reverse proxy is told of a decision, whatever it speaks: a status,
// headers and a body.
package proxied

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/verify"
)

// Headers that tell of a decision.
const (
	KeyID       = "X-Keyledger-Key-Id"
	AdmissionID = "X-Keyledger-Admission-Id"
	Code        = "X-Keyledger-Code"
	Status      = "X-Keyledger-Status"
)

// ProblemJSON is the type of a refusal's body (RFC 9457).
const ProblemJSON = "application/problem+json"

// QuotaExceeded is the type of the problem that a limit is reached.
// Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
const QuotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// statuses are those of refusals; any other is of a key that is unknown, disabled or expired.
var statuses = map[admit.Code]int{
	admit.RequestSettled: http.StatusConflict, admit.ModelNotPriced: http.StatusForbidden,
	admit.ServiceNotPermitted: http.StatusForbidden, admit.ModelNotAllowed: http.StatusForbidden, admit.ClientNotAllowed: http.StatusForbidden,
	admit.DailyCostExceeded: http.StatusPaymentRequired, admit.WeeklyCostExceeded: http.StatusPaymentRequired,
	admit.MonthlyCostExceeded: http.StatusPaymentRequired, admit.TotalCostExceeded: http.StatusPaymentRequired,
	admit.ConcurrencyExceeded: http.StatusTooManyRequests, admit.RequestsExceeded: http.StatusTooManyRequests, admit.TokensExceeded: http.StatusTooManyRequests,
}

// StatusOf is the HTTP status of a decision.
func StatusOf(d admit.Decision) int {
	if d.Allowed {
		return http.StatusOK
	}
	if status, known := statuses[d.Code]; known {
		return status
	}
	return http.StatusUnauthorized
}

// Admitted are the headers that tell the server behind a proxy whose request it has.
func Admitted(d admit.Decision, k *verify.Key) http.Header {
	h := http.Header{}
	h.Set(KeyID, k.ID.String())
	if d.AdmissionID != uuid.Nil {
		h.Set(AdmissionID, d.AdmissionID.String())
	}
	for _, b := range k.Bindings {
		h.Set("X-Keyledger-"+b.Provider+"-Account-Id", url.PathEscape(b.AccountID))
	}
	return h
}

// Refused are the headers of a refusal.
func Refused(d admit.Decision) http.Header {
	h := http.Header{}
	status := StatusOf(d)
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if d.RetryAfterSeconds != nil {
		h.Set("Retry-After", strconv.FormatInt(*d.RetryAfterSeconds, 10))
	}
	h.Set(Code, string(d.Code))
	h.Set(Status, strconv.Itoa(status))
	return h
}

// RateLimit are the headers that tell of a window's limits: window is its length in minutes.
// Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
func RateLimit(d admit.Decision, window int32) http.Header {
	h := http.Header{}
	var policies, states []string
	for _, l := range d.Limits {
		var unit, length string
		switch l.Name {
		case "requests":
		case "tokens":
			unit = `;qu="tokens"`
		case "concurrency":
			policies = append(policies, fmt.Sprintf(`"concurrency";q=%s;qu="concurrent-requests"`, l.Limit))
			states = append(states, fmt.Sprintf(`"concurrency";r=%s`, l.Remaining))
			continue
		default: // money has no unit that the fields know
			continue
		}
		if window > 0 {
			length = fmt.Sprintf(";w=%d", int64(window)*60)
		}
		policies = append(policies, fmt.Sprintf("%q;q=%s%s%s", l.Name, l.Limit, unit, length))
		state := fmt.Sprintf("%q;r=%s", l.Name, l.Remaining)
		if l.ResetsAt != nil {
			state += fmt.Sprintf(";t=%d", max(0, int64(l.ResetsAt.Sub(d.DecidedAt).Seconds())))
		}
		states = append(states, state)
	}
	if policies != nil {
		h.Set("Ratelimit-Policy", strings.Join(policies, ", "))
		h.Set("Ratelimit", strings.Join(states, ", "))
	}
	return h
}

// Problem is the body of a refusal.
type Problem struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Detail    string   `json:"detail"`
	Code      string   `json:"code"`
	RequestID string   `json:"requestId"`
	Violated  []string `json:"violated-policies,omitzero"`
}

// ProblemOf is the body of a refusal that a client gets with a status.
func ProblemOf(d admit.Decision, status int, requestID string) Problem {
	p := Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: d.Message, Code: string(d.Code), RequestID: requestID}
	if limit := admit.LimitOf(d.Code); limit != "" {
		p.Type, p.Title, p.Violated = QuotaExceeded, "Quota exceeded", []string{limit}
	}
	return p
}
