package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// post sends JSON as the bootstrap admin and reads the answer.
func post(t *testing.T, base, path string, body any) (status int, answer map[string]any) {
	t.Helper()
	status, answer, err := attempt(base+path, body)
	if err != nil {
		t.Error(err)
	}
	return status, answer
}

// read is the answer to a GET as admin.
func read(t *testing.T, base, path string) map[string]any {
	t.Helper()
	status, answer, err := send(http.MethodGet, base+path, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d, %v, %v", path, status, answer, err)
	}
	return answer
}

// attempt sends a request as admin to a service that may not be there; status 0: no answer came.
func attempt(address string, body any) (status int, answer map[string]any, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	return send(http.MethodPost, address, bytes.NewReader(raw))
}

func send(method, address string, body io.Reader) (status int, answer map[string]any, err error) {
	req, err := http.NewRequest(method, address, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bootstrap)
	resp, err := hammer.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	_ = json.Unmarshal(read, &answer) // a 204 has none
	return resp.StatusCode, answer, nil
}

// hammer keeps its connections: hundreds of clients at once.
var hammer = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 400}, Timeout: time.Minute}

// Guarantee: through two services on one database and 200 clients at once on one
// key, each kind of limit lets through exactly what it allows: never one more,
// never one less. Twenty times over. (The original let all 30 of 30 past $0.01.)
func TestLimitsAreExact(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	_, first := serve(t, url, "KEYLEDGER_LOG_LEVEL=info")
	_, second := serve(t, url, "KEYLEDGER_LOG_LEVEL=info")
	bases := []string{first[0][len("KEYLEDGER_URL="):], second[0][len("KEYLEDGER_URL="):]}
	const rounds, clients, fits = 20, 200, 37
	for name, fields := range map[string]map[string]any{
		"concurrency": {"concurrencyLimit": fits},
		"requests":    {"rateLimitWindow": 60, "rateLimitRequests": fits},
		"tokens":      {"rateLimitWindow": 60, "tokenLimit": fits * 100},
		"daily":       {"dailyCostLimit": "0.000000000037"}, "weekly": {"weeklyCostLimit": "0.000000000037"},
		"monthly": {"monthlyCostLimit": "0.000000000037"}, "total": {"totalCostLimit": "0.000000000037"},
	} {
		for round := range rounds {
			fields["name"] = fmt.Sprint(name, round)
			_, key := post(t, bases[0], "/v1/keys", fields)
			body := map[string]any{"apiKey": key["apiKey"], "leaseSeconds": 3600, "estimate": map[string]any{"tokens": 100, "costUsd": "0.000000000001"}}
			var passed atomic.Int64
			var group sync.WaitGroup
			for c := range clients {
				group.Go(func() {
					if _, answer := post(t, bases[c%2], "/v1/admissions", body); answer["allowed"] == true {
						passed.Add(1)
					}
				})
			}
			group.Wait()
			if passed.Load() != fits {
				t.Errorf("%s, round %d: %d of %d passed, want %d", name, round, passed.Load(), clients, fits)
			}
		}
	}
}

// Guarantee: admissions, renewals and settlements of many writers over few keys, by single
// events and by batches that share keys and accounts, never deadlock, and what
// covering estimates reserved is never overspent. make soak runs it for a minute.
func TestNoDeadlocks(t *testing.T) {
	t.Parallel()
	length := 5 * time.Second
	if text := os.Getenv("KEYLEDGER_TEST_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	url := pgtest.URL(t)
	_, first := serve(t, url, "KEYLEDGER_LOG_LEVEL=info")
	_, second := serve(t, url, "KEYLEDGER_LOG_LEVEL=info")
	bases := []string{first[0][len("KEYLEDGER_URL="):], second[0][len("KEYLEDGER_URL="):]}
	const keys, writers = 50, 16
	secrets := make([]any, keys)
	for i := range secrets {
		_, key := post(t, bases[0], "/v1/keys", map[string]any{"name": fmt.Sprint(i), "rateLimitWindow": 1, "rateLimitRequests": 100000, "concurrencyLimit": 100, "totalCostLimit": "0.05"})
		secrets[i] = key["apiKey"]
	}
	var settled atomic.Int64
	var group, renewals sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for n, end := 0, time.Now().Add(length); time.Now().Before(end); n++ {
				var events []any
				for i := range 6 {
					_, a := post(t, bases[w%2], "/v1/admissions", map[string]any{"apiKey": secrets[(w*7+n*3+i*11)%keys], "estimate": map[string]any{"costUsd": "0.0001"}})
					if a["allowed"] == true {
						renewals.Go(func() { // while it is being settled
							post(t, bases[(w+1)%2], fmt.Sprintf("/v1/admissions/%v/renew", a["admissionId"]), map[string]any{})
						})
						events = append(events, map[string]any{"admissionId": a["admissionId"], "accountId": fmt.Sprint("acct", i%3), "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 40}})
					}
				}
				if len(events) == 0 {
					continue
				}
				if status, answer := post(t, bases[n%2], "/v1/usage", map[string]any{"events": events}); status != http.StatusOK {
					t.Errorf("usage: %d %v", status, answer)
				}
				settled.Add(int64(len(events)))
			}
		})
	}
	group.Wait()
	renewals.Wait()
	d := pgtest.Open(t, url)
	if n := pgtest.Scan[int](t, d, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	if n := pgtest.Scan[int64](t, d, "SELECT count(*) FROM usage_events"); n != settled.Load() || n == 0 {
		t.Errorf("%d events in the ledger, %d were acknowledged", n, settled.Load())
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM key_counters WHERE cost > 0.05"); n != 0 {
		t.Errorf("%d keys are over their limit", n)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM admissions WHERE is_open"); n != 0 {
		t.Errorf("%d admissions are still open", n)
	}
	t.Logf("%d settlements in %s, no deadlock", settled.Load(), length)
}

// relayEnv makes this test program a relay instead: it takes the slots of the key
// that it names, tells so, and waits for its end.
const relayEnv = "KEYLEDGER_TEST_RELAY"

func relay(args []string) {
	base, key := args[0], args[1]
	var first string // of its leases to end
	for range 2 {
		body := fmt.Sprintf(`{"apiKey": %q, "leaseSeconds": 5}`, key)
		req, _ := http.NewRequest(http.MethodPost, base+"/v1/admissions", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+bootstrap)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			os.Exit(1)
		}
		var answer struct{ LeaseExpiresAt string }
		_ = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		if first == "" {
			first = answer.LeaseExpiresAt
		}
	}
	fmt.Println(first)
	time.Sleep(time.Hour)
}

// Guarantee: the slots of a relay that is killed are free when its leases' time is
// over: no earlier, and no later than the next admission.
func TestDeadRelay(t *testing.T) {
	t.Parallel()
	_, env := serve(t, pgtest.URL(t))
	base := env[0][len("KEYLEDGER_URL="):]
	_, key := post(t, base, "/v1/keys", map[string]any{"name": "a", "concurrencyLimit": 2})
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", relayEnv, base, key["apiKey"]))
	out, err := victim.StdoutPipe()
	if err != nil || victim.Start() != nil {
		t.Fatal("the relay does not start: ", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || victim.Process.Kill() != nil {
		t.Fatal("the relay took no slots: ", err)
	}
	_ = victim.Wait()
	end, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"apiKey": key["apiKey"], "leaseSeconds": 5, "dryRun": true}
	var asked, refused, answered time.Time // the last question asked, the latest moment of a refusal, the first of a yes
	for deadline := time.Now().Add(30 * time.Second); answered.IsZero() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		asked = time.Now()
		if _, a := post(t, base, "/v1/admissions", body); a["allowed"] == true {
			answered = time.Now()
		} else {
			refused = asked
		}
	}
	// A refusal asked for after the end is late, a yes answered before it is early.
	// The millisecond is that of the answer's time.
	if answered.Before(end.Add(-time.Millisecond)) || refused.After(end.Add(time.Millisecond)) {
		t.Errorf("the lease ends at %s: still refused at %s, free at %s", end, refused, answered)
	}
	delete(body, "dryRun")
	if _, a := post(t, base, "/v1/admissions", body); a["allowed"] != true {
		t.Errorf("the slot is free, and yet: %v", a)
	}
}
