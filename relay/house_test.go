package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/internal/mockupstream"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/plug/inprocess"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
	"github.com/keyledger/keyledger/relay"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// house is a relay between a service with a database of its own and providers that are
// stood in for.
type house struct {
	*testing.T

	db       *db.DB
	service  http.Handler // the REST API
	local    relay.Ledger
	token    string // of the role relay
	mock     *mockupstream.Server
	upstream string
	config   relay.Config
	relay    *relay.Relay
	url      string
	log      *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// secrets are those of the upstream accounts, which must never be seen.
const secrets = "sk-upstream-secret-"

// newHouse opens the house with one account of each service. change may alter how the relay
// is made.
func newHouse(t *testing.T, change func(h *house, c *relay.Config)) *house {
	t.Helper()
	h := &house{T: t, mock: &mockupstream.Server{}, log: &lockedBuffer{}}
	h.openService()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.mock.ServeHTTP(w, r) }))
	t.Cleanup(upstream.Close)
	h.upstream = upstream.URL
	h.config = relay.Config{
		Ledger: h.local, SpoolDir: filepath.Join(t.TempDir(), "spool"),
		Log: slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, service := range []string{"claude", "openai", "gemini"} {
		h.addAccount(&h.config, service, service+"-1")
	}
	if change != nil {
		change(h, &h.config)
	}
	h.openRelay()
	return h
}

// addAccount adds an account whose provider is the mock.
func (h *house) addAccount(c *relay.Config, service, id string) {
	file := filepath.Join(h.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secrets+id+"\n"), 0o600); err != nil {
		h.Fatal(err)
	}
	c.Upstreams.Accounts = append(c.Upstreams.Accounts, relay.Account{ID: id, Service: service, APIKeyFile: file, BaseURL: h.upstream})
}

func (h *house) openRelay() {
	h.Helper()
	r, err := relay.New(h.config)
	if err != nil {
		h.Fatal(err)
	}
	h.relay = r
	server := httptest.NewServer(r)
	h.url = server.URL
	h.Cleanup(func() {
		server.Close()
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(closing); err != nil {
			h.Error(err)
		}
	})
}

// openService makes the service that decides and records.
func (h *house) openService() {
	ctx := context.Background()
	d := pgtest.New(h.T)
	h.db = d
	log := slog.New(slog.DiscardHandler)
	cfg, err := config.Load([]string{"DATABASE_URL=x", "KEYLEDGER_PEPPERS=p:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="})
	if err != nil {
		h.Fatal(err)
	}
	prices, tokens := price.New(d, cache.Deaf), access.New(d, cache.Deaf)
	if _, err := prices.PutBuiltin(ctx); err != nil {
		h.Fatal(err)
	}
	passes := upkeep.New(upkeep.Options{DB: d, Log: log, RetentionDays: 90, DedupHorizon: 7 * 24 * time.Hour})
	if err := passes.Tidy(ctx); err != nil {
		h.Fatal(err)
	}
	writers := coalesce.NewWriters(2)
	verifier := verify.New(verify.Options{DB: d, Hasher: pgtest.Hasher(), Log: log, Show: api.ShowKey, Changes: cache.Deaf})
	decider := admit.New(admit.Options{Fast: d, Patient: d, Prices: prices, Clients: cfg.Clients, Timezone: "UTC", ReservationTTL: time.Hour,
		RefuseUnpriced: true, Refusals: admit.NewRefusals(d, "UTC", nil), Writers: writers, Log: log})
	recorder := usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: "UTC", Writers: writers})
	h.local = inprocess.New(verifier, decider, recorder)
	s := api.New(api.Options{DB: d, Listening: func() bool { return true }, Hot: d, Log: log, Metrics: metrics.New(), Tokens: tokens,
		Keys: keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher(), Rules: key.Rules{}}), Verifier: verifier, Decider: decider, LeaseTTL: 5 * time.Minute,
		Usage: recorder, Stats: usage.NewStats(d, "UTC"), Reports: report.New(d, "UTC"), Rollup: rollup.New(d, "UTC"), Prices: prices, Passes: passes, Clients: cfg.Clients,
		Schema: func(context.Context) (int64, int64, error) { return 1, 1, nil },
	})
	h.service = s.Handler()
	if h.token, _, err = tokens.Create(ctx, db.Actor{Name: "test"}, "relay", access.Relay, nil); err != nil {
		h.Fatal(err)
	}
}

// key makes a key and returns its id and its secret.
func (h *house) key(fields key.Columns) (uuid.UUID, string) {
	return pgtest.Key(h.T, h.db, pgtest.KeyRow{Fields: fields})
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// send sends a request as a client of a provider does. headers are pairs.
func (h *house) send(ctx context.Context, secret, path, body string, headers ...string) answer {
	h.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, h.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("X-Api-Key", secret)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(raw), err}
}

// row is a row of the ledger.
type row struct {
	model, account, request                     string
	input, output, cacheCreate, cacheRead, hour int64
	cost                                        decimal.Decimal
	estimated                                   bool
}

// ledger waits until a key has so many rows in the ledger, and returns them.
func (h *house) ledger(id uuid.UUID, rows int) (all []row) {
	h.Helper()
	const count = "SELECT count(*) FROM usage_events AS e JOIN api_keys AS k USING (ledger_id) WHERE k.id = $1"
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if n := pgtest.Scan[int](h.T, h.db, count, id); n == rows {
			break
		} else if n > rows || time.Now().After(end) {
			h.Fatalf("the ledger has %d rows of the key, want %d\n%s", n, rows, h.log)
		}
	}
	for i := range rows {
		of := func(column string) string {
			return pgtest.Scan[string](h.T, h.db, fmt.Sprintf("SELECT coalesce((e.%s)::text, '') FROM usage_events AS e JOIN api_keys AS k USING (ledger_id) WHERE k.id = $1 ORDER BY e.event_id OFFSET $2 LIMIT 1", column), id, i)
		}
		number := func(column string) int64 {
			n, err := decimal.NewFromString(of(column))
			if err != nil {
				h.Fatal(err)
			}
			return n.IntPart()
		}
		all = append(all, row{of("model"), of("account_id"), of("request_id"), number("input_tokens"), number("output_tokens"), number("cache_create_tokens"), number("cache_read_tokens"), number("ephemeral_1h_tokens"),
			decimal.RequireFromString(of("cost")), of("estimated") == "true"})
	}
	return all
}

// open counts the admissions of a key that hold a slot or a reservation.
func (h *house) open(id uuid.UUID) int {
	return pgtest.Scan[int](h.T, h.db, "SELECT count(*) FROM admissions WHERE key_id = $1 AND is_open", id)
}
