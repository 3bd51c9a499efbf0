package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// statuses is the one table from faults to HTTP.
var statuses = map[fault.Code]int{
	fault.Malformed:       http.StatusBadRequest,
	fault.Invalid:         http.StatusUnprocessableEntity,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Forbidden:       http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.NotAllowed:      http.StatusMethodNotAllowed,
	fault.Conflict:        http.StatusConflict,
	fault.TooSlow:         http.StatusRequestTimeout,
	fault.TooLarge:        http.StatusRequestEntityTooLarge,
	fault.Unsupported:     http.StatusUnsupportedMediaType,
	fault.TooMany:         http.StatusTooManyRequests,
	fault.Unavailable:     http.StatusServiceUnavailable,
	fault.Internal:        http.StatusInternalServerError,
}

// retryAfter is what a caller is asked to wait when the database is away.
const retryAfter = "1"

// writeError answers with a problem (RFC 9457). What a caller cannot use stays
// in the log.
func (s *Server) writeError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	f := asFault(err)
	status := statuses[f.Code]
	who := callOf(c.Request().Context())
	if who.slow() { // the time that net/http has given to the answer may be over
		_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(answerGrace))
	}
	if hungUp(c.Request().Context()) && f.Code != fault.TooSlow { // whose client net/http takes for gone
		who.log(s.Log).DebugContext(c.Request().Context(), "the client hung up", "route", c.Path())
		_ = c.NoContent(statusHungUp) // nobody reads it, or one who only ended his side: he must not take it for 200
		return
	}
	switch {
	case overloaded(err): // one line each would be a load of its own
		s.Metrics.Overloaded.Inc()
	case status >= http.StatusInternalServerError:
		who.log(s.Log).ErrorContext(c.Request().Context(), "request failed", "method", c.Request().Method, "route", c.Path(), "error", err)
	}
	switch f.Code { //nolint:exhaustive // the others need no header
	case fault.Unauthenticated:
		c.Response().Header().Set("WWW-Authenticate", "Bearer")
	case fault.Unavailable, fault.TooMany:
		c.Response().Header().Set("Retry-After", retryAfter)
	}
	writeProblem(c.Response(), status, problemOf(f, who.requestID))
}

// problemOf is what a caller is told of a fault.
func problemOf(f *fault.Error, requestID string) Problem {
	p := Problem{Code: string(f.Code), Detail: f.Message, RequestID: requestID}
	if len(f.Fields) > 0 {
		list := make([]FieldError, len(f.Fields))
		for i, wrong := range f.Fields {
			list[i] = FieldError(wrong)
		}
		p.Errors = &list
	}
	return p
}

// writeProblem answers with a problem (RFC 9457).
func writeProblem(w http.ResponseWriter, status int, p Problem) {
	p.Type, p.Title, p.Status = "about:blank", http.StatusText(status), status
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		return // the caller has hung up
	}
}

// statusHungUp is what metrics and the log say of a request whose client went away, as nginx does.
const statusHungUp = 499

// hungUp reports whether a request ended because its client went away, or ended his side of the
// connection. It is neither's failure.
func hungUp(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// asFault makes one fault of echo's errors, the database's and ours.
func asFault(err error) *fault.Error {
	if overloaded(err) {
		return fault.Wrap(err, fault.Unavailable, "The service is at its capacity. Try again.")
	}
	var he *echo.HTTPError
	if !errors.As(err, &he) {
		return db.Fault(err)
	}
	text, _ := he.Message.(string)
	switch he.Code {
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "No such path.")
	case http.StatusMethodNotAllowed:
		return fault.New(fault.NotAllowed, "This path does not know the method.")
	case http.StatusBadRequest:
		// The generated code says: Invalid format for parameter NAME: why
		if rest, ok := strings.CutPrefix(text, "Invalid format for parameter "); ok {
			name, _, _ := strings.Cut(rest, ":")
			return fault.Fields(field.Error{Field: name, Message: "has the wrong form"})
		}
		return fault.Wrap(err, fault.Malformed, "The request cannot be read.")
	}
	return fault.Wrap(err, fault.Internal, "Something went wrong in the service.")
}

// overloaded tells a refusal for want of capacity, or since the service stops.
func overloaded(err error) bool {
	return errors.Is(err, coalesce.ErrFull) || errors.Is(err, coalesce.ErrClosed)
}
