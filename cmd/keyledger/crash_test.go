package main_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: with the service and its PostgreSQL killed by kill -9 again and
// again under load, every usage event that a client saw acknowledged is in the
// ledger, every one that it repeated counts once, and the rollups equal the
// ledger to the last decimal.
func TestCrash(t *testing.T) {
	t.Parallel()
	dir := openDir(t, nil)
	data := filepath.Join(dir, "data")
	args := []string{"dev", "--addr", freePort(t), "--data-dir", data}
	p := launch(t, nil, []string{"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap}, args...)
	url := p.wait(`KEYLEDGER_URL=(\S+)`)
	dbURL := p.wait(`psql '([^']+)'`)
	p.wait("msg=serving")
	r := execute(t, []string{"KEYLEDGER_URL=" + url, "KEYLEDGER_TOKEN=" + bootstrap}, "keys", "create", "--name", "a", "--json")
	id := strings.Split(strings.Split(r.out, `"id": "`)[1], `"`)[0]

	var acknowledged, sent atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for sender := range 6 {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				sent.Add(1)
				body := fmt.Sprintf(`{"keyId":"%s","requestId":"s%d-%d","accountId":"acct","model":"gpt-4o","usage":{"prompt_tokens":%d}}`, id, sender, n, n%7+1)
				for !send(url, body) { // until it is acknowledged, as a relay would
					time.Sleep(20 * time.Millisecond)
				}
				acknowledged.Add(1)
			}
		})
	}
	for round := range 4 {
		time.Sleep(700 * time.Millisecond)
		if round%2 == 0 {
			p.stop(syscall.SIGKILL)
		} else {
			_ = syscall.Kill(postmaster(t, dir), syscall.SIGKILL)
			<-p.end
		}
		p = launch(t, nil, nil, args...)
		p.wait("msg=serving")
	}
	time.Sleep(300 * time.Millisecond)
	cancel()
	group.Wait()
	d := pgtest.Open(t, dbURL)
	if n := pgtest.Scan[int64](t, d, "SELECT count(*) FROM usage_events"); n != acknowledged.Load() || n != sent.Load() || n < 20 {
		t.Errorf("the ledger holds %d events, clients sent %d and saw %d acknowledged", n, sent.Load(), acknowledged.Load())
	}
	if n := pgtest.Scan[int](t, d, `SELECT count(DISTINCT c) FROM (VALUES
		((SELECT (sum(requests), sum(input_tokens), sum(cost)) FROM usage_events)), ((SELECT (sum(requests), sum(input_tokens), sum(cost)) FROM key_days)),
		((SELECT (sum(requests), sum(input_tokens), sum(cost)) FROM key_counters)), ((SELECT (sum(requests), sum(input_tokens), sum(cost)) FROM account_days))) AS v (c)`); n != 1 {
		t.Error("ledger and rollups disagree")
	}
}

// send posts one event and tells whether it was acknowledged.
func send(url, body string) bool {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/usage", strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bootstrap)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
