package main_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // docs/integrations/envoy.yaml uses them
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// proxied is a service that speaks Envoy's protocols, and a client of them.
type proxied struct {
	*testing.T

	base  string
	conn  *grpc.ClientConn
	auth  authv3.AuthorizationClient
	limit ratelimitv3.RateLimitServiceClient
}

func newProxied(t *testing.T) *proxied {
	t.Helper()
	addr := freePort(t)
	_, env := serve(t, pgtest.URL(t), "KEYLEDGER_GRPC_ADDR="+addr, "KEYLEDGER_LOG_LEVEL=info")
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &proxied{t, env[0][len("KEYLEDGER_URL="):], conn, authv3.NewAuthorizationClient(conn), ratelimitv3.NewRateLimitServiceClient(conn)}
}

// key makes a key and returns its secret and id.
func (p *proxied) key(fields map[string]any) (secret, id string) {
	p.Helper()
	if fields["name"] == nil {
		fields["name"] = "k"
	}
	status, made := post(p.T, p.base, "/v1/keys", fields)
	if status != http.StatusCreated {
		p.Fatalf("%d, %v", status, made)
	}
	return made["apiKey"].(string), made["id"].(string)
}

// check asks about a request with a key. change may alter what Envoy tells of it.
func (p *proxied) check(secret string, change func(*authv3.AttributeContext)) *authv3.CheckResponse {
	p.Helper()
	of := &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "r1", Method: "POST", Path: "/v1/messages", Host: "x", Headers: map[string]string{"x-api-key": secret, "user-agent": "claude-cli/2.0.0 (external)", "x-keyledger-admission-id": "forged"},
			Body: `{"model": "claude-haiku-4-5", "messages": []}`,
		}},
		ContextExtensions: map[string]string{"service": "claude"},
	}
	if change != nil {
		change(of)
	}
	answer, err := p.auth.Check(p.Context(), &authv3.CheckRequest{Attributes: of})
	if err != nil {
		p.Fatal(err)
	}
	return answer
}

// header is a header that Envoy is told to set; empty: it is not.
func header(all []*corev3.HeaderValueOption, name string) string {
	for _, h := range all {
		if strings.EqualFold(h.GetHeader().GetKey(), name) {
			return h.GetHeader().GetValue()
		}
	}
	return ""
}

// Guarantee: external authorization answers with each decision's status, code and body; what is
// let through carries our ids and not the client's key; limits hold to the request at any
// concurrency.
func TestEnvoyAuthorization(t *testing.T) {
	t.Parallel()
	p := newProxied(t)
	usedUp := func(limit string) map[string]any { return map[string]any{limit: "0.000001"} }
	lease := func(of *authv3.AttributeContext) { of.ContextExtensions["lease"] = "60" }
	for _, one := range []struct {
		code   string
		status int
		fields map[string]any
		first  func(secret, id string) // what happens before
		change func(*authv3.AttributeContext)
	}{
		{code: "MALFORMED", status: 401, change: func(of *authv3.AttributeContext) { delete(of.GetRequest().GetHttp().GetHeaders(), "x-api-key") }},
		{code: "NOT_FOUND", status: 401, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Headers["x-api-key"] = "cr_" + strings.Repeat("0", 64)
		}},
		{code: "DISABLED", status: 401, fields: map[string]any{"isActive": false}},
		{code: "EXPIRED", status: 401, fields: map[string]any{"expiresAt": "2020-01-01T00:00:00Z"}},
		{code: "SERVICE_NOT_PERMITTED", status: 403, fields: map[string]any{"permissions": []string{"gemini"}}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "restrictedModels": []string{"claude-haiku-4-5"}}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "restrictedModels": []string{"gemini-2.5-pro"}}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Path, of.Request.Http.Body = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", ""
		}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "allowedModels": []string{"claude-haiku-4-5"}}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Body = `{"messages": [{"role": "user", "content": "a body that is cut o` // its model is not reached
		}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "allowedModels": []string{"claude-haiku-4-5"}}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Headers["x-keyledger-model"], of.Request.Http.Body = "claude-haiku-4-5", `{"model": "claude-opus-4-1"}` // a client's word
		}},
		{code: "SERVICE_NOT_PERMITTED", status: 403, fields: map[string]any{"permissions": []string{"claude"}}, change: func(of *authv3.AttributeContext) {
			of.ContextExtensions = map[string]string{"headers": "trusted"} // they are the proxy's own
			of.Request.Http.Headers["x-keyledger-service"] = "gemini"
		}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "allowedModels": []string{"claude-haiku-4-5"}}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Headers["x-envoy-auth-partial-body"] = "true" // what is not seen could say otherwise
		}},
		{code: "MODEL_NOT_ALLOWED", status: 403, fields: map[string]any{"enableModelRestriction": true, "allowedModels": []string{"claude-haiku-4-5"}}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Body = `{"model": "claude-haiku-4-5", "messages": [], "model": "claude-opus-4-1"}`
		}},
		{code: "DAILY_COST_EXCEEDED", status: 402, fields: map[string]any{"dailyCostLimit": "0.4"}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Body = `{"model": "claude-haiku-4-5", "max_completion_tokens": 1, "max_tokens": 50000, "n": 2}`
		}},
		{code: "CLIENT_NOT_ALLOWED", status: 403, fields: map[string]any{"enableClientRestriction": true, "allowedClients": []string{"gemini_cli"}}},
		{code: "MODEL_NOT_PRICED", status: 403, fields: map[string]any{"dailyCostLimit": 1}, change: func(of *authv3.AttributeContext) { of.Request.Http.Body = `{"model": "nobodys-model"}` }},
		{code: "CONCURRENCY_EXCEEDED", status: 429, fields: map[string]any{"concurrencyLimit": 1}, first: func(secret, _ string) { p.check(secret, lease) }, change: lease},
		{code: "REQUESTS_EXCEEDED", status: 429, fields: map[string]any{"rateLimitWindow": 60, "rateLimitRequests": 1}, first: func(secret, _ string) { p.check(secret, nil) }},
		{code: "TOKENS_EXCEEDED", status: 429, fields: map[string]any{"rateLimitWindow": 60, "tokenLimit": 100}, change: func(of *authv3.AttributeContext) {
			of.Request.Http.Body = ""
			of.Request.Http.RawBody = []byte(`{"model": "claude-haiku-4-5", "max_tokens": 101}`)
		}},
		{code: "DAILY_COST_EXCEEDED", status: 402, fields: usedUp("dailyCostLimit")},
		{code: "WEEKLY_COST_EXCEEDED", status: 402, fields: usedUp("weeklyCostLimit")},
		{code: "MONTHLY_COST_EXCEEDED", status: 402, fields: usedUp("monthlyCostLimit")},
		{code: "TOTAL_COST_EXCEEDED", status: 402, fields: usedUp("totalCostLimit")},
	} {
		t.Run(one.code, func(t *testing.T) {
			if one.fields == nil {
				one.fields = map[string]any{}
			}
			secret, id := p.key(one.fields)
			if one.status == http.StatusPaymentRequired && one.change == nil {
				post(t, p.base, "/v1/usage", map[string]any{"keyId": id, "model": "claude-haiku-4-5", "usage": map[string]any{"input_tokens": 1000}})
			}
			if one.first != nil {
				one.first(secret, id)
			}
			answer := p.check(secret, one.change)
			denied := answer.GetDeniedResponse()
			var problem map[string]any
			if err := json.Unmarshal([]byte(denied.GetBody()), &problem); err != nil {
				t.Fatalf("%v: %v", err, answer)
			}
			if codes.Code(answer.GetStatus().GetCode()) != codes.PermissionDenied || int(denied.GetStatus().GetCode()) != one.status || problem["code"] != one.code ||
				header(denied.GetHeaders(), "X-Keyledger-Code") != one.code || header(denied.GetHeaders(), "Content-Type") != "application/problem+json" || answer.GetDynamicMetadata().GetFields()["code"].GetStringValue() != one.code {
				t.Errorf("%v", answer)
			}
			limited := strings.HasSuffix(one.code, "_EXCEEDED")
			if (problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded") != limited || (problem["violated-policies"] != nil) != limited {
				t.Errorf("%v", problem)
			}
			if after := header(denied.GetHeaders(), "Retry-After"); one.code == "REQUESTS_EXCEEDED" && after == "" {
				t.Errorf("no Retry-After: %v", denied)
			}
			if strings.Contains(answer.String(), secret) {
				t.Errorf("the secret is in the answer: %v", answer)
			}
			if err := answer.ValidateAll(); err != nil {
				t.Error(err)
			}
		})
	}

	secret, _ := p.key(map[string]any{"rateLimitWindow": 60, "rateLimitRequests": 30, "concurrencyLimit": 100})
	var passed atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			if p.check(secret, lease).GetOkResponse() != nil {
				passed.Add(1)
			}
		})
	}
	group.Wait()
	if passed.Load() != 30 {
		t.Errorf("%d of 64 passed, and 30 were left", passed.Load())
	}

	secret, id := p.key(map[string]any{"rateLimitWindow": 60, "rateLimitRequests": 30, "concurrencyLimit": 100, "dailyCostLimit": 1, "claudeAccountId": "claude main"})
	answer := p.check(secret, func(of *authv3.AttributeContext) {
		lease(of)
		of.Request.Http.Path = "/v1/messages?key=" + secret
		of.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer " + secret)}}}
		of.Request.Http.Body = `{"model": "claude-haiku-4-5", "max_tokens": 1000}`
	})
	ok := answer.GetOkResponse()
	facts := answer.GetDynamicMetadata().GetFields()
	admission := header(ok.GetHeaders(), "X-Keyledger-Admission-Id")
	if codes.Code(answer.GetStatus().GetCode()) != codes.OK || header(ok.GetHeaders(), "X-Keyledger-Key-Id") != id || admission == "" || header(ok.GetHeaders(), "X-Keyledger-Claude-Account-Id") != "claude%20main" ||
		facts["key_id"].GetStringValue() != id || facts["admission_id"].GetStringValue() != admission || facts["limits"].GetStructValue().GetFields()["requests"].GetStructValue().GetFields()["remaining"].GetStringValue() != "29" {
		t.Errorf("%v", answer)
	}
	for _, name := range []string{"x-api-key", "authorization", "x-goog-api-key", "api-key"} {
		if !slices.Contains(ok.GetHeadersToRemove(), name) {
			t.Errorf("%s goes upstream: %v", name, ok)
		}
	}
	if !slices.Equal(ok.GetQueryParametersToRemove(), []string{"key"}) || !strings.HasPrefix(header(ok.GetResponseHeadersToAdd(), "RateLimit"), `"requests";r=29`) || strings.Contains(answer.String(), secret) {
		t.Errorf("%v", answer)
	}
	if reserved := facts["limits"].GetStructValue().GetFields()["dailyCost"].GetStructValue().GetFields()["reserved"].GetStringValue(); reserved != "0.005007" {
		t.Errorf("%s is reserved", reserved) // 1000 tokens of output, and some of text
	}
	without := p.check(secret, nil).GetOkResponse() // no lease, and so an admission all the same
	if forged := header(without.GetHeaders(), "X-Keyledger-Admission-Id"); forged == "" && !slices.Contains(without.GetHeadersToRemove(), "x-keyledger-admission-id") {
		t.Errorf("the client's own admission id goes upstream: %v", without)
	}

	_, err := p.auth.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{ContextExtensions: map[string]string{"lease": "soon"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Headers: map[string]string{"x-api-key": secret}}}}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "context_extensions.lease must be") {
		t.Errorf("a wrong setting of the proxy's: %v", err)
	}
	if healthy, err := healthpb.NewHealthClient(p.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || healthy.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", healthy, err)
	}
}

// descriptor is a descriptor of the rate limit service; hits < 0: it tells none of its own.
func descriptor(hits int64, entries ...string) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	for i := 0; i < len(entries); i += 2 {
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
	}
	if hits >= 0 {
		d.HitsAddend = wrapperspb.UInt64(uint64(hits))
	}
	return d
}

// Guarantee: the rate limit service admits with a reservation and settles what it admitted, once
// for each request id; it settles what external authorization admitted; it charges tokens by
// their class and cost in millionths; and what contradicts itself changes nothing.
func TestEnvoyRateLimit(t *testing.T) {
	t.Parallel()
	p := newProxied(t)
	call := func(all ...*commonv3.RateLimitDescriptor) *ratelimitv3.RateLimitResponse {
		t.Helper()
		answer, err := p.limit.ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{Domain: "keyledger", Descriptors: all})
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.GetStatuses()) != len(all) {
			t.Errorf("%d statuses of %d descriptors: %v", len(answer.GetStatuses()), len(all), answer)
		}
		return answer
	}
	ok := func(answer *ratelimitv3.RateLimitResponse) bool {
		return answer.GetOverallCode() == ratelimitv3.RateLimitResponse_OK
	}
	used := func(id string) (requests, tokens, cost, reserved any) {
		t.Helper()
		row := read(t, p.base, "/v1/keys/"+id)
		total := read(t, p.base, "/v1/keys/"+id+"/usage")["total"].(map[string]any)
		return total["requests"], total["allTokens"], total["costUsd"], row["currentConcurrency"]
	}

	// By itself, with a request id: admitted with the key's estimate, settled once.
	secret, id := p.key(map[string]any{"dailyCostLimit": "0.01", "estimatePerRequest": "0.006", "rateLimitWindow": 60, "rateLimitRequests": 10})
	who := func(request string, more ...string) []string {
		return append([]string{"api_key", secret, "request_id", request, "model", "claude-haiku-4-5"}, more...)
	}
	for range 2 { // an answer that was lost is asked for again
		if answer := call(descriptor(0, who("r1")...)); !ok(answer) || answer.GetStatuses()[0].GetLimitRemaining() != 9 {
			t.Fatalf("%v", answer)
		}
	}
	second := call(descriptor(0, who("r2")...))
	if ok(second) || !strings.Contains(string(second.GetRawBody()), "DAILY_COST_EXCEEDED") {
		t.Errorf("the reservation does not hold: %v", second)
	}
	for range 2 {
		if answer := call(descriptor(1000, who("r1", "class", "input")...), descriptor(100, who("r1", "class", "output")...), descriptor(200, who("r1", "class", "cache_read")...),
			descriptor(80, who("r1", "class", "cache_write_5m")...), descriptor(20, who("r1", "class", "cache_write_1h")...), descriptor(9_999_999, who("r1", "class", "cost_usd_micro")...)); !ok(answer) {
			t.Fatalf("%v", answer)
		}
	}
	if requests, tokens, cost, _ := used(id); requests != 1. || tokens != 1400. || cost != 0.00166 {
		t.Errorf("%v requests, %v tokens, $%v", requests, tokens, cost)
	}
	if answer := call(descriptor(0, who("r1")...)); ok(answer) || !strings.Contains(string(answer.GetRawBody()), "REQUEST_ALREADY_SETTLED") {
		t.Errorf("what was settled is admitted again: %v", answer)
	}

	// What external authorization admitted.
	secret, id = p.key(map[string]any{"concurrencyLimit": 1, "rateLimitWindow": 60, "tokenLimit": 5000})
	admitted := p.check(secret, func(of *authv3.AttributeContext) { of.ContextExtensions["lease"] = "60" }).GetOkResponse()
	admission := header(admitted.GetHeaders(), "X-Keyledger-Admission-Id")
	if answer := call(descriptor(0, "admission_id", admission, "class", "tokens")); !ok(answer) {
		t.Errorf("%v", answer)
	}
	for range 2 {
		call(descriptor(700, "admission_id", admission, "model", "claude-haiku-4-5", "class", "tokens"))
	}
	if requests, tokens, cost, slots := used(id); requests != 1. || tokens != 700. || cost != 0.0007 || slots != 0. {
		t.Errorf("%v requests, %v tokens, $%v, %v slots", requests, tokens, cost, slots)
	}

	// A cost and no tokens; it stays what it was when all is priced again.
	_, id = p.key(map[string]any{"totalCostLimit": 5000})
	for range 2 {
		call(descriptor(123_456, "key_id", id, "request_id", "c1", "model", "claude-haiku-4-5", "class", "cost_usd_micro"))
	}
	today := time.Now().UTC().Format(time.DateOnly)
	if status, answer := post(t, p.base, "/v1/prices/reprice", map[string]any{"from": today, "to": today}); status != http.StatusOK {
		t.Errorf("%d, %v", status, answer)
	}
	if requests, tokens, cost, _ := used(id); requests != 1. || tokens != 0. || cost != 0.123456 {
		t.Errorf("%v requests, %v tokens, $%v", requests, tokens, cost)
	}
	if answer := call(descriptor(0, "key_id", id, "class", "cost_usd_micro", "model", "claude-haiku-4-5")); !ok(answer) || answer.GetStatuses()[0].GetLimitRemaining() != 4294967295 {
		t.Errorf("more is left than fits the protocol: %v", answer)
	}

	// Plain limits of requests: a hit is a request.
	secret, id = p.key(map[string]any{"rateLimitWindow": 60, "rateLimitRequests": 2})
	for i, want := range []bool{true, true, false} {
		answer := call(descriptor(-1, "api_key", secret))
		if ok(answer) != want {
			t.Errorf("call %d: %v", i, answer)
		}
		if !want && (answer.GetStatuses()[0].GetDurationUntilReset().AsDuration() < time.Minute || !slices.ContainsFunc(answer.GetResponseHeadersToAdd(), func(h *corev3.HeaderValue) bool { return h.GetKey() == "Ratelimit" })) {
			t.Errorf("it does not say when: %v", answer)
		}
	}
	if answer := call(descriptor(-1, "api_key", "cr_"+strings.Repeat("0", 64))); ok(answer) || !strings.Contains(string(answer.GetRawBody()), "NOT_FOUND") {
		t.Errorf("%v", answer)
	}

	// Every refusal.
	spent := func(limit string) map[string]any { return map[string]any{limit: "0.000001"} }
	for code, fields := range map[string]map[string]any{
		"DISABLED": {"isActive": false}, "EXPIRED": {"expiresAt": "2020-01-01T00:00:00Z"}, "SERVICE_NOT_PERMITTED": {"permissions": []string{"gemini"}},
		"MODEL_NOT_ALLOWED":  {"enableModelRestriction": true, "restrictedModels": []string{"claude-haiku-4-5"}},
		"CLIENT_NOT_ALLOWED": {"enableClientRestriction": true, "allowedClients": []string{"gemini_cli"}}, "MODEL_NOT_PRICED": {"dailyCostLimit": 1},
		"CONCURRENCY_EXCEEDED": {"concurrencyLimit": 1}, "REQUESTS_EXCEEDED": {"rateLimitWindow": 60, "rateLimitRequests": 1}, "TOKENS_EXCEEDED": {"rateLimitWindow": 60, "tokenLimit": 100},
		"DAILY_COST_EXCEEDED": spent("dailyCostLimit"), "WEEKLY_COST_EXCEEDED": spent("weeklyCostLimit"), "MONTHLY_COST_EXCEEDED": spent("monthlyCostLimit"), "TOTAL_COST_EXCEEDED": spent("totalCostLimit"),
	} {
		secret, id := p.key(fields)
		model := "claude-haiku-4-5"
		switch code {
		case "MODEL_NOT_PRICED":
			model = "nobodys-model"
		case "CONCURRENCY_EXCEEDED", "REQUESTS_EXCEEDED", "TOKENS_EXCEEDED":
			call(descriptor(1, "api_key", secret, "request_id", "first", "service", "claude", "model", model))
		}
		if code == "TOKENS_EXCEEDED" || strings.HasSuffix(code, "COST_EXCEEDED") {
			call(descriptor(1000, "key_id", id, "request_id", "used", "model", model, "class", "input"))
		}
		answer := call(descriptor(1, "api_key", secret, "request_id", "second", "service", "claude", "model", model))
		if ok(answer) || !strings.Contains(string(answer.GetRawBody()), `"code":"`+code+`"`) {
			t.Errorf("%s: %v", code, answer)
		}
	}

	before := pgtestCount(t, p)
	for name, all := range map[string][]*commonv3.RateLimitDescriptor{
		"nothing":         nil,
		"nobody":          {descriptor(1, "model", "m")},
		"no id":           {descriptor(1, "key_id", "x")},
		"two keys":        {descriptor(1, "key_id", id), descriptor(1, "key_id", "0197c1b2-0000-7000-8000-000000000001")},
		"no class":        {descriptor(1, "key_id", id, "class", "dollars")},
		"too many":        {descriptor(1<<60, "key_id", id, "class", "input")},
		"unknown key":     {descriptor(1, "key_id", "0197c1b2-0000-7000-8000-000000000001", "class", "input")},
		"a refund":        {{Entries: descriptor(1, "key_id", id).GetEntries(), IsNegativeHits: true}},
		"unknown request": {descriptor(1, "admission_id", "0197c1b2-0000-7000-8000-000000000001", "class", "input")},
	} {
		answer, err := p.limit.ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{Descriptors: all})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	if after := pgtestCount(t, p); after != before {
		t.Errorf("%v events were recorded of what was refused", after)
	}
}

// pgtestCount is how many requests are in the ledger.
func pgtestCount(t *testing.T, p *proxied) any {
	t.Helper()
	return read(t, p.base, "/v1/reports/usage?granularity=total")["totals"].(map[string]any)["requests"]
}

// Guarantee: with certificates set, only TLS is spoken, and with an authority set, only with
// clients that have its certificate.
func TestEnvoyTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pool, ours := certificate(t, dir)
	addr := freePort(t)
	serve(t, pgtest.URL(t), "KEYLEDGER_GRPC_ADDR="+addr, "KEYLEDGER_GRPC_TLS_CERT="+filepath.Join(dir, "cert.pem"), "KEYLEDGER_GRPC_TLS_KEY="+filepath.Join(dir, "key.pem"), "KEYLEDGER_GRPC_CLIENT_CA="+filepath.Join(dir, "cert.pem"))
	_, stranger := certificate(t, t.TempDir())
	for name, one := range map[string]struct {
		by   credentials.TransportCredentials
		want bool
	}{
		"plain":    {insecure.NewCredentials(), false},
		"nobody":   {credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}), false},
		"stranger": {credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{stranger}}), false},
		"ours":     {credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours}}), true},
	} {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(one.by))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		cancel()
		_ = conn.Close()
		if (err == nil) != one.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range [][]string{{"KEYLEDGER_GRPC_TLS_CERT=/none", "KEYLEDGER_GRPC_TLS_KEY=/none"}, {"KEYLEDGER_GRPC_CLIENT_CA=" + filepath.Join(dir, "cert.pem")}} {
		if got := execute(t, append(bad, "DATABASE_URL=postgres://x", peppers), "serve"); got.code == 0 || !strings.Contains(got.errors, "KEYLEDGER_GRPC_TLS_CERT") {
			t.Errorf("%v: %+v", bad, got)
		}
	}
}

// certificate makes one that signs itself, for both sides, and leaves it in a directory.
func certificate(t *testing.T, dir string) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return pool, pair
}

// Guarantee: docs/integrations/envoy.yaml is a configuration of Envoy's, by its own protocol
// buffers and their rules: no field is misspelled, none has a value that Envoy would refuse.
func TestEnvoyFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "integrations", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		t.Fatal(err)
	}
	var config bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	if err := config.ValidateAll(); err != nil {
		t.Error(err)
	}
	for _, l := range config.GetStaticResources().GetListeners() {
		for _, chain := range l.GetFilterChains() {
			for _, filter := range chain.GetFilters() {
				inner, err := filter.GetTypedConfig().UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				if v, has := inner.(interface{ ValidateAll() error }); !has || v.ValidateAll() != nil {
					t.Errorf("%s: %v", filter.GetName(), inner)
				}
			}
		}
	}
	if len(config.GetStaticResources().GetClusters()) < 2 {
		t.Error(fmt.Sprint("clusters: ", config.GetStaticResources().GetClusters()))
	}
}
