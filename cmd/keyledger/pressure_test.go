package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// get reads a path without a token.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := hammer.Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Guarantee: a lock that somebody holds in psql, and connections that are all taken,
// show in /readyz and in the metrics, and neither loses nor doubles usage: what was
// told is recorded is there once, what was refused is recorded once when it is sent
// again. Other keys' admissions, usage, checks and renewals go on, also with the held
// key's in the same batches.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	metrics := freePort(t)
	_, env := serve(t, dbURL, "KEYLEDGER_MAX_CONNS=2", "KEYLEDGER_METRICS_ADDR="+metrics)
	base := env[0][len("KEYLEDGER_URL="):]
	d := pgtest.Open(t, dbURL)
	_, held := post(t, base, "/v1/keys", map[string]any{"name": "held"})
	_, free := post(t, base, "/v1/keys", map[string]any{"name": "free"})
	event := func(key any, request string) map[string]any {
		return map[string]any{"keyId": key, "requestId": request, "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 10}}
	}
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", held["id"])
	var all sync.WaitGroup
	var refused sync.Map
	for i := range 40 {
		all.Go(func() {
			request := fmt.Sprintf("r%d", i)
			switch status, answer := post(t, base, "/v1/usage", event(held["id"], request)); status {
			case 200:
			case 503:
				refused.Store(request, true)
			default:
				t.Errorf("%s: %d %v", request, status, answer)
			}
		})
	}
	eventually(t, "/readyz tells of the lock", func() bool {
		status, body := get(t, base+"/readyz")
		return status == 200 && strings.Contains(body, `"degraded"`) && strings.Contains(body, `"usage":"slow: the oldest has waited`)
	})
	if _, text := get(t, "http://"+metrics+"/metrics"); !strings.Contains(text, `keyledger_queue_oldest_seconds{queue="usage"} `) || strings.Contains(text, `keyledger_queue_oldest_seconds{queue="usage"} 0`+"\n") {
		t.Error("the metrics do not tell of the lock")
	}
	_, lease := post(t, base, "/v1/admissions", map[string]any{"apiKey": free["apiKey"], "leaseSeconds": 60})
	if lease["allowed"] != true {
		t.Errorf("another key's admission: %v", lease)
	}
	start := time.Now()
	var others sync.WaitGroup
	for i := range 20 { // many at once, beside units that have both keys and cannot go on
		others.Go(func() {
			for n := range 5 {
				if status, answer := post(t, base, "/v1/usage", event(free["id"], fmt.Sprintf("f%d-%d", i, n))); status != 200 {
					t.Errorf("another key's usage: %d %v", status, answer)
				}
			}
		})
		all.Go(func() {
			post(t, base, "/v1/usage", map[string]any{"events": []any{event(free["id"], fmt.Sprintf("b%d", i)), event(held["id"], fmt.Sprintf("r%d", i))}})
		})
	}
	others.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("100 events of another key took %s", took)
	}
	release()
	all.Wait()
	refused.Range(func(request, _ any) bool {
		if status, answer := post(t, base, "/v1/usage", event(held["id"], request.(string))); status != 200 {
			t.Errorf("sent again: %d %v", status, answer)
		}
		return true
	})
	if got := pgtest.Scan[string](t, d, "SELECT count(*) || ' ' || count(DISTINCT e.request_id) || ' ' || min(t.requests) FROM usage_events AS e JOIN api_keys AS k ON k.ledger_id = e.ledger_id JOIN key_counters AS t ON t.key_id = k.id WHERE k.id = $1", held["id"]); got != "40 40 40" {
		t.Errorf("the ledger and its sum: %s", got)
	}

	// Renewals that wait for one key, more than there are connections, and admissions.
	_, other := post(t, base, "/v1/admissions", map[string]any{"apiKey": held["apiKey"], "leaseSeconds": 60})
	release = pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", held["id"])
	for range 20 {
		all.Go(func() { post(t, base, "/v1/admissions/"+other["admissionId"].(string)+"/renew", map[string]any{}) })
		all.Go(func() { post(t, base, "/v1/admissions", map[string]any{"apiKey": held["apiKey"]}) })
	}
	start = time.Now()
	for range 10 {
		if status, answer := post(t, base, "/v1/admissions/"+lease["admissionId"].(string)+"/renew", map[string]any{}); status != 200 {
			t.Errorf("another key's renewal: %d %v", status, answer)
		}
		if _, answer := post(t, base, "/v1/admissions", map[string]any{"apiKey": free["apiKey"]}); answer["allowed"] != true {
			t.Errorf("another key's admission beside those that wait: %v", answer)
		}
		if status, body := get(t, base+"/readyz"); status != 200 {
			t.Errorf("/readyz: %d %s", status, body)
		}
	}
	_, fresh := post(t, base, "/v1/keys", map[string]any{"name": "fresh"})
	if _, answer := post(t, base, "/v1/keys/verify", map[string]any{"apiKey": fresh["apiKey"]}); answer["valid"] != true {
		t.Errorf("a key that is not remembered: %v", answer)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("all that took %s", took)
	}
	release()
	all.Wait()

	// Changes that wait take all connections of their pool, and nobody else's.
	release = pgtest.Hold(t, dbURL, "SELECT FROM api_keys WHERE id = $1 FOR UPDATE", held["id"])
	for range 3 {
		all.Go(func() { post(t, base, "/v1/keys/"+held["id"].(string)+"/rotate", map[string]any{}) })
	}
	eventually(t, "/readyz tells of the connections", func() bool {
		_, body := get(t, base+"/readyz")
		return strings.Contains(body, `"connections":"all 3 for changes of keys are in use`)
	})
	if status, answer := post(t, base, "/v1/usage", event(free["id"], "while")); status != 200 {
		t.Errorf("usage while all connections are taken: %d %v", status, answer)
	}
	if _, answer := post(t, base, "/v1/keys/verify", map[string]any{"apiKey": free["apiKey"]}); answer["valid"] != true {
		t.Errorf("verify while all connections are taken: %v", answer)
	}
	release()
	all.Wait()
	eventually(t, "/readyz is ready again", func() bool { _, body := get(t, base+"/readyz"); return strings.Contains(body, `"ready"`) })
}

// Guarantee: past what it may do at once the service refuses at once, with 503 and
// Retry-After, and nothing of what it refused is done; what it let in is done, and a
// second after the load all is as before.
func TestOverload(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	const fits, clients = 20, 300
	_, env := serve(t, dbURL, fmt.Sprintf("KEYLEDGER_MAX_IN_FLIGHT=%d", fits))
	base := env[0][len("KEYLEDGER_URL="):]
	_, key := post(t, base, "/v1/keys", map[string]any{"name": "k"})
	release := pgtest.Hold(t, dbURL, "SELECT FROM key_counters WHERE key_id = $1 FOR UPDATE", key["id"])
	var recorded, refused atomic.Int64
	var slowest atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			start := time.Now()
			body := fmt.Sprintf(`{"keyId":%q,"requestId":"r%d","model":"gpt-4o","usage":{"prompt_tokens":1}}`, key["id"], i)
			req, _ := http.NewRequest(http.MethodPost, base+"/v1/usage", strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+bootstrap)
			resp, err := hammer.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			text, _ := io.ReadAll(resp.Body)
			switch {
			case resp.StatusCode == http.StatusOK:
				recorded.Add(1)
			case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" && strings.Contains(string(text), `"UNAVAILABLE"`):
				refused.Add(1)
				slowest.Store(max(slowest.Load(), int64(time.Since(start))))
			default:
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		})
	}
	eventually(t, "all that do not fit are refused", func() bool { return refused.Load() == clients-fits })
	if took := time.Duration(slowest.Load()); took > 3*time.Second {
		t.Errorf("a refusal took %s", took)
	}
	release()
	all.Wait()
	if recorded.Load() != fits {
		t.Errorf("%d were recorded, want the %d that fit", recorded.Load(), fits)
	}
	start := time.Now()
	if status, _ := post(t, base, "/v1/usage", map[string]any{"keyId": key["id"], "requestId": "after", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 1}}); status != 200 || time.Since(start) > time.Second {
		t.Errorf("after the load: %d in %s", status, time.Since(start))
	}
	d := pgtest.Open(t, dbURL)
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_events"); n != fits+1 {
		t.Errorf("the ledger holds %d events, want %d", n, fits+1)
	}
}

// Guarantee: a key that is disabled on one replica is refused on another at once,
// whether that one hears of changes or its connection for them is cut over and over.
func TestRevocationHoldsEverywhere(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	_, one := serve(t, dbURL, "KEYLEDGER_LOG_LEVEL=info")
	_, two := serve(t, dbURL, "KEYLEDGER_LOG_LEVEL=info")
	base, other := one[0][len("KEYLEDGER_URL="):], two[0][len("KEYLEDGER_URL="):]
	d := pgtest.Open(t, dbURL)
	_, key := post(t, base, "/v1/keys", map[string]any{"name": "k"})
	_, token := post(t, base, "/v1/keys", map[string]any{"name": "bystander"})
	valid := func(key map[string]any) bool {
		_, answer := post(t, other, "/v1/keys/verify", map[string]any{"apiKey": key["apiKey"]})
		return answer["valid"] == true
	}
	for round := range 20 {
		if round >= 10 { // from here on nothing is heard for long
			pgtest.Exec(t, d, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger listener' AND datname = current_database()")
		}
		set := func(active bool) {
			status, _ := sendAs(t, http.MethodPatch, base+"/v1/keys/"+key["id"].(string), fmt.Sprintf(`{"isActive":%v}`, active))
			if status != 200 {
				t.Fatalf("PATCH: %d", status)
			}
		}
		set(true)
		eventually(t, "valid", func() bool { return valid(key) })
		set(false)
		changed := time.Now()
		for valid(key) {
			if time.Since(changed) > time.Second {
				t.Fatalf("round %d: still valid after a second", round)
			}
		}
		if !valid(token) {
			t.Errorf("round %d: another key is not valid", round)
		}
	}
}

// sendAs sends a body as the bootstrap admin.
func sendAs(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bootstrap)
	resp, err := hammer.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// Guarantee: the bench ends well with this binary, holding every acknowledged event
// against the ledger; and a binary that acknowledges usage before it is committed does
// not pass.
func TestBenchIsHonest(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "--only", "R2", "--keys", "100", "--ledger", "1000", "--round", "2s"}
	if r := execute(t, nil, args...); r.code != 0 || !strings.Contains(r.out, "0 twice, 0 sums that differ") {
		t.Errorf("the bench ended with %d:\n%s%s", r.code, r.out, r.errors)
	}
	early := t.TempDir() + "/early"
	if out, err := exec.Command("go", "build", "-tags", "keyledger_ack_early", "-o", early, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	out, err := exec.Command(early, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "acknowledged events are not in the ledger") {
		t.Errorf("usage was acknowledged before the commit, and the bench says: %v\n%s", err, out)
	}
}

// Guarantee: an address that tries wrong tokens is refused, and a token that is in use from the
// same address is not.
func TestWrongTokens(t *testing.T) {
	t.Parallel()
	_, env := serve(t, pgtest.URL(t), "KEYLEDGER_MAX_WRONG_TOKENS_PER_ADDRESS=3")
	base := strings.TrimPrefix(env[0], "KEYLEDGER_URL=")
	ask := func(token string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, base+"/v1/tags", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	eventually(t, "the token is remembered", func() bool { return ask(bootstrap) == http.StatusOK })
	var last int
	for range 5 {
		last = ask("a wrong one")
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the fifth wrong token: %d", last)
	}
	if status := ask(bootstrap); status != http.StatusOK {
		t.Errorf("a token that is in use: %d", status)
	}
}
