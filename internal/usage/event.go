package usage

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
)

// MaxBatch is the largest number of events in one request.
const MaxBatch = 1000

// MaxAhead is how far in the future an event may lie, for clocks that run fast.
const MaxAhead = 5 * time.Minute

// earliest is the first instant that an event may have: what lies before is a mistake, such
// as a time that was never set.
var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// maxText bounds request ids, account ids and model names, in characters.
const maxText = 200

// UnknownModel is the model of an event that names none.
const UnknownModel = "unknown"

// Report is one usage event as a relay sends it.
type Report struct {
	RequestID   *string        `json:"requestId"`
	AdmissionID *uuid.UUID     `json:"admissionId"`
	KeyID       *uuid.UUID     `json:"keyId"`
	AccountID   *string        `json:"accountId"`
	Model       *string        `json:"model"`
	Usage       jsontext.Value `json:"usage"`
	OccurredAt  *time.Time     `json:"occurredAt"`
	Estimated   bool           `json:"estimated"`
}

// Event is a validated report.
type Event struct {
	ID            uuid.UUID // made before the first attempt, so that no retry doubles it
	KeyID         uuid.UUID // zero: that of the admission
	AdmissionID   uuid.UUID // zero: none
	OwnKey        bool      // KeyID is known to be the key of AdmissionID, and need not be looked up
	AccountID     string    // empty: none
	Model         string    // normalised
	ModelReceived string
	RequestID     string    // empty: none
	OccurredAt    time.Time // zero: at receipt
	Counts        Counts
	Estimated     bool // the caller had to estimate the counts
	Via           Via
	Cost          *decimal.Decimal // USD, told by a sender who counts no tokens; nil: by the catalogue
}

// Via is what brought an event.
type Via string

// What may bring an event beside POST /v1/usage and the relay, which have no name.
const (
	ViaOTLP    Via = "otlp"
	ViaLiteLLM Via = "litellm"
	ViaEnvoy   Via = "envoy"
)

// Check validates a report and names every wrong field, each with path before it.
func Check(r Report, path string) (Event, []field.Error) {
	var wrong []field.Error
	fail := func(name, message string) { wrong = append(wrong, field.Error{Field: path + name, Message: message}) }
	text := func(name string, value *string) string {
		if value == nil {
			return ""
		}
		trimmed := strings.TrimSpace(*value)
		if n := utf8.RuneCountInString(trimmed); n == 0 || n > maxText {
			fail(name, fmt.Sprintf("must have 1 to %d characters, or be left out", maxText))
		}
		if strings.ContainsRune(trimmed, 0) {
			fail(name, "must not contain U+0000")
		}
		return trimmed
	}
	e := Event{
		RequestID:     text("requestId", r.RequestID),
		AccountID:     text("accountId", r.AccountID),
		ModelReceived: text("model", r.Model),
		Estimated:     r.Estimated,
	}
	if e.ModelReceived == "" {
		e.ModelReceived = UnknownModel
	}
	if e.Model = price.Normalize(e.ModelReceived); e.Model == "" {
		e.Model = e.ModelReceived
	}
	if r.AdmissionID != nil {
		e.AdmissionID = *r.AdmissionID
	}
	if r.KeyID != nil {
		e.KeyID = *r.KeyID
	}
	if r.KeyID == nil && r.AdmissionID == nil {
		fail("keyId", "or admissionId is required")
	}
	if r.OccurredAt != nil {
		e.OccurredAt = *r.OccurredAt
		if e.OccurredAt.Before(earliest) || e.OccurredAt.UTC().Year() > 9999 {
			fail("occurredAt", "must be a time since 2000-01-01")
		}
	}
	if len(r.Usage) == 0 {
		fail("usage", "is required")
		return e, wrong
	}
	counts, bad := ReadCounts(r.Usage, path+"usage")
	e.Counts = counts
	return e, append(wrong, bad...)
}

// Tokens are the counts as prices see them.
func (c Counts) Tokens() price.Tokens {
	return price.Tokens{Input: c.Input, Output: c.Output, CacheRead: c.CacheRead, CacheWrite: c.Ephemeral5m(), CacheWrite1h: c.Ephemeral1h}
}

// negated are the counts that take these back.
func (c Counts) negated() Counts {
	return Counts{-c.Input, -c.Output, -c.CacheCreate, -c.CacheRead, -c.Ephemeral1h}
}

// dedupKey is what an event is recorded once by within its key.
func (e Event) dedupKey() string {
	switch {
	case e.RequestID != "":
		return "r:" + e.RequestID
	case e.AdmissionID != uuid.Nil:
		return "a:" + e.AdmissionID.String()
	}
	return "e:" + e.ID.String()
}

// fingerprint tells a repeat from another event under the same request id. Only
// what the sender said counts: not the price, nor a time filled in at receipt.
func (e Event) fingerprint() int64 {
	at := ""
	if !e.OccurredAt.IsZero() {
		at = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	said := fmt.Appendf(nil, "%q %q %q %v %v", e.AccountID, e.ModelReceived, at, e.Counts, e.Estimated)
	if e.Cost != nil {
		said = fmt.Appendf(said, " %s", e.Cost)
	}
	sum := sha256.Sum256(said)
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // a hash: its sign means nothing
}
