package alert_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/seal"
)

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func box(t *testing.T, secrets ...[]byte) *seal.Box {
	t.Helper()
	if secrets == nil {
		secrets = [][]byte{[]byte("a pepper of thirty-two bytes....")}
	}
	b, err := alert.NewBox(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// here are the networks that tests listen in.
var here = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// received is a delivery as the receiver saw it.
type received struct {
	header http.Header
	body   []byte
}

// receiver is an address that answers as it is told and remembers what it got.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex
	got    []received
	answer func(n int, w http.ResponseWriter) // n counts from 0
}

func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		n := len(r.got)
		r.got = append(r.got, received{req.Header.Clone(), body})
		r.mu.Unlock()
		if r.answer != nil {
			r.answer(n, w)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

// post is a house with a sender that runs until the test ends.
type post struct {
	*house

	outcomes map[alert.Outcome]int
	mu       sync.Mutex
	stop     func()
}

func newPost(t *testing.T, allowed []netip.Prefix) *post {
	t.Helper()
	p := &post{house: newHouse(t), outcomes: map[alert.Outcome]int{}}
	p.webhooks = alert.NewWebhooks(p.db, box(t), allowed)
	p.start()
	return p
}

// start runs a sender, until stop.
func (p *post) start() {
	running, stop := context.WithCancel(ctx)
	sender := alert.NewSender(p.webhooks, quietLog(), func(o alert.Outcome) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.outcomes[o]++
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		sender.Run(running, 20*time.Millisecond)
	}()
	p.stop = func() { stop(); <-done }
	p.Cleanup(p.stop)
}

// hook makes a webhook at an address.
func (p *post) hook(url, format string, types ...string) (uuid.UUID, string) {
	p.Helper()
	row, secret, err := p.webhooks.Create(ctx, tester, alert.Settings{URL: &url, Format: &format, Events: &types})
	if err != nil {
		p.Fatal(err)
	}
	return row.ID, secret
}

// delivery waits until the only delivery of a webhook is as asked for.
func (p *post) delivery(id uuid.UUID, as func(db.WebhookDelivery) bool) db.WebhookDelivery {
	p.Helper()
	var last []db.DeliveryListRow
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		rows, err := p.webhooks.Deliveries(ctx, db.DeliveryListParams{WebhookID: id, RowLimit: 10})
		if err != nil {
			p.Fatal(err)
		}
		if last = rows; len(rows) == 1 && as(rows[0].WebhookDelivery) {
			return rows[0].WebhookDelivery
		}
	}
	p.Fatalf("the delivery did not come to be as it should: %+v", last)
	return db.WebhookDelivery{}
}

func isDelivered(d db.WebhookDelivery) bool { return d.State == "delivered" }

func hasFailed(d db.WebhookDelivery) bool { return d.LastError != "" }

// Guarantee: deliveries are signed as Standard Webhooks says, by its own verifier; a repeat has the
// same id and a body that is the same byte for byte, and is sent only after the pause.
func TestDeliveriesAreSigned(t *testing.T) {
	t.Parallel()
	p := newPost(t, here)
	to := newReceiver(t, func(n int, w http.ResponseWriter) {
		if n == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id, secret := p.hook(to.URL+"/in?token=x", alert.Standard, alert.Created)
	made, _ := pgtest.Key(t, p.db, pgtest.KeyRow{Name: "alice & <bob>"})
	failed := p.delivery(id, hasFailed)
	if failed.LastStatus != 500 || failed.Attempts != 1 || time.Until(failed.NextAt) < 3*time.Second {
		t.Errorf("after the first try: %+v", failed)
	}
	pgtest.Exec(t, p.db, "UPDATE webhook_deliveries SET next_at = now()")
	pgtest.Exec(t, p.db, "UPDATE webhooks SET not_before = now()")
	p.delivery(id, isDelivered)
	got := to.all()
	if len(got) != 2 || string(got[0].body) != string(got[1].body) || got[0].header.Get("Webhook-Id") != got[1].header.Get("Webhook-Id") {
		t.Fatalf("%d tries, or they differ: %s", len(got), got)
	}
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range got {
		if err := verifier.Verify(g.body, g.header); err != nil {
			t.Errorf("the signature: %v", err)
		}
		if err := verifier.Verify(append(g.body, ' '), g.header); err == nil {
			t.Error("a body with a byte more passes")
		}
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(got[0].body, &body); err != nil || body.Type != alert.Created || body.Data["keyId"] != made.String() || body.Data["name"] != "alice & <bob>" {
		t.Errorf("%s %v", got[0].body, err)
	}
}

// Guarantee: tries go on for three days and no longer, then the delivery is dead and shown; it can
// be sent again. A receiver that asks for time gets it, and one that is gone is left alone.
func TestTriesEnd(t *testing.T) {
	t.Parallel()
	p := newPost(t, here)
	status := http.StatusServiceUnavailable
	var mu sync.Mutex
	to := newReceiver(t, func(_ int, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(status)
	})
	id, _ := p.hook(to.URL, alert.Standard, alert.Created)
	pgtest.Key(t, p.db, pgtest.KeyRow{})
	if d := p.delivery(id, hasFailed); time.Until(d.NextAt) < 119*time.Minute {
		t.Errorf("asked for two hours, and tried at %s", d.NextAt)
	}
	// As if the time that it waits for had passed, again and again.
	var age time.Duration
	for n := int32(2); ; n++ {
		pgtest.Exec(t, p.db, `UPDATE webhook_deliveries SET created_at = created_at - (next_at - now()), next_at = now()`)
		pgtest.Exec(t, p.db, "UPDATE webhooks SET not_before = now()")
		d := p.delivery(id, func(d db.WebhookDelivery) bool {
			return d.Attempts == n && (d.State == "dead" || time.Until(d.NextAt) > 10*time.Minute)
		})
		age = time.Since(d.CreatedAt)
		if d.State == "dead" {
			break
		}
	}
	if age < 48*time.Hour || age > 72*time.Hour {
		t.Errorf("given up after %s", age)
	}
	row, err := p.webhooks.Show(ctx, id)
	if err != nil || row.Dead != 1 || row.Pending != 0 {
		t.Errorf("%+v %v", row, err)
	}
	mu.Lock()
	status = http.StatusGone
	mu.Unlock()
	pgtest.Exec(t, p.db, "UPDATE webhooks SET not_before = now()")
	event := p.delivery(id, func(db.WebhookDelivery) bool { return true }).EventID
	if err := p.webhooks.Again(ctx, id, event); err != nil {
		t.Fatal(err)
	}
	p.delivery(id, func(d db.WebhookDelivery) bool { return d.State == "dead" && d.LastStatus == 410 })
	if row, err := p.webhooks.Show(ctx, id); err != nil || row.Webhook.IsActive || !strings.Contains(row.Webhook.DisabledFor, "410") {
		t.Errorf("after 410: %+v %v", row, err)
	}
	if err := p.webhooks.Again(ctx, id, event); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("sent again though it is off: %v", err)
	}
	if who := pgtest.Scan[string](t, p.db, "SELECT actor || ' ' || action FROM audit_log WHERE target_type = 'webhook' ORDER BY id DESC LIMIT 1"); who != "system webhook.disable" {
		t.Errorf("the audit trail says %q", who)
	}
	if _, err := p.webhooks.Update(ctx, tester, id, alert.Settings{IsActive: new(true)}); err != nil {
		t.Fatal(err)
	}
	if err := p.webhooks.Again(ctx, id, uuid.New()); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("an event that it was never told of: %v", err)
	}
}

// Guarantee: no webhook reaches what is not open to all, whatever its name leads to when it is
// connected to, and whatever a receiver redirects to; the networks that are allowed are reached.
func TestClosedNetworks(t *testing.T) {
	t.Parallel()
	p := newPost(t, nil)
	for _, address := range []string{
		"http://127.0.0.1/", "http://10.1.2.3/", "http://192.168.0.1/", "http://172.16.9.9/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
		"http://0.0.0.0/", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[64:ff9b::a00:1]/", "http://[2002:a00:1::]/",
		"http://224.0.0.1/", "http://255.255.255.255/", "http://198.18.0.1/",
	} {
		_, _, err := p.webhooks.Create(ctx, tester, alert.Settings{URL: &address, Events: &[]string{alert.Created}})
		if fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "url") {
			t.Errorf("%s was accepted: %v", address, err)
		}
	}
	// A name that leads here is accepted, since what it means may change, and refused when it is
	// connected to: a lookup between check and connection has nothing to win.
	to := newReceiver(t, nil)
	_, port, _ := net.SplitHostPort(to.Listener.Addr().String())
	id, _ := p.hook("http://localhost:"+port+"/", alert.Standard, alert.Created)
	pgtest.Key(t, p.db, pgtest.KeyRow{})
	if d := p.delivery(id, hasFailed); !strings.Contains(d.LastError, "KEYLEDGER_WEBHOOK_NETWORKS") {
		t.Errorf("%+v", d)
	}
	if len(to.all()) != 0 {
		t.Error("it was reached")
	}
}

// Guarantee: a redirect is a failure and is not followed, not even within what is allowed.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	p := newPost(t, here)
	inner := newReceiver(t, nil)
	to := newReceiver(t, func(_ int, w http.ResponseWriter) {
		w.Header().Set("Location", inner.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	id, _ := p.hook(to.URL, alert.Standard, alert.Created)
	pgtest.Key(t, p.db, pgtest.KeyRow{})
	if d := p.delivery(id, hasFailed); d.LastStatus != 307 {
		t.Errorf("%+v", d)
	}
	if len(inner.all()) != 0 {
		t.Error("the redirect was followed")
	}
}

// Guarantee: a webhook that does not answer delays nobody but itself, and stopping the service
// does not wait for it; what it was being sent is sent again, to the end of its tries.
func TestSlowReceiver(t *testing.T) {
	t.Parallel()
	p := newPost(t, here)
	held := make(chan struct{})
	slow := newReceiver(t, func(n int, _ http.ResponseWriter) {
		if n == 0 {
			<-held
		}
	})
	quick := newReceiver(t, nil)
	slowID, _ := p.hook(slow.URL, alert.Standard, alert.Created)
	quickID, _ := p.hook(quick.URL, alert.Standard, alert.Created)
	pgtest.Key(t, p.db, pgtest.KeyRow{})
	p.delivery(quickID, isDelivered)
	for end := time.Now().Add(10 * time.Second); len(slow.all()) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	begun := time.Now()
	p.stop()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	close(held)
	pgtest.Exec(t, p.db, "UPDATE webhook_deliveries SET next_at = now() WHERE state = 'pending'") // the claim's time is over
	p.start()
	p.delivery(slowID, isDelivered)
	if got := slow.all(); len(got) != 2 || got[0].header.Get("Webhook-Id") != got[1].header.Get("Webhook-Id") {
		t.Errorf("%d tries, or with another id", len(got))
	}
}

// Guarantee: chats get what they take, with names that call nobody; one that answers 200 and says
// in the body that it refused is a failure.
func TestChats(t *testing.T) {
	t.Parallel()
	p := newPost(t, here)
	for format, want := range map[string]string{
		alert.Slack:    `{"text":"keyledger: key \"&lt;!channel&gt; @everyone\" was created."}`,
		alert.Discord:  `{"allowed_mentions":{"parse":[]},"content":"keyledger: key \"<!channel> @everyone\" was created."}`,
		alert.Feishu:   `{"content":{"text":"keyledger: key \"‹!channel› @everyone\" was created."},"msg_type":"text"}`,
		alert.DingTalk: `{"msgtype":"text","text":{"content":"keyledger: key \"<!channel> @everyone\" was created."}}`,
		alert.WeCom:    `{"msgtype":"text","text":{"content":"keyledger: key \"<!channel> @everyone\" was created."}}`,
	} {
		to := newReceiver(t, func(n int, w http.ResponseWriter) {
			refused := map[string]string{alert.Feishu: `{"code":19024,"msg":"Key Words\u0000 Not Found"}`, alert.DingTalk: `{"errcode":310000,"errmsg":"keywords not in content"}`, alert.WeCom: `{"errcode":93000,"errmsg":"invalid webhook url"}`}
			taken := map[string]string{alert.Feishu: `{"code":0,"msg":"success"}`, alert.DingTalk: `{"errcode":0,"errmsg":"ok"}`, alert.WeCom: `{"errcode":0,"errmsg":"ok"}`}
			if said := refused[format]; n == 0 && said != "" {
				_, _ = io.WriteString(w, said)
				return
			}
			_, _ = io.WriteString(w, taken[format])
		})
		id, _ := p.hook(to.URL, format, alert.Created)
		pgtest.Key(t, p.db, pgtest.KeyRow{Name: "<!channel> @everyone"})
		if format == alert.Feishu || format == alert.DingTalk || format == alert.WeCom {
			if d := p.delivery(id, hasFailed); d.LastStatus != 200 || !strings.Contains(d.LastError, "the chat refused it") {
				t.Errorf("%s: %+v", format, d)
			}
			pgtest.Exec(t, p.db, "UPDATE webhook_deliveries SET next_at = now() WHERE webhook_id = $1", id)
			pgtest.Exec(t, p.db, "UPDATE webhooks SET not_before = now() WHERE id = $1", id)
		}
		p.delivery(id, isDelivered)
		if got := string(to.all()[0].body); got != want {
			t.Errorf("%s: %s, want %s", format, got, want)
		}
		if err := p.webhooks.Delete(ctx, tester, id); err != nil {
			t.Fatal(err)
		}
	}
}

// Guarantee: a webhook's secret is in the database only sealed; a rotation of peppers seals it
// anew at the next start, so that the old one can go; without it nothing is sent, and it says so.
func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	old, next := []byte("the old pepper of 32 bytes......"), []byte("the new pepper of 32 bytes......")
	before := alert.NewWebhooks(h.db, box(t, old), here)
	row, secret, err := before.Create(ctx, tester, alert.Settings{URL: new("https://example.com/"), Events: &[]string{alert.Created}})
	if err != nil {
		t.Fatal(err)
	}
	stored := func() string {
		return pgtest.Scan[string](t, h.db, "SELECT encode(secret, 'base64') FROM webhooks WHERE id = $1", row.ID)
	}
	first := stored()
	if strings.Contains(first, strings.TrimSuffix(strings.TrimPrefix(secret, "whsec_"), "=")) {
		t.Error("the secret is in the database")
	}
	if lost, err := alert.NewWebhooks(h.db, box(t, next, old), here).Reseal(ctx); err != nil || lost != nil || stored() == first {
		t.Errorf("a rotation: %v %v", lost, err)
	}
	if lost, err := alert.NewWebhooks(h.db, box(t, next), here).Reseal(ctx); err != nil || lost != nil {
		t.Errorf("without the old pepper: %v %v", lost, err)
	}
	if lost, err := before.Reseal(ctx); err != nil || len(lost) != 1 {
		t.Errorf("without the new pepper: %v %v", lost, err)
	}
}

// Guarantee: a wrong webhook is refused by the name of what is wrong, and nothing is stored.
func TestWrongWebhooks(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	good := []string{alert.Created}
	for name, s := range map[string]alert.Settings{
		"url":       {URL: new("ftp://example.com/"), Events: &good},
		"url ":      {URL: new("https://user:secret@example.com/"), Events: &good},
		"url  ":     {URL: new("https:///path"), Events: &good},
		"url   ":    {URL: new("https://example.com/#part"), Events: &good},
		"url    ":   {URL: new("https://example.com/" + strings.Repeat("x", 2000)), Events: &good},
		"url     ":  {URL: new("https://example.com/a b"), Events: &good},
		"url      ": {Events: &good},
		"events":    {URL: new("https://example.com/")},
		"events ":   {URL: new("https://example.com/"), Events: &[]string{}},
		"events[0]": {URL: new("https://example.com/"), Events: &[]string{"key.nope"}},
		"events[1]": {URL: new("https://example.com/"), Events: &[]string{alert.Created, alert.Created}},
		"format":    {URL: new("https://example.com/"), Events: &good, Format: new("teams")},
	} {
		_, _, err := h.webhooks.Create(ctx, tester, s)
		if fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "; "+strings.TrimSpace(name)+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if rows, err := h.webhooks.List(ctx); err != nil || len(rows) != 0 {
		t.Errorf("stored: %v %v", rows, err)
	}
	if _, err := h.webhooks.Update(ctx, tester, uuid.New(), alert.Settings{}); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("an update of none: %v", err)
	}
}
