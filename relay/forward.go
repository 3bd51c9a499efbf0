package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/internal/keyheader"
)

// transport is how the relay reaches the providers. It takes answers as they come: what is
// compressed stays so.
func transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http says so
	t.DisableCompression = true
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 2000, 1000
	return t
}

// Errors of forwarding.
var (
	errRedirect = errors.New("the provider redirects, which is not followed")
	errSilent   = errors.New("the provider was silent for too long")
	errGone     = errors.New("the client has gone")
	errDrained  = errors.New("the answer was not read further for a client that has gone")
)

// copyBuffer is the size of the buffers that answers pass through, in bytes.
const copyBuffer = 8 << 10

// pooled are the buffers that bodies and answers pass through.
var pooled = &buffers{sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}}

type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte  { return *b.Pool.Get().(*[]byte) } //nolint:forcetypeassert // New makes no other
func (b *buffers) Put(p []byte) { b.Pool.Put(&p) }

// reverseProxy does what every proxy must: hop-by-hop headers, flushing, cancellation.
func (r *Relay) reverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { clean(p.Out) },
		Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			return exchangeOf(req.Context()).roundTrip(req)
		}),
		// Streams are flushed at once without FlushInterval too: server-sent events, and answers whose
		// length nobody has told.
		BufferPool: pooled,
		ModifyResponse: func(resp *http.Response) error {
			return exchangeOf(resp.Request.Context()).answered(resp)
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			exchangeOf(req.Context()).failed(w, err) //nolint:contextcheck // what it used is settled whether the client stays or not
		},
		ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// clean takes out of a request what is not for the provider: the client's key wherever it
// may stand, cookies, and what tells of the way it came. Rewrite has no X-Forwarded-*.
func clean(out *http.Request) {
	keyheader.Strip(out)
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Original-") || strings.HasPrefix(name, "X-Keyledger-") || strings.HasPrefix(name, "Cf-") {
			out.Header.Del(name)
		}
	}
	for _, name := range notForwarded {
		out.Header.Del(name)
	}
	out.Header.Set("Accept-Encoding", readable(out.Header.Get("Accept-Encoding")))
}

// notForwarded are headers that tell of the way a request came, ask for another protocol, name
// a part of the client's own account, or change what is answered.
var notForwarded = []string{
	"Cookie", "Forwarded", "X-Real-Ip", "True-Client-Ip", "Via", "Origin", "Referer", "Expect",
	"Connection", "Upgrade", "Http2-Settings", "Openai-Organization", "Openai-Project", "X-Goog-Fieldmask", "X-Goog-User-Project", "X-Http-Method-Override",
}

// allowed are the parameters of a query that an operation takes. Gemini's answers come as JSON
// or as events.
func (op *operation) allowed(query url.Values) string {
	kept := url.Values{}
	for name := range strings.SplitSeq(op.query, ",") {
		if value := query.Get(name); value != "" && (name != "alt" || value == "sse" || value == "json") {
			kept.Set(name, value)
		}
	}
	return kept.Encode()
}

// readable is what the client accepts of the encodings that can be read on the way.
func readable(accepted string) string {
	var both []string
	for one := range strings.SplitSeq(accepted, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(one), ";")
		if (name == "gzip" || name == "br") && strings.ReplaceAll(q, " ", "") != "q=0" {
			both = append(both, name)
		}
	}
	if both == nil {
		return "identity"
	}
	return strings.Join(both, ", ")
}

// hidden are headers of answers that tell of the upstream account, which is not the client's.
var hidden = []string{"Set-Cookie", "Retry-After-Ms", "Anthropic-Organization-Id", "Openai-Organization", "Openai-Project", "Www-Authenticate", "Alt-Svc"}

// hide takes them out; what a client is to wait for stays.
func hide(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "X-Keyledger-") || strings.HasPrefix(name, "Anthropic-Ratelimit-") || strings.HasPrefix(name, "X-Ratelimit-") || slices.Contains(hidden, name) {
			h.Del(name)
		}
	}
}

// roundTrip sends a request with one account and, if that fails in a way that another one
// may not, once more with another. It goes on when the client leaves, within bounds, unless the
// relay is told to cancel then.
func (x *exchange) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := context.WithoutCancel(req.Context())
	x.unwatch = context.AfterFunc(req.Context(), x.left)
	first, err := x.choose(nil)
	if err != nil {
		return nil, err
	}
	resp, retry, err := x.try(ctx, req, first)
	if !retry || req.Context().Err() != nil || len(x.decision.Accounts) > 0 {
		return resp, err
	}
	second, chooseErr := x.choose(first)
	if chooseErr != nil {
		return resp, err
	}
	if resp != nil {
		_ = resp.Body.Close()
	}
	x.relay.metrics.retried.WithLabelValues(x.service).Inc()
	resp, _, err = x.try(ctx, req, second)
	return resp, err
}

// left is called when the client leaves: the answer is read on, if it may be.
func (x *exchange) left() {
	if x.op.format == nil || !x.mayDrain() {
		x.cancel(errGone)
	}
}

// mayDrain tells whether the answer may be read on for a client that has gone: it takes one of
// the places for that, until the request is settled or its time is over.
func (x *exchange) mayDrain() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.drains:
		return true
	case x.settled || x.relay.c.OnDisconnect == Cancel:
		return false
	}
	select {
	case x.relay.drains <- struct{}{}:
		x.drains = true
		x.over = time.AfterFunc(drainTime, func() { x.cancel(errDrained) })
		return true
	default:
		return false
	}
}

// try sends the request with an account and judges it by the answer. Each try has a context of
// its own, so that what ends one is not held against the next. Silence is not tried again: the
// provider has the request, and may answer it.
func (x *exchange) try(ctx context.Context, req *http.Request, with *account) (resp *http.Response, retry bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	x.ends(cancel, func() error { return context.Cause(ctx) })
	if req.Context().Err() != nil { // the client left when there was nothing to end
		x.left()
	}
	defer x.listen()()
	var sent, refused atomic.Bool // the provider has had some of it; it takes no connections
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
		ConnectDone:  func(_, _ string, err error) { refused.Store(err != nil) },
		DNSDone:      func(i httptrace.DNSDoneInfo) { refused.Store(i.Err != nil) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				refused.Store(true)
			}
		},
	})
	start := time.Now()
	resp, err = x.send(req.WithContext(ctx), with)
	if err == nil {
		x.relay.accounts.answered(with, time.Since(start))
	}
	x.sent.Store(sent.Load())
	switch {
	case errors.Is(err, errGone), errors.Is(err, errDrained):
		return resp, false, err
	case err != nil && !sent.Load() && !refused.Load(): // of the request's own making
		return nil, false, err
	case x.op.format == nil: // has limits of its own at the provider, and must not rest what is paid for
		return resp, false, err
	}
	retry = x.relay.accounts.judge(with, resp)
	return resp, retry && !errors.Is(err, errSilent), err
}

// ends notes how the provider's side of the present try is ended, and why it was.
func (x *exchange) ends(cancel context.CancelCauseFunc, cause func() error) {
	x.ending.Lock()
	defer x.ending.Unlock()
	x.end, x.why = cancel, cause
}

// cancel ends the provider's side.
func (x *exchange) cancel(why error) {
	x.ending.Lock()
	defer x.ending.Unlock()
	if x.end != nil {
		x.end(why)
	}
}

// cause is why the provider's side was ended; nil: it was not.
func (x *exchange) cause() error {
	x.ending.Lock()
	defer x.ending.Unlock()
	return x.why()
}

// listen ends the provider's side after some silence, until what it returns is called.
func (x *exchange) listen() (stop func()) {
	silence := time.AfterFunc(x.relay.c.IdleTimeout, func() { x.cancel(errSilent) })
	return func() { silence.Stop() }
}

// choose takes an account; not is one that has just failed, which is given back.
func (x *exchange) choose(not *account) (*account, error) {
	one, err := x.relay.accounts.choose(x.service, x.decision.Accounts, not)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.account != nil {
		x.relay.accounts.done(x.account)
	}
	x.account = one
	return one, nil
}

// send sends the request once.
func (x *exchange) send(req *http.Request, with *account) (*http.Response, error) {
	out := req.Clone(req.Context())
	// Path is as it was matched and admitted: nothing in it is decoded once more.
	out.URL = &url.URL{Scheme: with.base.Scheme, Host: with.base.Host, Path: path.Join(with.base.Path, x.path), RawQuery: x.op.allowed(req.URL.Query())}
	out.Host = ""
	name, value := with.header()
	out.Header.Set(name, value)
	if x.body.size > 0 {
		out.Body, out.ContentLength = x.body.outgoing(), x.body.length()
		out.GetBody = func() (io.ReadCloser, error) { return x.body.outgoing(), nil }
	}
	if x.asked.stream || x.op.stream { // so that its end is seen before the client sees it
		out.Header.Set("Accept-Encoding", "identity")
	}
	resp, err := x.relay.c.Transport.RoundTrip(out)
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("asking the provider: %w", err)
	}
	resp.Request = req
	return resp, nil
}

// answered looks at an answer before it goes to the client.
func (x *exchange) answered(resp *http.Response) error {
	x.body.release()
	hide(resp.Header)
	resp.Header.Set("X-Keyledger-Request-Id", x.id)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return errRedirect
	}
	if x.op.format != nil && resp.StatusCode < 300 {
		return x.metered(resp)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		// The provider's own words, but never the account's secret. One that is longer than
		// any provider's is cut.
		stop := x.listen()
		body := x.account.redact(plainly(resp, peek(resp)))
		stop()
		_ = resp.Body.Close()
		resp.Header.Del("Content-Encoding")
		resp.Body = io.NopCloser(strings.NewReader(string(body)))
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	if x.op.format != nil {
		x.finish(settledReleased)
	} else {
		resp.Body = &passed{ReadCloser: resp.Body, done: x.giveBack}
	}
	return nil
}

// passed is the body of an answer that costs nothing.
type passed struct {
	io.ReadCloser

	done func()
}

func (p *passed) Close() error {
	p.done()
	return p.ReadCloser.Close()
}

// failed answers for a request that got no answer from upstream.
func (x *exchange) failed(w http.ResponseWriter, err error) {
	var none noAccountError
	var resting restingError
	f := refusal{reason: badUpstream, code: "UPSTREAM_FAILED", message: "the provider could not be reached"}
	switch {
	case errors.As(err, &none):
		x.relay.log.Warn("a request was not forwarded", "error", err)
		f = refusal{reason: unavailable, code: "NO_ACCOUNT", message: "the relay has no upstream account for this key and service"}
	case errors.As(err, &resting) && resting.last != nil:
		x.finish(settledReleased)
		x.repeat(w, resting)
		return
	case errors.As(err, &resting):
		f = refusal{reason: unavailable, code: "ACCOUNTS_REST", message: err.Error(), wait: resting.wait}
	case errors.Is(err, errSilent):
		f.message = errSilent.Error()
	case errors.Is(err, errRedirect):
		f.message = errRedirect.Error()
	}
	unanswered := errors.Is(err, errGone) || errors.Is(err, errDrained) || errors.Is(err, errSilent)
	if unanswered && x.meter != nil && x.sent.Load() {
		x.finish(settledEstimated) // the provider has the request, and may charge for it
	} else {
		x.finish(settledReleased)
	}
	if !errors.Is(err, errGone) {
		x.relay.log.Warn("a request got no answer from the provider", "service", x.service, "error", err)
	}
	f.write(w, x.service, x.id)
}

// repeat answers with what the account that the key is bound to rests for.
func (x *exchange) repeat(w http.ResponseWriter, why restingError) {
	h := w.Header()
	h.Set("Content-Type", why.last.kind)
	h.Set("X-Keyledger-Code", "ACCOUNT_RESTS")
	h.Set("X-Keyledger-Retry-After", seconds(why.wait))
	h.Set("Retry-After", seconds(min(max(why.wait, time.Second), maxWait)))
	w.WriteHeader(why.last.status)
	_, _ = w.Write(why.last.body) // a client that has gone does not read it
}
