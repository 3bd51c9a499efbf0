package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
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
		FlushInterval: -1,
		BufferPool:    pooled,
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
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Keyledger-") || strings.HasPrefix(name, "Cf-") {
			out.Header.Del(name)
		}
	}
	for _, name := range []string{"Cookie", "Forwarded", "X-Real-Ip", "Via", "Origin", "Referer", "Expect"} {
		out.Header.Del(name)
	}
	out.Header.Set("Accept-Encoding", readable(out.Header.Get("Accept-Encoding")))
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
		if strings.HasPrefix(name, "Anthropic-Ratelimit-") || strings.HasPrefix(name, "X-Ratelimit-") || slices.Contains(hidden, name) {
			h.Del(name)
		}
	}
}

// roundTrip sends a request with one account and, if that fails in a way that another one
// may not, once more with another. It goes on when the client leaves, unless the relay is
// told to cancel then.
func (x *exchange) roundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(req.Context()))
	x.cancel, x.cause = cancel, func() error { return context.Cause(ctx) }
	if x.relay.c.OnDisconnect == Cancel || x.op.format == nil {
		x.unwatch = context.AfterFunc(req.Context(), func() { cancel(errGone) })
	}
	first, err := x.choose(nil)
	if err != nil {
		return nil, err
	}
	resp, retry, err := x.try(req.WithContext(ctx), first)
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
	resp, _, err = x.try(req.WithContext(ctx), second)
	return resp, err
}

// try sends the request with an account and judges it by the answer.
func (x *exchange) try(req *http.Request, with *account) (resp *http.Response, retry bool, err error) {
	defer x.listen()()
	resp, err = x.send(req, with)
	if errors.Is(err, errGone) {
		return resp, false, err
	}
	return resp, x.relay.accounts.judge(with, resp), err
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
	base := with.base.JoinPath(x.path)
	out.URL.Scheme, out.URL.Host, out.URL.Path, out.URL.RawPath = base.Scheme, base.Host, base.Path, base.RawPath
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
		body := peek(resp)
		stop()
		_ = resp.Body.Close()
		body = x.account.redact(body)
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
		f = refusal{reason: unavailable, code: "NO_ACCOUNT", message: err.Error()}
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
	if errors.Is(err, errGone) && x.meter != nil {
		x.finish(settledEstimated) // the provider was asked, and may charge the input
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
