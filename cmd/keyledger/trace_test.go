package main_test

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// gathered are the spans that a collector has been sent.
type gathered struct {
	*httptest.Server

	mu  sync.Mutex
	all []*spans.Span
	raw strings.Builder
}

func newCollector(t *testing.T) *gathered {
	t.Helper()
	g := &gathered{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Error(err)
				return
			}
		}
		raw, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(raw, &request) != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %d bytes, %v", r.URL.Path, len(raw), err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.raw.Write(raw)
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				g.all = append(g.all, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// find waits for a span, for as long as the exporter gathers.
func (g *gathered) find(t *testing.T, what string, is func(*spans.Span) bool) *spans.Span {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		g.mu.Lock()
		for _, s := range g.all {
			if is(s) {
				g.mu.Unlock()
				return s
			}
		}
		g.mu.Unlock()
	}
	var names []string
	for _, s := range g.all {
		names = append(names, s.GetName())
	}
	t.Fatalf("no span %s among %v", what, names)
	return nil
}

func about(s *spans.Span, name string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == name {
			if text := a.GetValue().GetStringValue(); text != "" {
				return text
			}
			return a.GetValue().String()
		}
	}
	return ""
}

// Guarantee: with a collector, a request has a span below its caller's; the batch that it was part
// of has one that is linked to it, and the statements of the batch have theirs below that. A request
// through the relay has one with OpenTelemetry's names for models and usage. No span holds a secret.
func TestTraces(t *testing.T) {
	t.Parallel()
	g := newCollector(t)
	relayEnv, relayAddr := mockUpstreams(t)
	_, env := serve(t, pgtest.URL(t), append(relayEnv, "KEYLEDGER_OTLP_ENDPOINT="+g.URL+"/")...)
	base := strings.TrimPrefix(env[0], "KEYLEDGER_URL=")
	_, made := post(t, base, "/v1/keys", map[string]any{"name": "a"})
	secret := made["apiKey"].(string)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	send := func(address, token, body string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Traceparent", "00-"+trace+"-"+parent+"-01")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v %v", address, resp, err)
		}
		_ = resp.Body.Close()
	}
	send(base+"/v1/admissions", bootstrap, `{"apiKey":"`+secret+`"}`)
	send("http://"+relayAddr+"/v1/chat/completions", secret, `{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`)

	below := func(s *spans.Span) bool {
		return hex.EncodeToString(s.GetTraceId()) == trace && hex.EncodeToString(s.GetParentSpanId()) == parent
	}
	request := g.find(t, "of the request", func(s *spans.Span) bool { return s.GetName() == "POST /v1/admissions" && below(s) })
	if about(request, "http.route") != "/v1/admissions" || !strings.Contains(about(request, "http.response.status_code"), "200") {
		t.Errorf("%v", request)
	}
	batch := g.find(t, "of the batch", func(s *spans.Span) bool {
		return s.GetName() == "admissions" && len(s.GetLinks()) > 0 && string(s.GetLinks()[0].GetSpanId()) == string(request.GetSpanId())
	})
	g.find(t, "of a statement of the batch", func(s *spans.Span) bool {
		return string(s.GetTraceId()) == string(batch.GetTraceId()) && strings.Contains(s.GetName(), "Admit")
	})
	relayed := g.find(t, "of the relay", func(s *spans.Span) bool { return about(s, "gen_ai.request.model") == "gpt-4o" && below(s) })
	for name, want := range map[string]string{"gen_ai.provider.name": "openai", "gen_ai.usage.input_tokens": "int_value", "gen_ai.usage.output_tokens": "int_value", "gen_ai.response.id": ""} {
		if got := about(relayed, name); got == "" || !strings.Contains(got, want) {
			t.Errorf("%s is %q", name, got)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, text := range []string{secret, bootstrap, "hi\"}"} {
		if strings.Contains(g.raw.String(), text) {
			t.Errorf("spans hold %q", text)
		}
	}
}
