// Package api is the REST API: it turns HTTP into calls of the concepts below it
// and their answers into JSON. Nothing below knows echo or HTTP.
//
// openapi.yaml is the source: routes, parameters and wire types are generated
// from it (server.gen.go), and the tests hold every answer against it.
package api

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/standby"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

// Options make a Server. MaxInFlight, WrongTokens, OTLPKeys, Tracing, TrustedProxies, Relay and
// Console may be zero; everything else must be set.
type Options struct {
	DB       *db.DB
	Log      *slog.Logger
	Metrics  *metrics.Metrics
	Tokens   *access.Tokens
	Sessions *access.Sessions
	Keys     *keys.Store
	Verifier *verify.Verifier
	Decider  *admit.Decider
	Usage    *usage.Recorder
	Stats    *usage.Stats
	Prices   *price.Store
	Reports  *report.Reports
	Rollup   *rollup.Rollup
	Passes   *upkeep.Passes
	Webhooks *alert.Webhooks
	Clients  []config.Client
	LeaseTTL time.Duration // length of a lease that asks for none
	// Standby is what lists may be read from, by the pool Copy; nil: there is none.
	Standby *standby.Standby
	Copy    *db.DB
	// Hot is the pool of the hot path: without it nothing that a relay needs works.
	Hot *db.DB
	// Listening tells whether changes are heard.
	Listening func() bool
	// MaxInFlight is the most requests under way at once; past it 503. 0: no bound.
	MaxInFlight int64
	// WrongTokens is how many wrong access tokens an address may present a minute. 0: any number.
	WrongTokens int
	// Schema tells the version of the database's schema, and the one that this binary needs.
	Schema func(context.Context) (current, needed int64, err error)
	// Build is what the binary was built from.
	Build Build
	// Relay tells how the relay in this process is; nil: there is none.
	Relay func() RelayState
	// Console are the files of the console; nil: there is none.
	Console fs.FS
	// OTLPKeys are the keys of traces that name none, by their resource's service.name.
	OTLPKeys map[string]uuid.UUID
	// Tracing: each request has a span.
	Tracing bool
	// TrustedProxies are networks whose X-Forwarded-For is believed in the log.
	TrustedProxies []netip.Prefix
}

// Server answers the REST API. It is safe for concurrent use.
type Server struct {
	Options

	started      time.Time
	overview     recent[Overview]
	attempts     *attempts
	repricing    sync.Mutex   // held by who prices again
	streams      atomic.Int32 // CSV reports under way
	under        capacity
	holders      *coalesce.Group[uuid.UUID, GetSelf200JSONResponse]
	underReports chan struct{}
	underHolders chan struct{}
	underIngest  chan struct{}
}

// New makes a Server.
func New(o Options) *Server {
	_, _, reports := o.Reports.PoolStat()
	s := &Server{Options: o, started: time.Now(), attempts: newAttempts(o.WrongTokens), underHolders: make(chan struct{}, maxHolders), underIngest: make(chan struct{}, maxIngest), underReports: make(chan struct{}, max(1, reports))}
	s.holders = s.selfGroup()
	return s
}

// Handler is the whole REST API with its middleware.
func (s *Server) Handler() http.Handler {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Binder = binder{}
	e.HTTPErrorHandler = s.writeError
	e.IPExtractor = clientIP(s.TrustedProxies)
	if s.Tracing {
		e.Use(traced)
	}
	e.Use(s.begin, s.observe, s.recoverPanic, s.authenticate, s.reporting, s.bounded, s.recoverPanic)
	RegisterHandlers(e, NewStrictHandler(s, nil))
	s.registerIngest(e)
	registerDocs(e)
	registerConsole(e, s.Console)
	return e
}

// Limits of a server's connections: a slow client must not hold one for ever.
const (
	headTimeout  = 10 * time.Second // for the head of a request; the first bytes of its body have bodyGrace more
	writeTimeout = 60 * time.Second // where no handler has set one of its own
	idleTimeout  = time.Minute
	maxHeader    = 64 << 10
)

// HTTPServer is a server for a handler with bounds on what a client may take.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headTimeout, ReadTimeout: headTimeout + bodyGrace, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// rules are what bodies of keys are checked against.
func (s *Server) rules() key.Rules { return s.Keys.Rules() }
