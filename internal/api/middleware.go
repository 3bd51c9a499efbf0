package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/keyheader"
)

// call is what the middleware learnt of a request, for handlers and the log.
type call struct {
	route     *route
	requestID string
	traceID   string // of the W3C trace that it belongs to; empty: none
	identity  access.Identity
	apiKey    string // a key holder's own secret, on /v1/self only; never logged

	// Of requests that need no token, for those that begin a session:
	ip     func() string // the client's address
	secure bool          // the client speaks TLS, with this service or with a proxy before it

	began   time.Time
	untimed context.Context //nolint:containedctx // the request's, before it had a time
}

// moment is how soon after its head most requests have come whole: those need no time of their
// own for what is slow with others.
const moment = time.Second

// slow reports whether a request took longer than a moment so far.
func (c *call) slow() bool { return time.Since(c.began) > moment }

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return &call{route: change}
	}
	return c
}

// log is a log whose lines tell the request that they are of.
func (c *call) log(to *slog.Logger) *slog.Logger {
	if c.traceID != "" {
		to = to.With("traceId", c.traceID)
	}
	return to.With("requestId", c.requestID)
}

// actor is who the audit trail shall name.
func actor(ctx context.Context) db.Actor {
	c := callOf(ctx)
	return db.Actor{Name: c.identity.Name, ID: c.identity.ID, RequestID: c.requestID}
}

var goodRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// requestTimeout bounds the work on one request, its wait for a connection
// included: a database that is slow or full is told of with 503, not by silence.
const requestTimeout = 15 * time.Second

// reportTimeout bounds requests that may scan the whole ledger: reports and repricing.
const reportTimeout = time.Hour

// begin gives a request its id, the caller's X-Request-Id if it is a plain one, and
// its time.
func (s *Server) begin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		id := r.Header.Get(echo.HeaderXRequestID)
		if id == "" || !goodRequestID.MatchString(id) {
			id = uuid.NewString()
		}
		header := c.Response().Header()
		header[echo.HeaderXRequestID] = []string{id}
		header["X-Content-Type-Options"] = nosniff
		if guarded(r) {
			header["Cache-Control"] = noStore
		}
		who := &call{route: routeOf(c), requestID: id, traceID: traceOf(r.Header.Get("Traceparent")), began: time.Now()}
		who.untimed = context.WithValue(r.Context(), callKey{}, who)
		ctx, cancel := context.WithTimeout(who.untimed, who.route.timeout)
		defer cancel()
		c.SetRequest(r.WithContext(ctx))
		return next(c)
	}
}

// traceparent is the header that a W3C trace is passed on in.
// Source: https://www.w3.org/TR/trace-context/#traceparent-header
var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)

// traceOf is the id of the trace that a request belongs to; empty: none.
func traceOf(header string) string {
	if header == "" || len(header) > 256 { // the usual case costs nothing
		return ""
	}
	found := traceparent.FindStringSubmatch(header)
	if found == nil || strings.HasPrefix(header, "ff") || found[1] == "00000000000000000000000000000000" {
		return ""
	}
	return found[1]
}

// Values of headers that every answer has: nobody changes them.
var nosniff, noStore = []string{"nosniff"}, []string{"no-store"}

// observe logs and measures each request. The query is left out of the log: it
// may hold what a person searched for.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		if err := next(c); err != nil {
			c.Error(err)
		}
		took := time.Since(start)
		route := c.Path()
		if route == "" {
			route = "unmatched"
		}
		s.Metrics.Observe(knownMethod(c.Request().Method), route, strconv.Itoa(c.Response().Status), took)
		if !s.Log.Enabled(c.Request().Context(), slog.LevelDebug) {
			return nil
		}
		who := callOf(c.Request().Context())
		who.log(s.Log).DebugContext(c.Request().Context(), "request", "method", c.Request().Method, "route", route,
			"status", c.Response().Status, "ms", float64(took.Microseconds())/1000, "actor", who.identity.Name, "ip", c.RealIP())
		return nil
	}
}

// guarded tells whether a request is one that the table of routes guards: those of pages and of
// how the service is are not.
func guarded(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/v1/") || strings.HasPrefix(r.URL.Path, "/otlp/")
}

// knownMethod keeps methods that a caller made up out of the metrics.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// recoverPanic turns a panic into a 500. The panic's value stays out of the
// answer and out of the log: it could hold anything.
func (s *Server) recoverPanic(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				s.Log.ErrorContext(c.Request().Context(), "panic in a handler", "route", c.Path(), "stack", string(debug.Stack()))
				err = fault.New(fault.Internal, "Something went wrong in the service.")
			}
		}()
		return next(c)
	}
}

// authenticate lets a request under /v1 pass only with a live token whose role
// suffices, before anything else of it is looked at, so that 401 and 403 say the
// same whether or not the thing asked for exists.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if !guarded(r) {
			return next(c)
		}
		who := callOf(r.Context())
		text := keyheader.Bearer(r.Header)
		route := who.route
		if route.open {
			who.ip = c.RealIP
			who.secure = r.TLS != nil || r.Header.Get(echo.HeaderXForwardedProto) == "https"
			return next(c)
		}
		if text == "" && !route.holder {
			if text = s.sessionToken(r); text != "" && !sameSite(r) {
				return fault.New(fault.Forbidden, "A request by session that changes something needs the header X-Keyledger-Console.")
			}
		}
		if route.holder {
			if who.apiKey = r.Header.Get("X-Api-Key"); who.apiKey == "" {
				who.apiKey = text
			}
			return next(c)
		}
		leave, ok := s.enter()
		defer leave()
		if !ok {
			return coalesce.ErrFull
		}
		if text == "" {
			return fault.New(fault.Unauthenticated, "A valid access token is required: Authorization: Bearer <token>.")
		}
		identity, err := s.identify(r.Context(), text, c.RealIP)
		if err != nil {
			return err
		}
		who.identity = identity
		if !route.allows(identity.Role) {
			return fault.New(fault.Forbidden, "The access token's role does not allow this.")
		}
		leave()
		return next(c)
	}
}

// clientIP believes X-Forwarded-For only from trusted proxies.
func clientIP(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range trusted {
		_, network, err := net.ParseCIDR(p.Masked().String())
		if err == nil {
			options = append(options, echo.TrustIPRange(network))
		}
	}
	return echo.ExtractIPFromXFFHeader(options...)
}
