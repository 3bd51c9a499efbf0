package api_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: a key's holder sees what is left of the limit that has the least left, less what is
// reserved; a key without a limit has no balance; nobody else sees it.
func TestBalance(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	id, secret := h.create(map[string]any{"name": "alice", "dailyCostLimit": 5, "totalCostLimit": 4})
	a := h.want(h.as(secret, "GET", "/v1/usage", nil), 200)
	if a.text("planName") != "total" || a.text("balance") != "4" || a.text("used") != "0" || a.text("extra") != "" {
		t.Errorf("%s", a.raw)
	}
	h.want(h.record(map[string]any{"keyId": id, "model": "claude-haiku-4-5", "usage": map[string]any{"input_tokens": 1250000}}), 200)
	h.want(h.do("POST", "/v1/admissions", map[string]any{"apiKey": secret, "model": "claude-haiku-4-5", "leaseSeconds": 60, "estimate": map[string]any{"costUsd": 0.5}}), 200)
	a = h.want(h.as("", "GET", "/v1/usage", nil, "x-api-key", secret), 200)
	if a.text("remaining") != "2.25" || a.text("balance") != "2.25" || a.text("total") != "4" || a.text("used") != "1.25" || a.text("isValid") != "true" || a.text("is_active") != "true" || a.text("unit") != "USD" {
		t.Errorf("%s", a.raw)
	}
	h.want(h.do("PATCH", "/v1/keys/"+id, map[string]any{"dailyCostLimit": 2}), 200)
	if a = h.want(h.as(secret, "GET", "/v1/usage", nil), 200); a.text("planName") != "daily" || a.text("remaining") != "0.25" || a.text("extra") != "Begins anew each day, in UTC" {
		t.Errorf("%s", a.raw)
	}
	free, other := h.create(map[string]any{"name": "free"})
	if a = h.want(h.as(other, "GET", "/v1/usage", nil), 200); a.text("planName") != "unlimited" || a.get("remaining") != nil || a.get("balance") != nil {
		t.Errorf("%s", a.raw)
	}
	h.want(h.do("PATCH", "/v1/keys/"+free, map[string]any{"isActive": false}), 200)
	for _, wrong := range []string{"", other, h.admin, "cr_" + strings.Repeat("0", 64)} {
		h.want(h.as(wrong, "GET", "/v1/usage", nil), 401)
	}
}

// Guarantee: whoever has a leaked secret disables its key with it, at once; the audit trail says
// where it was found; a secret that no key has changes nothing, and an address that sends many is
// slowed down.
func TestRevokeLeaked(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{wrong: 5})
	id, secret := h.create(map[string]any{"name": "alice"})
	gone, deleted := h.create(map[string]any{"name": "gone"})
	h.want(h.do("DELETE", "/v1/keys/"+gone, nil), 204)
	report := map[string]any{"apiKeys": []string{secret, deleted, "cr_" + strings.Repeat("0", 64), "no key"}, "foundAt": "https://example.org/.env"}
	states := func(a answer) (all []string) {
		for i := 0; a.get("results", i) != nil; i++ {
			all = append(all, a.text("results", i, "status"))
		}
		return all
	}
	a := h.want(h.as("", "POST", "/v1/keys/revoke-leaked", report), 200)
	if got := strings.Join(states(a), " "); got != "turnedOff unknown unknown unknown" || strings.Contains(a.raw, id) {
		t.Errorf("%s", a.raw)
	}
	if a := h.want(h.do("POST", "/v1/keys/verify", map[string]any{"apiKey": secret}), 200); a.text("code") != "DISABLED" {
		t.Errorf("%s", a.raw)
	}
	audit := pgtest.Scan[string](t, h.db, "SELECT string_agg(concat_ws(' ', actor, action, after->>'foundAt', after->>'is_active'), '; ' ORDER BY id) FROM audit_log WHERE target_id = $1 AND actor = 'leak report'", id)
	if audit != "leak report key.leaked false; leak report key.leaked https://example.org/.env" {
		t.Errorf("audit: %s", audit)
	}
	if a := h.want(h.as("", "POST", "/v1/keys/revoke-leaked", map[string]any{"apiKeys": []string{secret}}), 200); strings.Join(states(a), " ") != "alreadyOff" {
		t.Errorf("%s", a.raw)
	}
	for _, wrong := range []map[string]any{{}, {"apiKeys": []string{}}, {"apiKeys": make([]string, 101)}, {"apiKeys": []string{secret}, "foundAt": strings.Repeat("x", 501)}, {"apiKeys": []string{secret}, "foundAt": "a\x00b"}} {
		h.want(h.as("", "POST", "/v1/keys/revoke-leaked", wrong), 422)
	}
	h.as("", "POST", "/v1/keys/revoke-leaked", map[string]any{"apiKeys": []string{"cr_" + strings.Repeat("1", 64), "cr_" + strings.Repeat("2", 64)}})
	h.want(h.as("", "POST", "/v1/keys/revoke-leaked", map[string]any{"apiKeys": []string{secret}}), 429)
}

// Guarantee: checked keys are of the documented pattern and end in the checksum of what stands
// before it; they open what others open, and no two are alike.
func TestCheckedKeys(t *testing.T) {
	t.Parallel()
	h := key.Hasher{Prefixes: []string{"cr_"}, Checked: true}
	pattern, seen := regexp.MustCompile(`^cr_[0-9A-Za-z]{49}$`), map[string]bool{}
	for range 1000 {
		text := h.Issue()
		secret := strings.TrimPrefix(text, "cr_")
		if !pattern.MatchString(text) || key.Checksum(secret[:43]) != secret[43:] || !h.WellFormed(text) || seen[text] {
			t.Fatalf("%q", text)
		}
		seen[text] = true
	}
	if got := key.Checksum("123456789"); got != "3jZRME" {
		t.Errorf("checksum %q", got)
	}
}
