package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
)

// What a client may take from others: a slot while its request is worked on, and not
// while its body arrives or its answer is written; bytes of memory for what of its body
// has arrived; and so many connections.
const (
	maxBody      = 1 << 20
	maxBatchBody = 8 << 20
	// maxIngestBody bounds what other programs send in formats of their own, unpacked too.
	// Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-request
	maxIngestBody = 20 << 20
	// maxBodies bounds the bytes of all bodies together, but for the first freeBody bytes
	// of each.
	maxBodies = 64 << 20
	freeBody  = 16 << 10

	// A request's head and the first bodyChunk bytes of its body have headTimeout and bodyGrace together.
	// What comes after them must arrive at bodyRate bytes a second, and may be bodyGrace late; so must all of
	// the body where it took more than a moment to look at the token.
	bodyGrace = 5 * time.Second
	bodyRate  = 16 << 10
	bodyChunk = 32 << 10

	// An answer must be taken within answerGrace and the time that answerRate bytes a
	// second need; a small one that is there in a moment, within writeTimeout. A larger one than freeAnswer
	// keeps its slot until it is written.
	answerGrace = 10 * time.Second
	answerRate  = 64 << 10
	freeAnswer  = 64 << 10

	// sendBuffer is how much of answers the system keeps for a client, in bytes.
	sendBuffer = 64 << 10

	// maxHolders is how many requests of key holders are worked on at once; a further one
	// waits for holderWait and is refused.
	maxHolders = 4
	holderWait = 5 * time.Second

	// maxIngest is how many bodies of other programs are unpacked and read at once; a further
	// one waits for holderWait and is refused.
	maxIngest = 4

	// reportWait is how long a report waits for others to end before it is refused.
	reportWait = 5 * time.Second
)

// capacity is what may be under way at once, over all listeners: requests, and bytes
// of their bodies.
type capacity struct{ requests, bodies atomic.Int64 }

// enter takes a slot for a request, so that what was let in keeps its speed; false:
// there is none. leave gives it back, once, and is for the request's own goroutine.
func (s *Server) enter() (leave func(), ok bool) {
	if n := s.under.requests.Add(1); s.MaxInFlight > 0 && n > s.MaxInFlight {
		s.under.requests.Add(-1)
		return func() {}, false
	}
	left := false
	return func() {
		if !left {
			left = true
			s.under.requests.Add(-1)
		}
	}, true
}

// enterHolder waits for one of the few slots of key holders: thousands of them who ask at
// once are worked on a few at a time, and everybody else's request need not wait behind
// theirs for a processor. leave gives it back, once.
func (s *Server) enterHolder(ctx context.Context) (leave func(), ok bool) {
	return enterFew(ctx, s.underHolders)
}

// enterIngest waits for one of the few places for bodies of other programs that are unpacked: a
// small one may become a large one. leave gives it back, once.
func (s *Server) enterIngest(ctx context.Context) (leave func(), ok bool) {
	return enterFew(ctx, s.underIngest)
}

// enterFew waits for one of few places, for holderWait at the most.
func enterFew(ctx context.Context, places chan struct{}) (leave func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, holderWait)
	defer cancel()
	select {
	case places <- struct{}{}:
		return sync.OnceFunc(func() { <-places }), true
	case <-ctx.Done():
		return func() {}, false
	}
}

// bounded reads the body of a request under /v1 and then lets it take a slot, which
// it gives back before its answer is written.
func (s *Server) bounded(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		who := callOf(c.Request().Context())
		if !guarded(c.Request()) {
			return next(c) // whoever asks how we are is answered
		}
		done, err := s.takeBody(c, who)
		defer done()
		if err != nil {
			return err
		}
		// The time for the work begins when the body is there, or a moment before, however long that took.
		if r := c.Request(); who.slow() {
			ctx, cancel := context.WithTimeout(who.untimed, who.route.timeout)
			defer func() {
				c.SetRequest(r) // or the end of this time would look like a client that hung up
				cancel()
			}()
			c.SetRequest(r.WithContext(ctx))
		}
		enter := s.enter
		if who.route.holder {
			enter = func() (func(), bool) { return s.enterHolder(c.Request().Context()) }
		}
		leave, ok := enter()
		defer leave()
		if !ok {
			return coalesce.ErrFull
		}
		plain := c.Response().Writer
		a := newAnswer(plain, who)
		defer func() {
			c.Response().Writer = plain
			a.done()
		}()
		c.Response().Writer = a
		if err := next(c); err != nil {
			c.Error(err)
		}
		a.unchanged(c.Request())
		if a.body.Len() <= freeAnswer {
			leave()
		}
		return a.send()
	}
}

// takeBody reads a request's body into memory as fast as it arrives, and not slower than
// bodyRate. done gives its bytes back.
func (s *Server) takeBody(c echo.Context, who *call) (done func(), err error) {
	r := c.Request()
	limit := who.route.body
	charged := int64(0)
	done = func() { s.under.bodies.Add(-charged) }
	if r.ContentLength > limit {
		return done, tooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return done, nil
	}
	start := time.Now()
	// One byte more than it says, so that the end comes with the last bytes.
	body := make([]byte, 0, min(max(r.ContentLength, 500), freeBody)+1)
	timed := bodyChunk // the first bytes have the time that the server gives to them and the head together
	if who.slow() {
		timed = 0
	}
	for {
		size := int64(len(body))
		if size >= int64(timed) {
			timed = len(body) + bodyChunk
			late := start.Add(bodyGrace + time.Duration(size)*time.Second/bodyRate)
			if err := http.NewResponseController(c.Response()).SetReadDeadline(late); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return done, err
			}
		}
		if len(body) == cap(body) {
			body = slices.Grow(body, bodyChunk)
		}
		n, err := r.Body.Read(body[size:min(int64(cap(body)), limit+1)])
		body = body[:len(body)+n]
		if charge := int64(len(body)) - freeBody - charged; charge > 0 {
			charged += charge
			if s.under.bodies.Add(charge) > maxBodies {
				return done, coalesce.ErrFull
			}
		}
		switch {
		case int64(len(body)) > limit:
			return done, tooLarge(limit)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return done, fault.Wrap(err, fault.TooSlow, "The body did not arrive in its time; nothing was done. Send it again.")
		case errors.Is(err, io.EOF):
			// From here on net/http listens for the client's end, without a deadline.
			r.Body, r.ContentLength = whole{bytes.NewBuffer(body)}, int64(len(body))
			return done, nil
		case err != nil:
			return done, fault.Wrap(err, fault.Malformed, "The body could not be read to its end.")
		}
	}
}

// whole is a body that is in memory.
type whole struct{ *bytes.Buffer }

// Close does nothing.
func (whole) Close() error { return nil }

// readAll is what is left of a body, without a copy where takeBody has taken it.
func readAll(body io.ReadCloser) ([]byte, error) {
	if in, ok := body.(whole); ok {
		return in.Next(in.Len()), nil
	}
	return io.ReadAll(body)
}

func tooLarge(limit int64) error {
	return fault.New(fault.TooLarge, fmt.Sprintf("The body is larger than %d KiB.", limit>>10))
}

// answer gathers what a handler writes, so that a client that reads slowly holds
// nothing but its own answer. Flush turns it into a stream.
type answer struct {
	http.ResponseWriter

	of        *call
	status    int
	body      bytes.Buffer
	streaming bool
}

// answers keeps answers with the memory of small ones for the next ones.
var answers = sync.Pool{New: func() any { return new(answer) }}

func newAnswer(w http.ResponseWriter, of *call) *answer {
	a := answers.Get().(*answer) //nolint:forcetypeassert // it holds nothing else
	a.ResponseWriter, a.of = w, of
	return a
}

// done gives the answer's memory back; nobody may write it any more.
func (a *answer) done() {
	if a.streaming || a.body.Cap() > freeAnswer {
		return
	}
	body := a.body
	body.Reset()
	*a = answer{body: body}
	answers.Put(a)
}

// WriteHeader notes the status.
func (a *answer) WriteHeader(status int) {
	if a.streaming {
		a.ResponseWriter.WriteHeader(status)
	} else if a.status == 0 {
		a.status = status
	}
}

// Write gathers, or passes on once the answer is a stream.
func (a *answer) Write(b []byte) (int, error) {
	if a.streaming {
		return a.ResponseWriter.Write(b)
	}
	return a.body.Write(b)
}

// FlushError sends what was gathered, and whatever comes later at once.
func (a *answer) FlushError() error {
	if !a.streaming {
		if err := a.send(); err != nil {
			return err
		}
		a.streaming = true
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Flush is FlushError for those that want none.
func (a *answer) Flush() { _ = a.FlushError() }

// Unwrap is the writer below, for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// unchanged gives the answer to a GET an entity tag, and makes it a 304 without a body where
// the client names that tag. A page that asks every few seconds is so sent only what is new.
func (a *answer) unchanged(r *http.Request) {
	header := a.Header()
	if r.Method != http.MethodGet || a.streaming || a.status != 0 && a.status != http.StatusOK || header.Get(echo.HeaderContentType) != "application/json" || header.Get(headerETag) != "" {
		return
	}
	sum := sha256.Sum256(a.body.Bytes())
	tag := `W/"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	header.Set(headerETag, tag)
	if r.Header.Get("If-None-Match") == tag {
		header.Del(echo.HeaderContentType)
		a.status, a.body = http.StatusNotModified, bytes.Buffer{}
	}
}

const headerETag = "ETag"

// send writes what was gathered, to a client that has a bounded time to take it. A small answer that
// is there in a moment is taken by the system, and has the time that the server gives to every answer.
func (a *answer) send() error {
	if a.streaming || a.status == 0 && a.body.Len() == 0 {
		return nil
	}
	if a.body.Len() > freeAnswer || a.of.slow() {
		late := time.Now().Add(answerGrace + time.Duration(a.body.Len())*time.Second/answerRate)
		if err := http.NewResponseController(a.ResponseWriter).SetWriteDeadline(late); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	if a.status != 0 {
		a.ResponseWriter.WriteHeader(a.status)
	}
	_, err := a.ResponseWriter.Write(a.body.Bytes())
	a.body.Reset()
	return err
}

// reporting lets as many reports go on at once as have connections; a further one waits a
// few seconds and is refused. It holds no slot of other requests meanwhile.
func (s *Server) reporting(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if !callOf(r.Context()).route.report {
			return next(c)
		}
		ctx, cancel := context.WithTimeout(r.Context(), reportWait)
		defer cancel()
		select {
		case s.underReports <- struct{}{}:
			defer func() { <-s.underReports }()
			return next(c)
		case <-ctx.Done():
			if r.Context().Err() != nil {
				return r.Context().Err()
			}
			return fault.New(fault.Unavailable, "As many reports as this service has connections for are under way. Try again.")
		}
	}
}
