package alert_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var (
	ctx    = context.Background()
	tester = db.Actor{Name: "test"}
)

// house is a database with all that makes events.
type house struct {
	*testing.T

	db       *db.DB
	record   *usage.Recorder
	keys     *keys.Store
	passes   *alert.Passes
	webhooks *alert.Webhooks
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return houseAt(t, pgtest.URL(t))
}

// houseAt is the house on a database that is there.
func houseAt(t *testing.T, url string) *house {
	t.Helper()
	d := pgtest.Open(t, url)
	prices := price.New(d, cache.Deaf)
	if _, err := prices.PutBuiltin(ctx); err != nil {
		t.Fatal(err)
	}
	return &house{T: t, db: d, passes: alert.NewPasses(d, "UTC"), webhooks: alert.NewWebhooks(d, box(t), nil),
		record: usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: "UTC", Writers: coalesce.NewWriters(2)}),
		keys:   keys.New(keys.Options{Changes: d, Reads: d, Hasher: pgtest.Hasher(), Rules: key.Rules{}})}
}

// ask makes a webhook for types of events.
func (h *house) ask(types ...string) uuid.UUID {
	h.Helper()
	row, _, err := h.webhooks.Create(ctx, tester, alert.Settings{URL: new("https://example.com/"), Events: &types})
	if err != nil {
		h.Fatal(err)
	}
	return row.ID
}

// spend records a use of a key that costs so many dollars.
func (h *house) spend(id uuid.UUID, usd int64) {
	h.Helper()
	_, err := h.record.Record(ctx, []usage.Event{{KeyID: id, Model: "claude-sonnet-4-20250514", ModelReceived: "claude-sonnet-4-20250514",
		Counts: usage.Counts{Output: usd * 1_000_000 / 15}}})
	if err != nil {
		h.Fatal(err)
	}
}

// look makes a pass, and returns how much it wrote.
func (h *house) look() int64 {
	h.Helper()
	n, err := h.passes.Look(ctx, nil)
	if err != nil {
		h.Fatal(err)
	}
	return n
}

// told is what the outbox holds of a type, oldest first.
func (h *house) told(kind string) (all []map[string]any) {
	h.Helper()
	raw := pgtest.Scan[json.RawMessage](h, h.db, "SELECT coalesce(jsonb_agg(data ORDER BY at, data::text), '[]') FROM webhook_events WHERE type = $1", kind)
	if err := json.Unmarshal(raw, &all); err != nil {
		h.Fatal(err)
	}
	return all
}

// Guarantee: each share of each limit is told once a key and period, whatever is used after,
// however many replicas look, and by nobody who does not want it; a delivery is made with it for
// each webhook that asks, and for no other.
func TestLimitsAreToldOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "alice", Fields: key.Columns{"daily_cost_limit": 10, "total_cost_limit": 100, "alert_at": []int{50, 80, 100}}})
	quiet, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "quiet", Fields: key.Columns{"daily_cost_limit": 1, "alert_at": []int{}}})
	h.spend(id, 6)
	if n := h.look(); n != 0 {
		t.Fatalf("%d events that nobody asks for", n)
	}
	wants, other := h.ask(alert.LimitReached), h.ask(alert.Created)
	// What was true before anybody asked is told when somebody does.
	if n := h.look(); n != 1 {
		t.Fatalf("50 %% of the day's limit: %d events, %v", n, h.told(alert.LimitReached))
	}
	h.spend(quiet, 5)
	h.spend(id, 1)
	if n := h.look(); n != 0 {
		t.Fatalf("between two thresholds: %v", h.told(alert.LimitReached))
	}
	h.spend(id, 5) // 12 of 10
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := h.passes.Look(ctx, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	h.look()
	var seen []string
	for _, e := range h.told(alert.LimitReached) {
		if e["keyId"] != id.String() || e["name"] != "alice" {
			t.Errorf("%v", e)
		}
		seen = append(seen, e["limit"].(string)+" "+jsonText(e["threshold"])+" at "+jsonText(e["percent"]))
	}
	slices.Sort(seen)
	if got := strings.Join(seen, ", "); got != "dailyCost 100 at 119, dailyCost 50 at 60, dailyCost 80 at 119" {
		t.Errorf("told: %s", got)
	}
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = $1", wants); n != 3 {
		t.Errorf("%d deliveries for who asks", n)
	}
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = $1", other); n != 0 {
		t.Errorf("%d deliveries for who does not", n)
	}
	// The next day begins with nothing used: what was told yesterday does not count for today.
	pgtest.Exec(t, h.db, "UPDATE key_counters SET day = day - 1 WHERE key_id = $1", id)
	pgtest.Exec(t, h.db, "UPDATE alerts SET period = (period::date - 1)::text WHERE kind = 'dailyCost'")
	h.spend(id, 6)
	if n := h.look(); n != 1 {
		t.Errorf("a new day: %d events", n)
	}
}

func jsonText(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// Guarantee: windows and concurrency are told of too: requests and tokens once a window,
// concurrency when as many run as may, and when one was refused for it.
func TestWindowsAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.LimitReached)
	h.look()
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"rate_limit_window": 60, "rate_limit_requests": 10, "token_limit": 1000, "concurrency_limit": 2}})
	busy, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "busy", Fields: key.Columns{"concurrency_limit": 5}})
	const admit = `INSERT INTO admissions (id, key_id, admitted_at, lease_expires_at, reserved_until, reserved_tokens, reserved_cost)
		VALUES (gen_random_uuid(), $1, now(), now() + interval '1 minute', now() + interval '1 hour', 0, 0)`
	pgtest.Exec(t, h.db, "UPDATE key_counters SET window_start = now() - interval '1 minute', window_requests = 8, window_tokens = 1000 WHERE key_id = $1", id)
	pgtest.Exec(t, h.db, admit, id)
	pgtest.Exec(t, h.db, admit, busy)
	if n := h.look(); n != 3 { // requests 80; tokens 80 and 100
		t.Errorf("%v", h.told(alert.LimitReached))
	}
	pgtest.Exec(t, h.db, admit, id)
	pgtest.Exec(t, h.db, "INSERT INTO admission_refusals SELECT ledger_id, current_date, 'CONCURRENCY_EXCEEDED', false, 1 FROM api_keys WHERE id = $1", busy)
	if n := h.look(); n != 4 { // concurrency 80 and 100, of both
		t.Errorf("%v", h.told(alert.LimitReached))
	}
	if n := h.look(); n != 0 {
		t.Errorf("told twice: %v", h.told(alert.LimitReached))
	}
}

// Guarantee: an end that comes near is told once for each number of days, and again when the end
// is moved; what is off, deleted or over is not told of. The end itself is told by the pass that
// disables the key.
func TestEndsAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.Expiring, alert.Expired)
	now := time.Now().UTC()
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	soon, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "soon", Fields: key.Columns{"expires_at": at(3 * 24 * time.Hour)}})
	pgtest.Key(t, h.db, pgtest.KeyRow{Name: "later", Fields: key.Columns{"expires_at": at(30 * 24 * time.Hour)}})
	pgtest.Key(t, h.db, pgtest.KeyRow{Name: "off", Fields: key.Columns{"expires_at": at(time.Hour), "is_active": false}})
	pgtest.Key(t, h.db, pgtest.KeyRow{Name: "never"})
	want := func(what string, n int) {
		t.Helper()
		at := time.Now()
		if _, err := h.passes.Look(ctx, &at); err != nil {
			t.Fatal(err)
		}
		if got := h.told(alert.Expiring); len(got) != n {
			t.Errorf("%s: %d events, want %d: %v", what, len(got), n, got)
		}
	}
	want("seven days before", 1)
	want("again", 1)
	pgtest.Exec(t, h.db, "UPDATE api_keys SET expires_at = $2 WHERE id = $1", soon, now.Add(12*time.Hour))
	want("moved to within a day", 3) // 7 and 1 of the new end
	pgtest.Exec(t, h.db, "UPDATE api_keys SET expires_at = $2 WHERE id = $1", soon, now.Add(-time.Hour))
	want("over", 3)
	passes := upkeep.New(upkeep.Options{DB: h.db, Log: quietLog()})
	for range 2 {
		if _, err := passes.Keys(ctx, db.Actor{Name: "system"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.told(alert.Expired); len(got) != 1 || got[0]["name"] != "soon" || got[0]["actor"] != "system" {
		t.Errorf("expired: %v", got)
	}
}

// Guarantee: changes of keys are told in the transaction that makes them: one that is undone
// tells nothing. Names of fields are the API's, and no secret or hash is told.
func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.Created, alert.Updated, alert.Deleted, alert.Rotated)
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "bob"})
	if _, err := h.keys.Update(ctx, tester, id, key.Columns{"daily_cost_limit": 5, "tags": []string{"x"}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.keys.Rotate(ctx, tester, id, 0, keys.Idempotency{}); err != nil {
		t.Fatal(err)
	}
	_ = h.db.Audited(ctx, tester, "update", func(q *db.Queries) error {
		_, err := q.KeyDelete(ctx, []uuid.UUID{id})
		if err != nil {
			t.Error(err)
		}
		return context.Canceled // undone
	})
	if err := h.keys.Delete(ctx, tester, []uuid.UUID{id}); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{
		alert.Created: `[{"keyId":"ID","name":"bob","tags":[]}]`,
		alert.Updated: `[{"actor":"test","changed":["dailyCostLimit","tags"],"keyId":"ID","name":"bob","tags":["x"]}]`,
		alert.Rotated: `[{"actor":"test","keyId":"ID","name":"bob","tags":["x"]}]`,
		alert.Deleted: `[{"actor":"test","keyId":"ID","name":"bob","tags":["x"]}]`,
	} {
		if got := strings.ReplaceAll(jsonText(h.told(kind)), id.String(), "ID"); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

// Guarantee: a purge takes a key out of the outbox, and tells of itself by the id alone.
func TestPurgeIsForgotten(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.Created, alert.Deleted, alert.LimitReached)
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "a name to forget", Fields: key.Columns{"daily_cost_limit": 1}})
	h.spend(id, 5)
	h.look()
	if err := h.keys.Purge(ctx, tester, id); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM webhook_events WHERE data::text LIKE '%forget%'"); n != 0 {
		t.Errorf("%d events still name it", n)
	}
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM alerts"); n != 0 {
		t.Errorf("%d alerts are left", n)
	}
	if got := h.told(alert.Deleted); len(got) != 1 || jsonText(got[0]) != `{"keyId":"`+id.String()+`","purged":true}` {
		t.Errorf("told: %v", got)
	}
}

// Guarantee: a model without a price is told of once a day, however often it is used.
func TestUnpricedModelsAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.Unpriced)
	h.look()
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{})
	for range 3 {
		if _, err := h.record.Record(ctx, []usage.Event{{KeyID: id, Model: "no-such-model", ModelReceived: "no-such-model", Counts: usage.Counts{Input: 1}}}); err != nil {
			t.Fatal(err)
		}
		h.spend(id, 1)
		h.look()
	}
	if got := h.told(alert.Unpriced); len(got) != 1 || got[0]["model"] != "no-such-model" || got[0]["day"] != time.Now().UTC().Format(time.DateOnly) {
		t.Errorf("told: %v", got)
	}
}

// Guarantee: what happens while the pass does not look is told when it looks: events recorded by
// transactions that were open while it looked are not passed over.
func TestNothingIsPassedOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.LimitReached)
	h.look()
	ids := make([]uuid.UUID, 40)
	for i := range ids {
		ids[i], _ = pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"daily_cost_limit": 1, "alert_at": []int{100}}})
	}
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() { h.spend(id, 3) })
	}
	for range 20 {
		h.look()
	}
	all.Wait()
	h.look()
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(DISTINCT key_id) FROM webhook_events"); n != int64(len(ids)) {
		t.Errorf("%d of %d keys were told of", n, len(ids))
	}
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM webhook_events"); n != int64(len(ids)) {
		t.Errorf("%d events for %d keys", n, len(ids))
	}
}

// Guarantee: a key that is changed so that it has reached a limit is told of, though nobody uses it
// any more; so is one that had reached it while webhooks asked for other things. A threshold that
// stands there twice is told once.
func TestChangedKeysAreLookedAt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ask(alert.Expiring) // keeps a pass going that is not for limits
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"daily_cost_limit": 100}})
	h.spend(id, 12)
	h.look()
	h.ask(alert.LimitReached)
	if n := h.look(); n != 0 {
		t.Fatalf("12 of 100: %d events", n)
	}
	if _, err := h.keys.Update(ctx, tester, id, key.Columns{"daily_cost_limit": 10}, nil); err != nil {
		t.Fatal(err)
	}
	if n := h.look(); n != 2 {
		t.Errorf("12 of 10: %d events", n)
	}
	other, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"daily_cost_limit": 10, "alert_at": []int{80, 80}}})
	h.spend(other, 9)
	if n := h.look(); n != 1 {
		t.Errorf("80 twice: %d events", n)
	}
	late, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Fields: key.Columns{"daily_cost_limit": 1}})
	pgtest.Exec(t, h.db, "UPDATE webhooks SET is_active = false WHERE 'key.limit_reached' = ANY (events)")
	h.spend(late, 5)
	h.look()
	pgtest.Exec(t, h.db, "UPDATE webhooks SET is_active = true")
	if n := h.look(); n != 2 {
		t.Errorf("asked for again: %d events", n)
	}
}

// Guarantee: a webhook that is being deleted keeps nobody from changing keys; a key that is being
// purged keeps nobody from being told, and is not told of.
func TestPassesWaitForNobody(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	h := houseAt(t, url)
	gone, stays := h.ask(alert.Created, alert.LimitReached), h.ask(alert.Created, alert.LimitReached)
	release := pgtest.Hold(t, url, "DELETE FROM webhooks WHERE id = $1", gone)
	begun := time.Now()
	id, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "purged", Fields: key.Columns{"daily_cost_limit": 1}})
	if took := time.Since(begun); took > time.Second {
		t.Errorf("a key waited %s", took)
	}
	release()
	if n := pgtest.Scan[int64](t, h.db, "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = $1", stays); n != 1 {
		t.Errorf("%d deliveries for the one that stays", n)
	}
	other, _ := pgtest.Key(t, h.db, pgtest.KeyRow{Name: "other", Fields: key.Columns{"daily_cost_limit": 1}})
	pgtest.Exec(t, h.db, "UPDATE key_counters SET day = current_date, day_cost = 5 WHERE key_id = ANY ($1)", []uuid.UUID{id, other})
	release = pgtest.Hold(t, url, "SELECT FROM api_keys WHERE id = $1 FOR UPDATE", id) // as a purge does
	begun = time.Now()
	if n := h.look(); n != 2 || time.Since(begun) > 2*time.Second {
		t.Errorf("%d events after %s, of the other one there are two", n, time.Since(begun))
	}
	release()
}

// Guarantee: each ledger row is told once, adjustments too, in the order of the ledger and in
// messages of bounded size; a row of a chunk that is still open is not told yet, what was recorded
// while nobody asked is not told at all, and a purged key is named no more.
func TestUsageIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	roll := rollup.New(h.db, "UTC")
	id, _ := pgtest.Key(h.T, h.db, pgtest.KeyRow{})
	gone, _ := pgtest.Key(h.T, h.db, pgtest.KeyRow{})
	use := func(key uuid.UUID, n int) (last uuid.UUID) {
		t.Helper()
		for range n {
			got, err := h.record.Record(ctx, []usage.Event{{KeyID: key, AccountID: "a", Model: "claude-haiku-4-5", ModelReceived: "claude-haiku-4-5", Counts: usage.Counts{Input: 10, Output: 2}}})
			if err != nil {
				t.Fatal(err)
			}
			last = got[0].EventID
		}
		return last
	}
	look := func() {
		t.Helper()
		if _, err := h.passes.Look(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	seal := func() {
		t.Helper()
		if _, err := roll.Roll(ctx); err != nil {
			t.Fatal(err)
		}
	}
	rows := func() (ids []string, most int) {
		t.Helper()
		for _, one := range h.told(alert.Used) {
			list := one["events"].([]any)
			most = max(most, len(list))
			for _, row := range list {
				ids = append(ids, row.(map[string]any)["id"].(string))
			}
		}
		return ids, most
	}
	use(id, 3)
	seal()
	webhook := h.ask(alert.Used)
	look()
	last := use(id, 95)
	use(gone, 5)
	look()
	if ids, _ := rows(); len(ids) != 0 {
		t.Errorf("%d rows of the open chunk are told", len(ids))
	}
	if _, err := h.record.Void(ctx, tester, last, "test"); err != nil {
		t.Fatal(err)
	}
	seal()
	look()
	look()
	ids, most := rows()
	want := pgtest.Scan[[]string](t, h.db, "SELECT array_agg(event_id::text ORDER BY event_id) FROM usage_events WHERE chunk > 1")
	if slices.Sort(ids); !slices.Equal(ids, want) || len(ids) != 101 || most > 20 {
		t.Errorf("%d rows are told, %d in a message, want 101", len(ids), most)
	}
	if err := h.keys.Purge(ctx, tester, gone); err != nil {
		t.Fatal(err)
	}
	if named := pgtest.Scan[int](t, h.db, "SELECT count(*) FROM webhook_events WHERE data::text LIKE '%' || $1::text || '%'", gone.String()); named != 0 {
		t.Errorf("%d messages name a key that was purged", named)
	}
	if ids, _ := rows(); len(ids) != 96 {
		t.Errorf("%d rows are left of the others, want 96", len(ids))
	}
	off := false
	if _, err := h.webhooks.Update(ctx, tester, webhook, alert.Settings{IsActive: &off}); err != nil {
		t.Fatal(err)
	}
	use(id, 2)
	seal()
	look() // nobody asks
	on := true
	if _, err := h.webhooks.Update(ctx, tester, webhook, alert.Settings{IsActive: &on}); err != nil {
		t.Fatal(err)
	}
	look()
	use(id, 1)
	seal()
	look()
	if ids, _ := rows(); len(ids) != 97 {
		t.Errorf("%d rows are told, want 97", len(ids))
	}
	wrong := []string{alert.Used}
	if _, _, err := h.webhooks.Create(ctx, tester, alert.Settings{URL: new("https://example.com/"), Format: new(alert.Slack), Events: &wrong}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a chat is told of usage: %v", err)
	}
}
