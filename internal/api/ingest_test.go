package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// standardLogging is what LiteLLM sends of one request, as its documentation describes it.
func standardLogging(id, key string, more map[string]any) map[string]any {
	p := map[string]any{
		"id": id, "trace_id": "t-" + id, "call_type": "acompletion", "stream": true, "status": "success", "cache_hit": nil,
		"model": "claude-haiku-4-5", "model_group": "haiku", "custom_llm_provider": "anthropic", "model_id": "deployment-1", "api_base": "https://api.anthropic.com",
		"prompt_tokens": 1500, "completion_tokens": 20, "total_tokens": 1520, "response_cost": 0.123, "startTime": 1764324000.25, "endTime": 1764324002.5, "completionStartTime": 1764324000.5,
		"metadata": map[string]any{
			"user_api_key_hash": key, "user_api_key_alias": "alice", "requester_metadata": map[string]any{"keyledger_key_id": "0197c1b2-0000-7000-8000-000000000001"},
			"usage_object": map[string]any{"prompt_tokens": 1500, "completion_tokens": 20, "total_tokens": 1520, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 100,
				"prompt_tokens_details": map[string]any{"cached_tokens": 400, "cache_creation_tokens": 100, "cache_creation_token_details": map[string]any{"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}}},
		},
		"messages": []any{map[string]any{"role": "user", "content": "a secret plan"}}, "response": map[string]any{"choices": []any{}}, "request_tags": []any{"x"}, "end_user": "",
	}
	for name, value := range more {
		p[name] = value
	}
	return p
}

// Guarantee: a batch of LiteLLM's callback counts once, each payload by its id; tokens of cache
// are taken out of the prompt; one that is wrong is told of in its place and hinders no other.
func TestLiteLLM(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	key, _ := h.create(map[string]any{"name": "alice"})
	another, _ := h.create(map[string]any{"name": "bob"})
	batch := []any{
		standardLogging("chatcmpl-1", key, nil),
		standardLogging("chatcmpl-2", key, map[string]any{"metadata": map[string]any{"user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b", "user_api_key_auth_metadata": map[string]any{"keyledger_key_id": another}}}),
		standardLogging("chatcmpl-3", key, map[string]any{"status": "failure", "prompt_tokens": 0, "completion_tokens": 0, "metadata": map[string]any{"user_api_key_hash": key}}),
		standardLogging("chatcmpl-4", key, map[string]any{"cache_hit": true}),
		standardLogging("chatcmpl-5", "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b", nil),
		standardLogging("chatcmpl-6", "0197c1b2-0000-7000-8000-000000000001", nil),
		standardLogging("", key, nil),
		map[string]any{"id": 7},
		standardLogging("chatcmpl-8", key, map[string]any{"metadata": map[string]any{"user_api_key_hash": key, "usage_object": map[string]any{"prompt_tokens": -5, "completion_tokens": 1}}}),
		standardLogging("chatcmpl-1", key, nil), // twice in one batch
	}
	states := func(a answer) (all []string) {
		for i := range batch {
			all = append(all, a.text("results", i, "status"))
		}
		return all
	}
	first := h.want(h.as(h.relay, "POST", "/v1/ingest/litellm", batch), 200)
	// Which of two with one id comes first is left open.
	if got := strings.Join(states(first), " "); strings.Count(got, "recorded") != 2 || strings.Count(got, "duplicate") != 1 || !strings.Contains(got, "skipped skipped refused refused refused refused refused") {
		t.Errorf("%s: %s", got, first.raw)
	}
	again := h.want(h.as(h.relay, "POST", "/v1/ingest/litellm", batch), 200)
	if got := strings.Join(states(again), " "); got != "duplicate duplicate skipped skipped refused refused refused refused refused duplicate" {
		t.Errorf("a second time: %s", got)
	}
	got := pgtest.Scan[string](t, h.db, "SELECT string_agg(concat_ws(' ', request_id, model, account_id, via, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, ephemeral_1h_tokens, cost::text, extract(epoch FROM occurred_at)::text), '; ' ORDER BY request_id) FROM usage_events")
	if wanted := "chatcmpl-1 claude-haiku-4-5 deployment-1 litellm 1 1000 20 100 400 40 0.001295000000 1764324002.500000; chatcmpl-2 claude-haiku-4-5 deployment-1 litellm 1 1500 20 0 0 0 0.001600000000 1764324002.500000"; got != wanted {
		t.Errorf("the ledger has\n%s, want\n%s", got, wanted)
	}

	lines := ""
	for i := range 3 {
		one, err := json.Marshal(standardLogging(fmt.Sprint("line-", i), key, nil))
		if err != nil {
			t.Fatal(err)
		}
		lines += string(one) + "\n"
	}
	a := h.want(h.post(h.relay, "/v1/ingest/litellm", "application/x-ndjson", "gzip", pack(t, lines)), 200)
	if n := strings.Count(a.raw, `"recorded"`); n != 3 {
		t.Errorf("three lines: %s", a.raw)
	}
	h.want(h.as(h.reader, "POST", "/v1/ingest/litellm", batch), 403)
	h.want(h.as("", "POST", "/v1/ingest/litellm", batch), 401)
	h.want(h.post(h.relay, "/v1/ingest/litellm", "application/json", "", []byte(`[{"id": "x"`)), 400)
	h.want(h.post(h.relay, "/v1/ingest/litellm", "application/json", "gzip", []byte("no gzip")), 400)
	h.want(h.post(h.relay, "/v1/ingest/litellm", "application/json", "br", []byte("[]")), 415)
	h.want(h.post(h.relay, "/v1/ingest/litellm", "application/json", "gzip", pack(t, strings.Repeat(" ", 21<<20))), 413)
	h.want(h.post(h.relay, "/v1/ingest/litellm", "application/json", "", []byte("["+strings.Repeat("{},", 1000)+"{}]")), 400)
}

// pack packs a text as gzip.
func pack(t *testing.T, text string) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := io.WriteString(w, text); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// post sends bytes as they are.
func (h *harness) post(token, path, kind, encoding string, body []byte) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url+path, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Authorization", "Bearer "+token)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
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
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &a.body) // protobuf is none
	return a
}

// text, number are attributes.
func text(name, value string) *common.KeyValue {
	return &common.KeyValue{Key: name, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

func number(name string, value int64) *common.KeyValue {
	return &common.KeyValue{Key: name, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: value}}}
}

// Guarantee: an export of traces counts once, whether it comes as protobuf, as JSON or packed;
// the key is the span's, else the resource's, else that of the service's name; an agent's span is
// not counted beside those below it; what is wrong is rejected by itself, and told of.
func TestOTLP(t *testing.T) {
	t.Parallel()
	services := map[string]uuid.UUID{}
	h := newHarness(t, options{services: services})
	key, _ := h.create(map[string]any{"name": "alice"})
	around, _ := h.create(map[string]any{"name": "of the resource"})
	mapped, _ := h.create(map[string]any{"name": "mapped"})
	services["chat"] = uuid.MustParse(mapped)
	span := func(n byte, attributes ...*common.KeyValue) *trace.Span {
		return &trace.Span{TraceId: bytes.Repeat([]byte{n}, 16), SpanId: bytes.Repeat([]byte{n}, 8), EndTimeUnixNano: 1764324002_500000000, Attributes: attributes}
	}
	model := text("gen_ai.request.model", "claude-haiku-4-5")
	of := func(id string, spans ...*trace.Span) *trace.ResourceSpans {
		attributes := []*common.KeyValue{text("service.name", "chat")}
		if id != "" {
			attributes = append(attributes, text("keyledger.key_id", id))
		}
		return &trace.ResourceSpans{Resource: &resource.Resource{Attributes: attributes}, ScopeSpans: []*trace.ScopeSpans{{Spans: spans}}}
	}
	export := &collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{
		of(around,
			span(1, model, text("gen_ai.operation.name", "chat"), text("keyledger.key_id", key), number("gen_ai.usage.input_tokens", 1500), number("gen_ai.usage.output_tokens", 20),
				number("gen_ai.usage.cache_read.input_tokens", 400), number("gen_ai.usage.cache_write.input_tokens", 100)),
			span(2, model, text("gen_ai.operation.name", "chat"), number("gen_ai.usage.prompt_tokens", 7), number("gen_ai.usage.completion_tokens", 3)),
			span(3, model, text("gen_ai.operation.name", "invoke_agent"), number("gen_ai.usage.input_tokens", 1507)),
			span(4, text("http.method", "GET")),
			span(5, model, text("keyledger.key_id", "no id"), number("gen_ai.usage.input_tokens", 1)),
			span(6, model, text("keyledger.key_id", "0197c1b2-0000-7000-8000-000000000001"), number("gen_ai.usage.input_tokens", 1)),
		),
		of("", span(7, model, number("gen_ai.usage.input_tokens", 5), number("gen_ai.usage.cache_read.input_tokens", 50))),
		{ScopeSpans: []*trace.ScopeSpans{{Spans: []*trace.Span{span(8, model, number("gen_ai.usage.input_tokens", 1))}}}},
	}}
	binary, err := proto.Marshal(export)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := protojson.Marshal(export)
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(9) { // ids are in hexadecimal in OTLP's JSON, and in base64 in protobuf's
		for _, size := range []int{16, 8} {
			id, err := json.Marshal(bytes.Repeat([]byte{n}, size))
			if err != nil {
				t.Fatal(err)
			}
			asJSON = bytes.ReplaceAll(asJSON, id, []byte(`"`+strings.Repeat(fmt.Sprintf("%02X", n), size)+`"`))
		}
	}
	for i, sent := range []struct {
		kind, encoding string
		body           []byte
	}{{"application/x-protobuf", "", binary}, {"application/x-protobuf", "gzip", pack(t, string(binary))}, {"application/json", "", asJSON}, {"application/json; charset=utf-8", "gzip", pack(t, string(asJSON))}} {
		a := h.want(h.post(h.relay, "/otlp/v1/traces", sent.kind, sent.encoding, sent.body), 200)
		kind, _, _ := strings.Cut(sent.kind, ";")
		var partial collector.ExportTraceServiceResponse
		if kind == "application/json" {
			err = protojson.Unmarshal([]byte(a.raw), &partial)
		} else {
			err = proto.Unmarshal([]byte(a.raw), &partial)
		}
		if err != nil || a.header.Get("Content-Type") != kind || partial.GetPartialSuccess().GetRejectedSpans() != 3 || !strings.Contains(partial.GetPartialSuccess().GetErrorMessage(), "keyledger.key_id is not an id") {
			t.Errorf("%d: %v, %s, %v", i, err, a.header.Get("Content-Type"), &partial)
		}
		got := pgtest.Scan[string](t, h.db, `SELECT string_agg(concat_ws(' ', right(request_id, 16), k.name, via, estimated, requests, input_tokens, output_tokens, cache_create_tokens, cache_read_tokens, u.cost::text), '; ' ORDER BY request_id)
			FROM usage_events AS u JOIN api_keys AS k USING (ledger_id)`)
		if want := "0101010101010101 alice otlp f 1 1000 20 100 400 0.001265000000; 0202020202020202 of the resource otlp f 1 7 3 0 0 0.000022000000; 0707070707070707 mapped otlp f 1 5 0 0 50 0.000010000000"; got != want {
			t.Fatalf("%d: the ledger has\n%s, want\n%s", i, got, want)
		}
	}
	h.want(h.as(h.reader, "POST", "/otlp/v1/traces", map[string]any{}), 403)
	h.want(h.as("", "POST", "/otlp/v1/traces", map[string]any{}), 401)
	h.want(h.post(h.relay, "/otlp/v1/traces", "text/plain", "", nil), 415)
	h.want(h.post(h.relay, "/otlp/v1/traces", "application/x-protobuf", "", []byte("no protobuf")), 400)
	h.want(h.post(h.relay, "/otlp/v1/traces", "application/json", "", []byte(`{"resourceSpans": 1}`)), 400)
	if a := h.want(h.post(h.relay, "/otlp/v1/traces", "application/json", "", []byte(`{"unknown": 1}`)), 200); strings.TrimSpace(a.raw) != "{}" {
		t.Errorf("an export of nothing: %s", a.raw)
	}
}
