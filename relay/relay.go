// Package relay is a reverse proxy that turns keyledger into a working gateway for Claude,
// OpenAI and Gemini: a client changes its base URL and its key, and nothing else. Each
// request is admitted, forwarded with one of the upstream accounts, and settled with what
// the provider says that it used; streams pass event by event.
//
// A relay is an http.Handler:
//
//	upstreams, err := relay.ReadUpstreams("upstreams.yaml", os.Getenv)
//	ledger, err := relay.Remote("https://keys.example.com", token)
//	r, err := relay.New(relay.Config{Ledger: ledger, Upstreams: upstreams, SpoolDir: "spool"})
//	http.ListenAndServe("127.0.0.1:8082", r)
//
// Nothing that was used is lost: before a request goes upstream, a journal in SpoolDir knows
// it, and follows what has come of its answer. What cannot be recorded for the moment waits
// there, and what a relay that was killed left open is settled when the next one starts.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/keyheader"
)

// What happens to an answer whose client has gone.
const (
	Drain  = "drain"  // it is read to its usage, within bounds
	Cancel = "cancel" // it is ended at once, and its usage estimated
)

// Config is what a relay is made of. Ledger, Upstreams and SpoolDir must be set.
type Config struct {
	Ledger    Ledger
	Upstreams Upstreams
	// SpoolDir is the directory of the journal, one for each relay. It is made if missing.
	SpoolDir string
	// OnDisconnect is Drain or Cancel. Default: Drain.
	OnDisconnect string
	// IdleTimeout is how long a provider may send nothing, before or within an answer.
	// Default: 10 minutes, which is as long as SDKs wait for an answer that does not stream.
	IdleTimeout time.Duration
	// BodyBytes bounds the request bodies that are held at once. Default: 512 MiB.
	BodyBytes int64
	// Log is told what an operator has to know. Default: slog.Default().
	Log *slog.Logger
	// Metrics is where the relay's metrics are registered. Nil: nowhere.
	Metrics prometheus.Registerer
	// Transport carries requests upstream. Default: one of the relay's own.
	Transport http.RoundTripper
}

const (
	// lease is how long a slot of concurrency lasts when the relay is gone.
	lease = 2 * time.Minute
	// renewEvery is how often a lease is renewed while an answer flows.
	renewEvery = lease / 3
	// ledgerTimeout bounds one question to the ledger.
	ledgerTimeout = 10 * time.Second
	// The lengths that the ledger takes: of a model in characters, of a User-Agent in bytes.
	maxModel     = 200
	maxUserAgent = 1000
	// settleWait bounds how long the end of an answer waits for its settlement: a client that
	// has seen the end finds its slot free and its usage counted.
	settleWait = 2 * time.Second
	// Bounds of an answer that is read on for a client that has gone.
	drainTime  = 5 * time.Minute
	drainBytes = 64 << 20
	maxDrains  = 500
	// largeScans is how many bodies that lie in files are read at once.
	largeScans = 2
)

// Relay is the proxy. It is safe for concurrent use.
type Relay struct {
	c        Config
	log      *slog.Logger
	accounts *accounts
	bodies   bodies
	journal  *journal
	metrics  *metrics
	proxy    *httputil.ReverseProxy
	drains   chan struct{}
	scans    chan struct{}

	closing    sync.Once
	stop       context.CancelFunc
	background sync.WaitGroup

	mu   sync.Mutex
	open map[*exchange]struct{}
	busy map[uuid.UUID]bool // settlements that are being recorded
}

// New makes a relay, and begins to settle what an earlier one with the same SpoolDir left
// behind. Close stops it.
func New(c Config) (*Relay, error) {
	if c.Ledger == nil || len(c.Upstreams.Accounts) == 0 || c.SpoolDir == "" {
		return nil, errors.New("a relay needs a Ledger, Upstreams with an account, and a SpoolDir")
	}
	if c.OnDisconnect == "" {
		c.OnDisconnect = Drain
	}
	if c.OnDisconnect != Drain && c.OnDisconnect != Cancel {
		return nil, fmt.Errorf("what happens on a disconnect must be %s or %s, and is %q", Drain, Cancel, c.OnDisconnect)
	}
	if c.Upstreams.Accounts[0].base == nil { // made by hand, not read from a file
		if err := c.Upstreams.prepare(os.Getenv); err != nil {
			return nil, err
		}
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 10 * time.Minute
	}
	if c.BodyBytes <= 0 {
		c.BodyBytes = 512 << 20
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Transport == nil {
		c.Transport = transport()
	}
	j, err := openJournal(c.SpoolDir, c.Log)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		c: c, log: c.Log, accounts: newAccounts(c.Upstreams), bodies: bodies{dir: filepath.Clean(c.SpoolDir)}, journal: j,
		drains: make(chan struct{}, maxDrains), scans: make(chan struct{}, largeScans),
		open: map[*exchange]struct{}{}, busy: map[uuid.UUID]bool{},
	}
	r.bodies.left.Store(c.BodyBytes)
	r.metrics = newMetrics(r, c.Metrics)
	r.proxy = r.reverseProxy()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if err := r.adopt(ctx); err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	r.background.Go(func() { r.follow(ctx) })
	r.background.Go(func() { r.tidy(ctx) })
	r.background.Go(func() { r.keepLeases(ctx) })
	r.background.Go(func() { r.retry(ctx) })
	return r, nil
}

// Close waits for answers that are read to their end, until ctx ends: what is open then is
// ended and estimated, or else settled by the next relay. Requests must have ended before:
// shut the server down first. Only the first call does anything.
func (r *Relay) Close(ctx context.Context) (err error) {
	r.closing.Do(func() { err = r.close(ctx) })
	return err
}

func (r *Relay) close(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(r.underWay()) > 0 && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for _, x := range r.underWay() { // their time is over: they are settled by what has come
		x.cancel(errDrained)
	}
	for end := time.Now().Add(settleWait); len(r.underWay()) > 0 && time.Now().Before(end); {
		<-tick.C
	}
	r.stop()
	r.background.Wait()
	return r.journal.close(context.WithoutCancel(ctx))
}

// underWay are the requests that are not settled.
func (r *Relay) underWay() (all []*exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for x := range r.open {
		all = append(all, x)
	}
	return all
}

// ServeHTTP implements http.Handler.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &exchange{relay: r, arrived: time.Now(), id: "req_" + uuid.NewString()}
	watched := &watcher{ResponseWriter: w, conn: http.NewResponseController(w), first: func() {
		if x.op != nil {
			r.metrics.firstByte.WithLabelValues(x.service).Observe(time.Since(x.arrived).Seconds())
		}
	}}
	req, span := x.traced(req)
	defer func() {
		if x.body != nil {
			x.body.release()
		}
		operation := "none"
		if x.op != nil {
			operation = x.op.name
		}
		x.describe(span, watched.status)
		span.End()
		r.metrics.requests.WithLabelValues(x.service, operation, strconv.Itoa(watched.status), watched.Header().Get("X-Keyledger-Code")).Inc()
	}()
	if req.Method == http.MethodGet && balancePaths[req.URL.Path] {
		r.showBalance(watched, req, x)
		return
	}
	if f := r.prepare(watched, req, x); f != nil {
		f.write(watched, x.service, x.id)
		return
	}
	out := req.WithContext(context.WithValue(req.Context(), exchangeKey{}, x)) //nolint:contextcheck // it is the request's
	out.Body, out.ContentLength = http.NoBody, 0                               // roundTrip sends the one that was read
	r.proxy.ServeHTTP(watched, out)
}

// prepare does all that comes before a request goes upstream: it returns why it may not.
func (r *Relay) prepare(w http.ResponseWriter, req *http.Request, x *exchange) *refusal {
	x.op, x.service, x.path, x.model = match(req)
	if x.op == nil {
		return &refusal{reason: notFound, code: "NOT_RELAYED", message: fmt.Sprintf("%s %s is not relayed: it cannot be metered", req.Method, req.URL.Path)}
	}
	key := keyheader.Find(req.Header, req.URL.Query())
	if key == "" {
		return &refusal{reason: badKey, code: "MALFORMED", message: "no API key was sent"}
	}
	if f := r.readBody(w, req, x, key); f != nil {
		return f
	}
	asked := Request{APIKey: key, Service: x.service, Model: x.model, UserAgent: field.Clip(req.UserAgent(), maxUserAgent), DryRun: x.op.format == nil, Estimate: x.asked.estimate}
	if !asked.DryRun {
		asked.Lease = lease
	}
	// Whether the client stays or not: an admission that nobody waits for is released below.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), ledgerTimeout)
	defer cancel()
	d, err := r.c.Ledger.Admit(ctx, asked)
	if err != nil {
		if req.Context().Err() == nil {
			r.log.Error("keyledger was not there to decide", "error", err)
		}
		return &refusal{reason: unavailable, code: "UNAVAILABLE", message: "the key service is not available at the moment"}
	}
	x.decision = d
	if !d.Allowed && (!asked.DryRun || !passesFree(d.Code, x.model)) {
		f := refused(d)
		return &f
	}
	if asked.DryRun {
		return nil
	}
	return r.begin(ctx, x)
}

// passesFree tells whether a refusal is none for what costs nothing: such requests have no
// part in limits and prices, and some of them name no model.
func passesFree(code, model string) bool {
	if r := reasons[code]; r == costReached || r == limited || r == occupied {
		return true
	}
	return code == "MODEL_NOT_PRICED" || code == "MODEL_NOT_ALLOWED" && model == ""
}

// begin notes an admitted request in the journal.
func (r *Relay) begin(ctx context.Context, x *exchange) *refusal {
	x.meter, x.renewed, x.told = x.op.format.meter(), time.Now(), time.Now()
	if err := r.journal.open(ctx, x.estimate()); err != nil {
		r.metrics.journaled.WithLabelValues("journal").Inc()
		r.log.Error("a request was refused, since the journal does not take it", "error", err)
		r.release(x) //nolint:contextcheck // whether the client stays or not
		return &refusal{reason: unavailable, code: "UNAVAILABLE", message: "the relay cannot keep its journal at the moment"}
	}
	r.mu.Lock()
	r.open[x] = struct{}{}
	r.mu.Unlock()
	return nil
}

// readBody takes the request's body and reads what it asks for.
func (r *Relay) readBody(w http.ResponseWriter, req *http.Request, x *exchange, key string) *refusal {
	var err error
	x.body, err = r.bodies.read(w, req, func(ctx context.Context) error { return r.known(ctx, key) })
	switch {
	case errors.Is(err, errUnknownKey):
		return &refusal{reason: badKey, code: "NOT_FOUND", message: "the API key is not valid"}
	case errors.Is(err, errBodyTooLarge):
		return &refusal{reason: tooLarge, code: "TOO_LARGE", message: err.Error()}
	case errors.Is(err, errBodyBroken):
		return &refusal{reason: badRequest, code: "INVALID", message: errBodyBroken.Error()}
	case err != nil:
		r.log.Warn("a request was refused for its body", "error", err)
		return &refusal{reason: unavailable, code: "UNAVAILABLE", message: "the relay holds too many requests at the moment"}
	case x.op.format == nil && x.body.size == 0:
		return nil
	}
	if x.body.file != nil { // its largest text is in memory while it is read
		r.scans <- struct{}{}
		defer func() { <-r.scans }()
	}
	read := x.op.format
	if read == nil {
		read = &freeContent
	}
	x.asked, err = readRequest(read, x.body.whole())
	if err == nil && x.op.format == &openAIChat && x.asked.stream && !x.asked.usageAsked {
		x.body.patch, err = x.asked.askForUsage()
		x.hideUsage = true
	}
	if err != nil {
		return &refusal{reason: badRequest, code: "INVALID", message: err.Error()}
	}
	if x.asked.background {
		return &refusal{reason: badRequest, code: "NOT_RELAYED", message: "background responses are not relayed: they cannot be metered"}
	}
	if x.model == "" {
		x.model = x.asked.model
	}
	switch {
	case x.model == "" && x.op.format != nil:
		return &refusal{reason: badRequest, code: "INVALID", message: "model is required"}
	case utf8.RuneCountInString(x.model) > maxModel || strings.ContainsRune(x.model, 0):
		return &refusal{reason: badRequest, code: "INVALID", message: fmt.Sprintf("model must have at most %d characters, and not U+0000", maxModel)}
	}
	return nil
}

// known tells whether a key is one that may be used, before much is taken for its request.
func (r *Relay) known(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	d, err := r.c.Ledger.Admit(ctx, Request{APIKey: key, DryRun: true})
	if err == nil && !d.Allowed && refused(d).reason == badKey {
		return errUnknownKey
	}
	return err
}

// watcher sees what is answered, and gives a client that reads nothing up.
type watcher struct {
	http.ResponseWriter

	conn   *http.ResponseController
	first  func()
	status int
}

// readerPause is how long a client may read nothing of its answer.
const readerPause = time.Minute

// WriteHeader implements http.ResponseWriter.
func (w *watcher) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
		w.first()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *watcher) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = w.conn.SetWriteDeadline(time.Now().Add(readerPause)) // of a test's recorder: it has none
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }
