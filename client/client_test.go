package client_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client"
	"github.com/keyledger/keyledger/client/wire"
)

// service answers with one handler and counts how often it was asked.
func service(t *testing.T, handler func(n int64, w http.ResponseWriter, r *http.Request)) (*client.ClientWithResponses, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(asked.Add(1), w, r) }))
	t.Cleanup(server.Close)
	c, err := client.New(server.URL+"/", "token")
	if err != nil {
		t.Fatal(err)
	}
	return c, &asked
}

func busy(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, `{"type":"about:blank","title":"x","status":503,"detail":"busy","code":"UNAVAILABLE","requestId":"r","errors":[{"field":"f","message":"is wrong"}]}`)
}

// Guarantee: what may be repeated is, with the same Idempotency-Key each time,
// until it succeeds.
func TestRetries(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	c, asked := service(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		keys[r.Header.Get("Idempotency-Key")] = true
		if r.Header.Get("Authorization") != "Bearer token" {
			t.Error("no token was sent")
		}
		if n < 3 {
			busy(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"name":"a","dailyCostLimit":0.1}`)
	})
	made, err := c.CreateKeyWithResponse(context.Background(), nil, client.KeyCreate{Name: "a"})
	if err != nil || made.JSON201.DailyCostLimit.String() != "0.1" {
		t.Fatalf("%v %v", made, err)
	}
	if asked.Load() != 3 || len(keys) != 1 || keys[""] {
		t.Errorf("asked %d times with Idempotency-Keys %v", asked.Load(), keys)
	}
}

// Guarantee: what may not be repeated is sent once, and a problem is a typed
// error with its code, fields and wait.
func TestOnce(t *testing.T) {
	t.Parallel()
	c, asked := service(t, func(_ int64, w http.ResponseWriter, _ *http.Request) { busy(w) })
	ctx := context.Background()
	id := uuid.New()
	match := `"1"`
	for name, call := range map[string]func() error{
		"usage without a request id": func() error {
			_, err := c.RecordUsageWithResponse(ctx, client.UsageRequest{KeyID: &id, Usage: &map[string]any{}})
			return err
		},
		"a change with If-Match": func() error {
			_, err := c.UpdateKeyWithResponse(ctx, id, &client.UpdateKeyParams{IfMatch: &match}, client.KeyUpdate{})
			return err
		},
		"restore": func() error { _, err := c.RestoreKeyWithResponse(ctx, id); return err },
		"a batch": func() error {
			_, err := c.CreateKeysWithResponse(ctx, client.KeyBatchCreate{BaseName: "a", Count: 1})
			return err
		},
	} {
		before := asked.Load()
		err := call()
		e := client.AsError(err)
		if e == nil || e.Status != 503 || e.Code != "UNAVAILABLE" || e.RetryAfter.Seconds() != 1 || e.Error() != "busy\n  f is wrong" {
			t.Errorf("%s: %v", name, err)
		}
		if asked.Load() != before+1 {
			t.Errorf("%s was sent %d times", name, asked.Load()-before)
		}
	}
}

// Guarantee: usage whose every event has a request id is retried with its body.
func TestUsageRetries(t *testing.T) {
	t.Parallel()
	c, asked := service(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if !json.Valid(raw) || len(raw) < 20 {
			t.Errorf("try %d came with the body %q", n, raw)
		}
		if n == 1 {
			busy(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"results":[]}`)
	})
	id, request := uuid.New(), "r1"
	_, err := c.RecordUsageWithResponse(context.Background(), client.UsageRequest{Events: &[]client.UsageEvent{{KeyID: &id, RequestID: &request, Usage: &map[string]any{"input_tokens": 1}}}})
	if err != nil || asked.Load() != 2 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

// Guarantee: an answer that is not keyledger's is an error, whatever its status.
func TestForeign(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 404, 502} {
		c, _ := service(t, func(_ int64, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
		})
		if _, err := c.RestoreKeyWithResponse(context.Background(), uuid.New()); client.AsError(err) == nil {
			t.Errorf("status %d with HTML: %v", status, err)
		}
	}
}

// Guarantee: money and time keep every digit over the wire, and what would cost
// memory to expand is refused.
func TestWire(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{`0.000000000001`: `0.000000000001`, `"12.50"`: `12.5`, `999999999999.999999999999`: `999999999999.999999999999`, `5e-7`: `0.0000005`, `-3`: `-3`} {
		var u wire.USD
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if raw, err := json.Marshal(u); err != nil || string(raw) != want {
			t.Errorf("%s became %s %v, want %s", text, raw, err, want)
		}
	}
	for _, text := range []string{`"x"`, `1e999999999`, `1e-999999999`, `true`, `""`} {
		var u wire.USD
		if err := json.Unmarshal([]byte(text), &u); err == nil {
			t.Errorf("%s was read as %s", text, u)
		}
	}
	var at wire.Time
	if err := json.Unmarshal([]byte(`"2026-01-02T03:04:05.6789+05:30"`), &at); err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(at); err != nil || string(raw) != `"2026-01-01T21:34:05.678Z"` {
		t.Errorf("time became %s", raw)
	}
	for _, text := range []string{`5`, `""`, `"2026-01-02"`, `"x"`} {
		if err := json.Unmarshal([]byte(text), &at); err == nil {
			t.Errorf("%s was read as a time", text)
		}
	}
}
