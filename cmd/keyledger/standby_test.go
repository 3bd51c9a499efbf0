package main_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Guarantee: lists and reports are read from the standby as long as it follows, and say as of when;
// one that is too far behind, or gone, is asked no more, and the primary is, until it has caught up:
// no answer is ever older than it may be, and none fails for the standby's sake.
func TestReportsFromStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.sql(t, p.primary, "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()")
	url := p.primary.URL("keyledger")
	if r := execute(t, []string{"DATABASE_URL=" + url}, "migrate", "up"); r.code != 0 {
		t.Fatal(r)
	}
	_, env := serve(t, url, "KEYLEDGER_REPORTS_URL="+p.standby.URL("keyledger"), "KEYLEDGER_REPORTS_MAX_LAG=2s", "KEYLEDGER_LOG_LEVEL=info")
	base := env[0][len("KEYLEDGER_URL="):]
	_, key := post(t, base, "/v1/keys", map[string]any{"name": "k"})
	record := func() {
		t.Helper()
		if status, answer := post(t, base, "/v1/usage", map[string]any{"keyId": key["id"], "accountId": "a", "model": "m", "usage": map[string]any{"input_tokens": 1}}); status != http.StatusOK {
			t.Fatal(status, answer)
		}
	}
	reported := func() (requests float64, asOf time.Time) {
		t.Helper()
		answer := read(t, base, "/v1/reports/usage?granularity=total")
		asOf, err := time.Parse(time.RFC3339, answer["asOf"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return answer["totals"].(map[string]any)["requests"].(float64), asOf
	}
	state := func() string {
		_, answer, _ := send(http.MethodGet, base+"/readyz", nil)
		text, _ := answer["checks"].(map[string]any)["reports"].(string)
		return text
	}
	record()
	eventually(t, "the standby is used", func() bool { return state() == "ok" })
	eventually(t, "what was recorded is reported", func() bool { n, _ := reported(); return n == 1 })
	for _, path := range []string{"/v1/reports/usage?format=csv", "/v1/reports/focus"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bootstrap)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if asOf, err := time.Parse(time.RFC3339, resp.Header.Get("X-As-Of")); err != nil || time.Since(asOf) > 2500*time.Millisecond {
			t.Errorf("%s: %d as of %q", path, resp.StatusCode, resp.Header.Get("X-As-Of"))
		}
	}
	if _, asOf := reported(); time.Since(asOf) > 2*time.Second {
		t.Errorf("as of %v", asOf)
	}
	lists := map[string]string{"/v1/keys": "the key", "/v1/accounts/usage": "the account", "/v1/events": "the event", "/v1/audit": "its audit row"}
	for path, what := range lists {
		eventually(t, what+" is listed", func() bool {
			answer := read(t, base, path)
			asOf, err := time.Parse(time.RFC3339, answer["asOf"].(string))
			if err != nil || time.Since(asOf) > 2500*time.Millisecond {
				t.Errorf("%s as of %v", path, answer["asOf"])
			}
			return len(answer["data"].([]any)) > 0
		})
	}
	if _, answer, _ := send(http.MethodGet, base+"/readyz", nil); answer["standbyLagSeconds"].(float64) <= 0 || answer["standbyLagSeconds"].(float64) > 2 {
		t.Errorf("the lag is said to be %v", answer["standbyLagSeconds"])
	}

	p.sql(t, p.standby, "SELECT pg_wal_replay_pause()")
	record()
	if n := len(read(t, base, "/v1/events")["data"].([]any)); n != 1 {
		t.Errorf("%d events are listed by a standby that has one: it was not asked", n)
	}
	stale := 0
	for range 40 { // never older than two seconds, whoever answers
		if n, asOf := reported(); n == 1 && time.Since(asOf) > 2500*time.Millisecond || n == 0 {
			t.Fatalf("%v requests as of %v", n, time.Since(asOf))
		} else if n == 1 {
			stale++
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n, _ := reported(); n != 2 || !strings.Contains(state(), "read from the primary") {
		t.Errorf("%v requests, %q", n, state())
	}
	if stale == 0 { // what a paused standby does not have yet, the primary would have told
		t.Error("no report was read from the standby")
	}
	p.sql(t, p.standby, "SELECT pg_wal_replay_resume()")
	eventually(t, "the standby is used again", func() bool { return state() == "ok" })
	if n, _ := reported(); n != 2 {
		t.Errorf("%v requests", n)
	}

	if err := p.standby.Stop(); err != nil {
		t.Fatal(err)
	}
	record()
	for path := range lists { // before anybody has noticed, and after
		if answer := read(t, base, path); len(answer["data"].([]any)) == 0 {
			t.Errorf("%s without the standby: %v", path, answer)
		}
	}
	if n, _ := reported(); n != 3 {
		t.Errorf("%v requests are reported when the standby is just gone", n)
	}
	eventually(t, "the primary is asked", func() bool { return strings.Contains(state(), "read from the primary") })
	if n, _ := reported(); n != 3 {
		t.Errorf("%v requests without the standby", n)
	}

	// A service starts without its standby, and tells once that it is away.
	p2, env := serve(t, url, "KEYLEDGER_REPORTS_URL="+p.standby.URL("keyledger"), "KEYLEDGER_LOG_LEVEL=info")
	base = env[0][len("KEYLEDGER_URL="):]
	if n, _ := reported(); n != 3 {
		t.Errorf("%v requests from a service that never had a standby", n)
	}
	time.Sleep(2 * time.Second)
	if n := strings.Count(p2.out.String(), "measure the standby"); n != 1 {
		t.Errorf("it tells %d times that the standby is away:\n%s", n, p2.out)
	}
}
