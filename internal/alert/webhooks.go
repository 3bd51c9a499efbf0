package alert

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/seal"
)

const (
	// MaxWebhooks is how many there may be.
	MaxWebhooks = 100
	maxURL      = 2000 // characters
)

// Webhooks keeps webhooks. It is safe for concurrent use.
type Webhooks struct {
	db    *db.DB
	box   *seal.Box
	guard guard
}

// NewWebhooks makes Webhooks whose secrets a box seals, and which may be in the networks allowed
// beside those that the whole internet reaches.
func NewWebhooks(d *db.DB, box *seal.Box, allowed []netip.Prefix) *Webhooks {
	return &Webhooks{d, box, guard{allowed}}
}

// NewBox makes the box that secrets of webhooks are sealed in.
func NewBox(secrets ...[]byte) (*seal.Box, error) { return seal.New("keyledger webhook 1", secrets...) }

// Settings are what a webhook is made of or changed to; nil: not given.
type Settings struct {
	URL, Format *string
	Events      *[]string
	IsActive    *bool
	NewSecret   bool
}

// Create makes a webhook and returns it with its secret, which is shown this once. Invalid when
// a setting is, Conflict when there are MaxWebhooks.
func (w *Webhooks) Create(ctx context.Context, who db.Actor, s Settings) (row db.Webhook, secret string, err error) {
	if s.Format == nil {
		s.Format = new(Standard)
	}
	wrong := w.check(s)
	if s.URL == nil {
		wrong = append(wrong, field.Error{Field: "url", Message: "is required"})
	}
	if s.Events == nil {
		wrong = append(wrong, field.Error{Field: "events", Message: "is required"})
	}
	if err := fault.OrNil(wrong); err != nil {
		return row, "", err
	}
	secret, sealed := w.newSecret()
	err = w.db.Audited(ctx, who, "create", func(q *db.Queries) (err error) {
		if err := q.WebhookLock(ctx); err != nil {
			return err
		}
		row, err = q.WebhookCreate(ctx, db.WebhookCreateParams{ID: uuid.New(), URL: *s.URL, Format: *s.Format, Events: *s.Events,
			Secret: sealed, CreatedBy: who.Name, RowLimit: MaxWebhooks})
		return err
	})
	if db.Missing(err) {
		return row, "", fault.New(fault.Conflict, fmt.Sprintf("There are %d webhooks, which is the most: delete one first.", MaxWebhooks))
	}
	if err != nil {
		return row, "", fmt.Errorf("making a webhook: %w", err)
	}
	return row, secret, nil
}

// List reads all webhooks, oldest first.
func (w *Webhooks) List(ctx context.Context) ([]db.WebhookListRow, error) {
	rows, err := w.db.WebhookList(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("listing webhooks: %w", err)
	}
	return rows, nil
}

// Show reads one webhook; NotFound when there is none.
func (w *Webhooks) Show(ctx context.Context, id uuid.UUID) (db.WebhookListRow, error) {
	rows, err := w.db.WebhookList(ctx, &id)
	if err != nil {
		return db.WebhookListRow{}, fmt.Errorf("reading a webhook: %w", err)
	}
	if len(rows) == 0 {
		return db.WebhookListRow{}, missing()
	}
	return rows[0], nil
}

// Update changes a webhook, and returns its new secret where one was asked for. Invalid when a
// setting is, NotFound when there is no such webhook.
func (w *Webhooks) Update(ctx context.Context, who db.Actor, id uuid.UUID, s Settings) (secret string, err error) {
	if err := fault.OrNil(w.check(s)); err != nil {
		return "", err
	}
	p := db.WebhookUpdateParams{ID: id, URL: s.URL, Format: s.Format, IsActive: s.IsActive}
	if s.Events != nil {
		p.Events = *s.Events
	}
	if s.NewSecret {
		secret, p.Secret = w.newSecret()
	}
	return secret, w.change(ctx, who, "update", func(q *db.Queries) (int64, error) { return q.WebhookUpdate(ctx, p) })
}

// Delete removes a webhook with what it was told; NotFound when there is none.
func (w *Webhooks) Delete(ctx context.Context, who db.Actor, id uuid.UUID) error {
	return w.change(ctx, who, "delete", func(q *db.Queries) (int64, error) { return q.WebhookDelete(ctx, id) })
}

func (w *Webhooks) change(ctx context.Context, who db.Actor, verb string, fn func(*db.Queries) (int64, error)) error {
	err := w.db.Audited(ctx, who, verb, func(q *db.Queries) error {
		n, err := fn(q)
		if err == nil && n == 0 {
			return missing()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("changing a webhook: %w", err)
	}
	return nil
}

// Test writes an event for a webhook alone, and returns its id; NotFound when there is no such
// webhook, Conflict when it is off.
func (w *Webhooks) Test(ctx context.Context, id uuid.UUID) (event uuid.UUID, err error) {
	if err := w.takesMore(ctx, id); err != nil {
		return event, err
	}
	event, err = w.db.WebhookTest(ctx, id)
	if db.Missing(err) {
		return event, missing()
	}
	if err != nil {
		return event, fmt.Errorf("testing a webhook: %w", err)
	}
	return event, nil
}

// Deliveries reads a page of what a webhook was told, newest first; NotFound when there is no
// such webhook.
func (w *Webhooks) Deliveries(ctx context.Context, p db.DeliveryListParams) ([]db.DeliveryListRow, error) {
	if _, err := w.active(ctx, p.WebhookID); err != nil {
		return nil, err
	}
	rows, err := w.db.DeliveryList(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("reading deliveries: %w", err)
	}
	return rows, nil
}

// Again sends an event to a webhook once more; NotFound when that was never to be told of it,
// Conflict when it is off.
func (w *Webhooks) Again(ctx context.Context, id, event uuid.UUID) error {
	if err := w.takesMore(ctx, id); err != nil {
		return err
	}
	n, err := w.db.DeliveryAgain(ctx, db.DeliveryAgainParams{WebhookID: id, EventID: event})
	if err != nil {
		return fmt.Errorf("asking for a delivery again: %w", err)
	}
	if n == 0 {
		return fault.New(fault.NotFound, "There is no such delivery.")
	}
	return nil
}

// Reseal seals again what an older secret of the configuration has sealed, so that this can be
// taken out, and returns the webhooks whose secret none of them opens.
func (w *Webhooks) Reseal(ctx context.Context) (lost []uuid.UUID, err error) {
	rows, err := w.db.WebhookSecrets(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading secrets of webhooks: %w", err)
	}
	for _, row := range rows {
		plain, old, ok := w.box.Open(row.Secret)
		switch {
		case !ok:
			lost = append(lost, row.ID)
		case old:
			if err := w.db.WebhookReseal(ctx, db.WebhookResealParams{ID: row.ID, Sealed: w.box.Seal(plain), Before: row.Secret}); err != nil {
				return nil, fmt.Errorf("sealing a webhook's secret again: %w", err)
			}
		}
	}
	return lost, nil
}

// secretPrefix begins a secret, as Standard Webhooks has it.
const secretPrefix = "whsec_"

func (w *Webhooks) newSecret() (shown string, sealed []byte) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	return secretPrefix + base64.StdEncoding.EncodeToString(secret), w.box.Seal(secret)
}

func (w *Webhooks) check(s Settings) (wrong []field.Error) {
	if s.URL != nil {
		if message := w.checkURL(*s.URL); message != "" {
			wrong = append(wrong, field.Error{Field: "url", Message: message})
		}
	}
	if s.Format != nil && !slices.Contains(Formats, *s.Format) {
		wrong = append(wrong, field.Error{Field: "format", Message: "must be one of " + strings.Join(Formats, ", ")})
	}
	if s.Events != nil {
		if len(*s.Events) == 0 {
			wrong = append(wrong, field.Error{Field: "events", Message: "must name at least one type of event"})
		}
		for i, name := range *s.Events {
			switch {
			case name == Used && s.Format != nil && *s.Format != Standard && *s.Format != CloudEvents:
				wrong = append(wrong, field.Error{Field: fmt.Sprintf("events[%d]", i), Message: "is for programs: format must be standard or cloudevents"})
			case !slices.Contains(Types, name):
				wrong = append(wrong, field.Error{Field: fmt.Sprintf("events[%d]", i), Message: "must be one of " + strings.Join(Types, ", ")})
			case slices.Contains((*s.Events)[:i], name):
				wrong = append(wrong, field.Error{Field: fmt.Sprintf("events[%d]", i), Message: fmt.Sprintf("repeats %q", name)})
			}
		}
	}
	return wrong
}

// checkURL refuses what can be seen to be wrong before it is connected to.
func (w *Webhooks) checkURL(text string) (message string) {
	const rule = "must be an http or https address without user, password and fragment"
	if n := len(text); n > maxURL || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return rule + fmt.Sprintf(", of at most %d characters without spaces", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return rule
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := w.guard.allows(ip); err != nil {
			return err.Error()
		}
	}
	return ""
}

// active tells whether a webhook is on; NotFound when there is none.
func (w *Webhooks) active(ctx context.Context, id uuid.UUID) (bool, error) {
	on, err := w.db.WebhookActive(ctx, id)
	if db.Missing(err) {
		return false, missing()
	}
	if err != nil {
		return false, fmt.Errorf("asking for a webhook: %w", err)
	}
	return on, nil
}

// takesMore is nil for a webhook that something can be sent to; Conflict when it is off.
func (w *Webhooks) takesMore(ctx context.Context, id uuid.UUID) error {
	on, err := w.active(ctx, id)
	if err == nil && !on {
		return fault.New(fault.Conflict, "The webhook is off: switch it on first.")
	}
	return err
}

func missing() error { return fault.New(fault.NotFound, "There is no such webhook.") }

// retries are the pauses before the tries after the first; the last one goes for all that follow.
var retries = []time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour,
}
