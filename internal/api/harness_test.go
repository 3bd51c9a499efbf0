package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/rollup"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// harness is the REST API on a database of its own, with a token for each role.
// Every answer it gets is held against openapi.yaml.
type harness struct {
	t                    testing.TB
	db                   *db.DB
	url, authz, dbURL    string
	admin, relay, reader string
	log                  *bytes.Buffer
	logMu                *sync.Mutex
	sender               *alert.Sender
	metrics              *metrics.Metrics
	api                  *api.Server
}

type options struct {
	zone     string               // default UTC
	dbURL    string               // default: a fresh one
	prices   bool                 // the public price file as the catalogue, in force since ever
	short    time.Duration        // how long the server waits for a request; zero: for ever
	slots    int64                // requests that may be worked on at once; zero: any number
	wrong    int                  // wrong tokens that an address may present a minute; zero: any number
	behind   string               // network of trusted proxies
	services map[string]uuid.UUID // keys of traces that name none
	refuse   bool                 // models without a price are refused, as serve does by default
}

func newHarness(t testing.TB, o options) *harness {
	t.Helper()
	ctx := context.Background()
	if o.zone == "" {
		o.zone = "UTC"
	}
	if o.dbURL == "" {
		o.dbURL = pgtest.URL(t)
	}
	d := pgtest.Open(t, o.dbURL)
	h := &harness{t: t, db: d, dbURL: o.dbURL, log: &bytes.Buffer{}, logMu: &sync.Mutex{}}
	log := slog.New(slog.NewJSONHandler(lockedWriter{h.logMu, h.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m := metrics.New()
	h.metrics = m
	prices := price.New(d, cache.Deaf)
	tokens := access.New(d, cache.Deaf)
	cfg, err := config.Load([]string{"DATABASE_URL=x", "KEYLEDGER_PEPPERS=p:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="})
	if err != nil {
		t.Fatal(err)
	}
	clients := cfg.Clients
	rules := key.Rules{DefaultTokenLimit: 1000000, Comparable: price.Comparable, Denied: price.Denied, Services: []string{"claude", "gemini", "openai", "bedrock"}}
	for _, c := range clients {
		rules.Clients = append(rules.Clients, c.ID)
	}
	if o.prices {
		raw, err := os.ReadFile("../price/testdata/litellm.json")
		if err != nil {
			t.Fatal(err)
		}
		file, err := price.ParseLiteLLM(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := prices.Put(ctx, db.Actor{Name: "test"}, price.SourceLiteLLM, price.Beginning, file.Prices); err != nil {
			t.Fatal(err)
		}
	} else if _, err := prices.PutBuiltin(ctx); err != nil {
		t.Fatal(err)
	}
	passes := upkeep.New(upkeep.Options{DB: d, Log: log, RetentionDays: 90, DedupHorizon: 7 * 24 * time.Hour})
	if err := passes.Tidy(ctx); err != nil {
		t.Fatal(err)
	}
	sessions, err := access.NewSessions([]byte("a secret of at least thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	var behind []netip.Prefix
	if o.behind != "" {
		behind = []netip.Prefix{netip.MustParsePrefix(o.behind)}
	}
	box, err := alert.NewBox([]byte("a secret of at least thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	webhooks := alert.NewWebhooks(d, box, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	h.sender = alert.NewSender(webhooks, log, func(alert.Outcome) {})
	writers := coalesce.NewWriters(2)
	s := api.New(api.Options{DB: d, Listening: func() bool { return true }, Hot: d, Log: log, Metrics: m, Tokens: tokens, Sessions: sessions,
		Keys:     keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher(), Rules: rules}),
		Verifier: verify.New(verify.Options{DB: d, Hasher: pgtest.Hasher(), Log: log, Show: api.ShowKey, Changes: cache.Deaf}),
		Decider: admit.New(admit.Options{Fast: d, Patient: d, Prices: prices, Clients: clients, Timezone: o.zone, ReservationTTL: time.Hour,
			RefuseUnpriced: o.refuse, Refusals: admit.NewRefusals(d, o.zone, nil), Writers: writers, Log: log}),
		LeaseTTL: 5 * time.Minute, MaxInFlight: o.slots, OTLPKeys: o.services,
		Usage:   usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: o.zone, Writers: writers}),
		Stats:   usage.NewStats(d, o.zone),
		Reports: report.New(d, o.zone), Rollup: rollup.New(d, o.zone),
		Prices: prices, Passes: passes, Webhooks: webhooks, Clients: clients, WrongTokens: o.wrong, TrustedProxies: behind,
		Schema: func(context.Context) (int64, int64, error) { return 1, 1, nil },
	})
	h.api = s
	authz := httptest.NewServer(s.AuthzHandler())
	t.Cleanup(authz.Close)
	h.authz = authz.URL
	server := httptest.NewUnstartedServer(s.Handler())
	if o.short > 0 {
		server.Config = api.HTTPServer(s.Handler(), log)
		server.Config.ReadTimeout, server.Config.IdleTimeout = o.short, o.short
	}
	server.Start()
	t.Cleanup(server.Close)
	h.url = server.URL
	for role, text := range map[access.Role]*string{access.Admin: &h.admin, access.Relay: &h.relay, access.Reader: &h.reader} {
		made, _, err := tokens.Create(ctx, db.Actor{Name: "test"}, "the-"+string(role), role, nil)
		if err != nil {
			t.Fatal(err)
		}
		*text = made
	}
	return h
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// answer is what the service said.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

// get digs into an answer: get("usage", "total", "requests").
func (a answer) get(path ...any) any {
	var v any = a.body
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

func (a answer) text(path ...any) string {
	switch v := a.get(path...).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case nil:
		return ""
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		return string(raw)
	}
}

// wrongFields are the fields that a problem names, by comma.
func (a answer) wrongFields() string {
	var names []string
	list, _ := a.get("errors").([]any)
	for _, e := range list {
		name, _ := e.(map[string]any)["field"].(string)
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// do sends a request as admin. A body that is a string is sent as it is.
func (h *harness) do(method, path string, body any) answer {
	h.t.Helper()
	return h.as(h.admin, method, path, body)
}

func (h *harness) as(token, method, path string, body any, headers ...string) answer {
	h.t.Helper()
	var sent []byte
	switch body := body.(type) {
	case nil:
	case string:
		sent = []byte(body)
	default:
		var err error
		if sent, err = json.Marshal(body); err != nil {
			h.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), method, h.url+path, bytes.NewReader(sent))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	h.holdAgainstSpec(req, sent, resp, raw)
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	_ = decoder.Decode(&a.body) // a 204 has none
	return a
}

var spec = sync.OnceValue(func() routers.Router {
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		panic(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		panic(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return router
})

// holdAgainstSpec fails the test when an answer is not as openapi.yaml says, and when a
// request that openapi.yaml forbids was granted.
func (h *harness) holdAgainstSpec(req *http.Request, sent []byte, resp *http.Response, raw []byte) {
	h.t.Helper()
	req = req.Clone(context.Background())
	req.URL.Host, req.URL.Scheme, req.Host = "", "", ""
	route, params, err := spec().FindRoute(req)
	if err != nil {
		return // no path of ours: a 404 or 405
	}
	req.Body = io.NopCloser(bytes.NewReader(sent))
	request := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true}}
	// A secret that is none at all is MALFORMED, which is an answer.
	if resp.StatusCode < 300 && !bytes.Contains(raw, []byte(`"MALFORMED"`)) {
		if err := openapi3filter.ValidateRequest(context.Background(), request); err != nil {
			h.t.Errorf("%s %s was granted, and openapi.yaml forbids it: %v\n%s", req.Method, req.URL.Path, err, sent)
		}
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: request,
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(raw)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		h.t.Errorf("%s %s answered %d, and not as openapi.yaml says: %v\n%s", req.Method, req.URL.Path, resp.StatusCode, err, raw)
	}
}

// want fails the test unless an answer has a status.
func (h *harness) want(a answer, status int) answer {
	h.t.Helper()
	if a.status != status {
		h.t.Fatalf("status %d, want %d: %s", a.status, status, a.raw)
	}
	return a
}

// create makes a key and returns its id and secret.
func (h *harness) create(fields map[string]any) (id, secret string) {
	h.t.Helper()
	if fields["name"] == nil {
		fields["name"] = "key"
	}
	a := h.want(h.do("POST", "/v1/keys", fields), http.StatusCreated)
	return a.text("id"), a.text("apiKey")
}

// record sends one usage event.
func (h *harness) record(event map[string]any) answer {
	h.t.Helper()
	return h.as(h.relay, "POST", "/v1/usage", event)
}

func (h *harness) verifyCode(secret string) string {
	h.t.Helper()
	return h.want(h.as(h.relay, "POST", "/v1/keys/verify", map[string]any{"apiKey": secret}), http.StatusOK).text("code")
}

func readFile(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}
