package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: a database that is dumped while it is used, and restored into another cluster,
// where transactions are numbered from elsewhere, serves on there: what had been recorded
// counts once, limits hold, all sums agree and the roll-up goes on.
func TestMoved(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	_, env := serve(t, url, "KEYLEDGER_ROLLUP_INTERVAL=1s")
	base := env[0][len("KEYLEDGER_URL="):]
	_, made := post(t, base, "/v1/keys", map[string]any{"name": "a", "totalCostLimit": "1"})
	event := func(name string) map[string]any {
		return map[string]any{"keyId": made["id"], "requestId": name, "accountId": "a", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 4000}} // $0.01
	}
	post(t, base, "/v1/usage", event("first"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				post(t, base, "/v1/usage", event(fmt.Sprint(client, "-", n)))
			}
		})
	}
	d := pgtest.Open(t, url)
	for end := time.Now().Add(20 * time.Second); pgtest.Scan[int64](t, d, "SELECT coalesce(sum(requests), 0) FROM model_usage") < 150; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was rolled up")
		}
	}
	dump, err := exec.Command(pgtest.Program(t, url, "pg_dump"), "--no-owner", "--no-privileges", "-d", url).Output()
	cancel()
	clients.Wait()
	if err != nil {
		t.Fatal(err)
	}
	there, err := pgdev.Start(context.Background(), pgdev.Options{Dir: openDir(t, nil), Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Stop() })
	if err := there.EnsureDatabase(context.Background(), "moved"); err != nil {
		t.Fatal(err)
	}
	psql := exec.Command("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", there.URL("moved"))
	psql.Stdin = bytes.NewReader(dump)
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := pgtest.Open(t, there.URL("moved"))
	rows := pgtest.Scan[int64](t, c, "SELECT count(*) FROM usage_events")
	_, env = serve(t, there.URL("moved"), "KEYLEDGER_ROLLUP_INTERVAL=1s")
	base = env[0][len("KEYLEDGER_URL="):]
	if r := execute(t, env, "reports", "reconcile"); r.code != 0 {
		t.Errorf("reconcile: %d\n%s%s", r.code, r.out, r.errors)
	}
	if status, answer := post(t, base, "/v1/usage", event("first")); status != http.StatusOK || !strings.Contains(fmt.Sprint(answer), "status:duplicate") {
		t.Errorf("what was recorded before the dump, again: %d %v", status, answer)
	}
	if status, answer := post(t, base, "/v1/usage", event("after")); status != http.StatusOK {
		t.Errorf("after it: %d %v", status, answer)
	}
	if _, answer := post(t, base, "/v1/admissions", map[string]any{"apiKey": made["apiKey"], "model": "gpt-4o"}); answer["code"] != "TOTAL_COST_EXCEEDED" {
		t.Errorf("a key that has spent its limit: %v", answer)
	}
	for end := time.Now().Add(20 * time.Second); pgtest.Scan[int64](t, c, "SELECT sum(requests) FROM model_usage") != rows+1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the roll-up did not go on: %d of %d", pgtest.Scan[int64](t, c, "SELECT sum(requests) FROM model_usage"), rows+1)
		}
	}
	if r := execute(t, env, "reports", "reconcile"); r.code != 0 || strings.Contains(r.out, "usage_daily") {
		t.Errorf("reconcile in the end: %d\n%s%s", r.code, r.out, r.errors)
	}
}
