package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Guarantee: webhooks are made, listed, changed, tried out, asked what they were told and removed
// through the API; readers see no more of an address than the host; the secret is in the answer that made it and in no
// other; an unknown one is 404, a wrong one 422 by the field, and both leave nothing behind.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	got := make(chan string, 10)
	to := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	t.Cleanup(to.Close)
	running, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	go h.sender.Run(running, 50*time.Millisecond)

	h.want(h.as(h.admin, "POST", "/v1/webhooks", `{"url":"http://10.0.0.1/","events":["key.created"]}`), 422)
	h.want(h.as(h.admin, "POST", "/v1/webhooks", `{"events":[]}`), 422)
	h.want(h.as(h.admin, "POST", "/v1/webhooks", `{"url":"`+to.URL+`","events":["key.created"],"secret":"mine"}`), 422)
	made := h.want(h.as(h.admin, "POST", "/v1/webhooks", `{"url":"`+to.URL+`/a-secret","events":["key.created"]}`), 201)
	id, secret := made.text("id"), made.text("secret")
	if !strings.HasPrefix(secret, "whsec_") || made.text("format") != "standard" {
		t.Errorf("made: %s", made.raw)
	}
	if list := h.want(h.as(h.admin, "GET", "/v1/webhooks", nil), 200); list.text("data", 0, "id") != id || strings.Contains(list.raw, "whsec_") {
		t.Errorf("listed: %s", list.raw)
	}
	if seen := h.want(h.as(h.reader, "GET", "/v1/webhooks", nil), 200); seen.text("data", 0, "url") != strings.TrimSuffix(to.URL, "/")+"/..." {
		t.Errorf("a reader sees %s", seen.raw)
	}
	changed := h.want(h.as(h.admin, "PATCH", "/v1/webhooks/"+id, `{"newSecret":true,"events":["key.created","key.deleted"]}`), 200)
	if again := changed.text("secret"); again == "" || again == secret || changed.get("events", 1) != "key.deleted" {
		t.Errorf("changed: %s", changed.raw)
	}
	h.want(h.as(h.admin, "PATCH", "/v1/webhooks/"+id, `{"events":["nope"]}`), 422)
	event := h.want(h.as(h.admin, "POST", "/v1/webhooks/"+id+"/test", nil), 202).text("eventId")
	select {
	case body := <-got:
		if !strings.Contains(body, `"type":"webhook.test"`) {
			t.Errorf("the test: %s", body)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the test was not delivered")
	}
	h.want(h.as(h.admin, "POST", "/v1/keys", `{"name":"alice"}`), 201)
	<-got
	page := h.want(h.as(h.admin, "GET", "/v1/webhooks/"+id+"/deliveries?limit=1", nil), 200)
	rest := h.want(h.as(h.admin, "GET", "/v1/webhooks/"+id+"/deliveries?limit=1&cursor="+page.text("nextCursor"), nil), 200)
	if page.text("data", 0, "type") != "key.created" || rest.text("data", 0, "eventId") != event || rest.text("nextCursor") != "" {
		t.Errorf("deliveries: %s, then %s", page.raw, rest.raw)
	}
	h.want(h.as(h.admin, "GET", "/v1/webhooks/"+id+"/deliveries?state=lost", nil), 422)
	h.want(h.as(h.admin, "GET", "/v1/webhooks/"+id+"/deliveries?cursor=x", nil), 422)
	h.want(h.as(h.admin, "POST", "/v1/webhooks/"+id+"/deliveries/"+event+"/retry", nil), 204)
	<-got
	h.want(h.as(h.admin, "PATCH", "/v1/webhooks/"+id, `{"isActive":false}`), 200)
	h.want(h.as(h.admin, "POST", "/v1/webhooks/"+id+"/test", nil), 409)
	h.want(h.as(h.admin, "POST", "/v1/webhooks/"+id+"/deliveries/"+event+"/retry", nil), 409)
	audit := h.want(h.as(h.admin, "GET", "/v1/audit?targetType=webhook", nil), 200)
	if strings.Contains(audit.raw, to.URL) || strings.Contains(audit.raw, "secret") {
		t.Errorf("the audit trail tells too much: %s", audit.raw)
	}
	h.want(h.as(h.admin, "DELETE", "/v1/webhooks/"+id, nil), 204)
	for _, path := range []string{"/v1/webhooks/" + id + "/deliveries"} {
		h.want(h.as(h.admin, "GET", path, nil), 404)
	}
	h.want(h.as(h.admin, "DELETE", "/v1/webhooks/"+id, nil), 404)
}
