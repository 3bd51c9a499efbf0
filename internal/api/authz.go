package api

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/keyheader"
	"github.com/keyledger/keyledger/internal/plug/proxied"
	"github.com/keyledger/keyledger/internal/verify"
)

// AuthzHandler answers /v1/authz for reverse proxies (nginx auth_request, Caddy
// and Traefik forward_auth, HAProxy, Envoy ext_authz over HTTP): the decision of
// an admission, told by status and headers. It needs no access token, so it lives
// on a listener of its own that only the proxy reaches.
//
// It counts requests and checks budgets; a slot of concurrency is taken only with
// ?lease=SECONDS. ?deny=403 answers every refusal with 403, with the true status
// in X-Keyledger-Status, for proxies that pass on no other.
func (s *Server) AuthzHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/v1/authz":
			s.authz(w, r, r.URL.Query())
		case strings.HasPrefix(path, "/v1/authz/"):
			// Envoy appends the original path and query: the query is the client's,
			// and says nothing of how the proxy was configured.
			s.authz(w, r, url.Values{})
		default:
			http.NotFound(w, r)
		}
	})
}

// authz answers one question; configured are the parameters of the proxy's own URL.
func (s *Server) authz(w http.ResponseWriter, r *http.Request, configured url.Values) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	decision, found, err := s.decideProxied(r.WithContext(ctx), configured)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	id := uuid.NewString()
	if err != nil {
		f := asFault(err)
		status := statuses[f.Code]
		if status >= http.StatusInternalServerError {
			header.Set("Retry-After", retryAfter)
		}
		switch {
		case overloaded(err): // one line each would be a load of its own
			s.Metrics.Overloaded.Inc()
		case hungUp(r.Context()):
			s.Log.DebugContext(r.Context(), "the client hung up", "requestId", id)
			w.WriteHeader(statusHungUp) // with no answer of ours it would be 200: let in
			return
		case status >= http.StatusInternalServerError:
			s.Log.ErrorContext(r.Context(), "authz failed", "requestId", id, "error", err)
		}
		writeProblem(w, status, problemOf(f, id))
		return
	}
	if found != nil {
		maps.Copy(header, proxied.RateLimit(decision, found.RateLimitWindow))
	}
	if decision.Allowed {
		maps.Copy(header, proxied.Admitted(decision, found))
		w.WriteHeader(http.StatusOK)
		return
	}
	maps.Copy(header, proxied.Refused(decision))
	status := proxied.StatusOf(decision)
	if configured.Get("deny") == "403" {
		status = http.StatusForbidden
	}
	header.Set("Content-Type", proxied.ProblemJSON)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(proxied.ProblemOf(decision, status, id)); err != nil {
		return // the caller has hung up
	}
}

// decideProxied decides for a request that a proxy asks about.
func (s *Server) decideProxied(r *http.Request, configured url.Values) (admit.Decision, *verify.Key, error) {
	leave, ok := s.enter() // no body is read
	defer leave()
	if !ok {
		return admit.Decision{}, nil, coalesce.ErrFull
	}
	request := admit.Request{UserAgent: field.Clip(r.UserAgent(), admit.MaxUserAgent), Service: given(r, "X-Keyledger-Service", configured.Get("service")), Model: given(r, "X-Keyledger-Model", configured.Get("model"))}
	if text := configured.Get("lease"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if message := leaseRange(seconds); err != nil || message != "" {
			return admit.Decision{}, nil, fault.Fields(field.Error{Field: "lease", Message: cmp.Or(message, "must be a whole number")})
		}
		request.LeaseSeconds = int32(seconds)
	}
	ctx := r.Context()
	found, code, err := s.findKey(ctx, presentedKey(r))
	if err != nil {
		return admit.Decision{}, nil, err
	}
	if found == nil {
		s.Decider.Unknown(string(code))
		return admit.Decision{Code: admit.Code(code), Message: code.Message()}, nil, nil
	}
	request.KeyID = found.ID
	decision, err := s.Decider.Decide(ctx, request, nil)
	return decision, found, err
}

// given is a parameter of the URL that the proxy was configured with, or a
// header. The proxy's own word comes first: a header may be the client's.
func given(r *http.Request, header, configured string) string {
	if configured != "" {
		return field.Clip(configured, admit.MaxText)
	}
	return field.Clip(r.Header.Get(header), admit.MaxText)
}

// presentedKey is the key that a request came with, from the places that clients
// of the providers put it, in order. The last two are ?key= of this request and
// of the original one, as proxies pass it on. None of them is ever logged.
func presentedKey(r *http.Request) string {
	h := r.Header
	if text := keyheader.Find(h, r.URL.Query()); text != "" {
		return text
	}
	for _, name := range []string{"X-Forwarded-Uri", "X-Original-Uri"} {
		if original, err := url.Parse(h.Get(name)); err == nil && original.Query().Get("key") != "" {
			return original.Query().Get("key")
		}
	}
	return ""
}
