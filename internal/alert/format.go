package alert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/field"
)

// The formats of deliveries.
const (
	Standard    = "standard"    // Standard Webhooks: {type, timestamp, data}
	CloudEvents = "cloudevents" // CloudEvents 1.0, structured
	Slack       = "slack"
	Discord     = "discord"
	Feishu      = "feishu" // Lark too
	DingTalk    = "dingtalk"
	WeCom       = "wecom"
)

// Formats are all of them.
var Formats = []string{Standard, CloudEvents, Slack, Discord, Feishu, DingTalk, WeCom}

// event is what a delivery tells of.
type event struct {
	id   uuid.UUID
	kind string
	at   time.Time
	data json.RawMessage
}

// body is what is sent of an event in a format.
func (e event) body(format string) (contentType string, body []byte, err error) {
	const jsonType = "application/json"
	switch format {
	case CloudEvents:
		if e.kind == Used {
			batch, err := e.metered()
			if err != nil {
				return "", nil, err
			}
			body, err = encode(batch)
			return "application/cloudevents-batch+json", body, err
		}
		var about told
		_ = json.Unmarshal(e.data, &about) // what cannot be read stays empty
		one := map[string]any{"specversion": "1.0", "id": e.id, "source": "keyledger", "type": e.kind, "time": e.timestamp(), "datacontenttype": jsonType, "data": e.data}
		if subject := cmp.Or(about.KeyID, about.Model); subject != "" {
			one["subject"] = subject
		}
		body, err = encode(one)
		return "application/cloudevents+json", body, err
	case Slack:
		body, err = encode(map[string]any{"text": slackText.Replace(e.text())})
	case Discord:
		body, err = encode(map[string]any{"content": field.Clip(e.text(), 2000), "allowed_mentions": map[string]any{"parse": []string{}}})
	case Feishu:
		body, err = encode(map[string]any{"msg_type": "text", "content": map[string]any{"text": feishuText.Replace(e.text())}})
	case DingTalk, WeCom:
		body, err = encode(map[string]any{"msgtype": "text", "text": map[string]any{"content": field.Clip(e.text(), 2000)}})
	default:
		body, err = encode(map[string]any{"type": e.kind, "timestamp": e.timestamp(), "data": e.data})
	}
	return jsonType, body, err
}

// cloudEvent is an event that a meter counts, as OpenMeter takes it.
// Source: https://openmeter.io/docs/metering/events/usage-events
type cloudEvent struct {
	SpecVersion string         `json:"specversion"`
	ID          string         `json:"id"`
	Source      string         `json:"source"`
	Type        string         `json:"type"`
	Subject     string         `json:"subject"`
	Time        string         `json:"time"`
	DataType    string         `json:"datacontenttype"`
	Data        map[string]any `json:"data"`
}

// metered are the ledger rows of an event as CloudEvents: one for the request with its cost, and
// one for each kind of token. Their ids are the same in every repeat.
func (e event) metered() ([]cloudEvent, error) {
	var told struct {
		Events []struct {
			ID, Kind, KeyID, Model string
			AccountID, RequestID   string
			OccurredAt             time.Time
			Requests               int64
			InputTokens            int64
			OutputTokens           int64
			CacheCreateTokens      int64
			CacheReadTokens        int64
			CostUSD                json.Number
		} `json:"events"`
	}
	if err := json.Unmarshal(e.data, &told); err != nil {
		return nil, fmt.Errorf("reading usage to be told: %w", err)
	}
	batch := []cloudEvent{}
	for _, u := range told.Events {
		one := func(class string, data map[string]any) {
			data["model"], data["kind"] = u.Model, u.Kind
			if u.AccountID != "" {
				data["accountId"] = u.AccountID
			}
			if u.RequestID != "" {
				data["requestId"] = u.RequestID
			}
			batch = append(batch, cloudEvent{"1.0", u.ID + ":" + class, "keyledger", "llm." + class, u.KeyID, event{at: u.OccurredAt}.timestamp(), "application/json", data})
		}
		one("request", map[string]any{"requests": u.Requests, "costUsd": u.CostUSD})
		for _, c := range []struct {
			class  string
			tokens int64
		}{{"input", u.InputTokens}, {"output", u.OutputTokens}, {"cache_write", u.CacheCreateTokens}, {"cache_read", u.CacheReadTokens}} {
			if c.tokens != 0 {
				one("tokens", map[string]any{"class": c.class, "tokens": c.tokens})
				batch[len(batch)-1].ID = u.ID + ":" + c.class
			}
		}
	}
	return batch, nil
}

func encode(value any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (e event) timestamp() string { return e.at.UTC().Format("2006-01-02T15:04:05.000Z") }

// What chats would take for marks of their own: a name that holds one calls nobody.
var (
	slackText  = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	feishuText = strings.NewReplacer("<", "‹", ">", "›")
)

// refused is what a chat says in the body of an answer whose status says that all is well: most
// of them answer 200 whatever they made of the message.
func refused(format string, body []byte) string {
	var said struct {
		Code    *int   `json:"code"`    // Feishu
		Msg     string `json:"msg"`     // Feishu
		ErrCode *int   `json:"errcode"` // DingTalk, WeCom
		ErrMsg  string `json:"errmsg"`  // DingTalk, WeCom
	}
	if format != Feishu && format != DingTalk && format != WeCom {
		return ""
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return "the answer is not the chat's own"
	}
	code, message := said.ErrCode, said.ErrMsg
	if format == Feishu {
		code, message = said.Code, said.Msg
	}
	if code == nil || *code == 0 {
		return ""
	}
	return field.Clip(fmt.Sprintf("the chat refused it: %d %s", *code, message), 300)
}

// told is the data of any event, as far as texts need it.
type told struct {
	Name      string          `json:"name"`
	KeyID     string          `json:"keyId"`
	Limit     string          `json:"limit"`
	Threshold int             `json:"threshold"`
	Percent   decimal.Decimal `json:"percent"`
	Used      decimal.Decimal `json:"used"`
	Most      decimal.Decimal `json:"most"`
	ResetsAt  *time.Time      `json:"resetsAt"`
	ExpiresAt *time.Time      `json:"expiresAt"`
	Days      int             `json:"days"`
	Actor     string          `json:"actor"`
	Changed   []string        `json:"changed"`
	Model     string          `json:"model"`
	Day       string          `json:"day"`
}

// limitNames are limits as people call them.
var limitNames = map[string]string{
	"requests": "requests a window", "tokens": "tokens a window", "concurrency": "concurrent requests", "dailyCost": "daily cost limit",
	"weeklyCost": "weekly cost limit", "monthlyCost": "monthly cost limit", "totalCost": "total cost limit",
}

// text is an event in one sentence or two, for people.
func (e event) text() string {
	var d told
	_ = json.Unmarshal(e.data, &d) // what cannot be read stays empty
	by := ""
	if d.Actor != "" {
		by = " by " + d.Actor
	}
	name := fmt.Sprintf("%q", d.Name)
	if d.Name == "" {
		name = d.KeyID
	}
	switch e.kind {
	case LimitReached:
		dollar := ""
		if strings.HasSuffix(d.Limit, "Cost") {
			dollar = "$"
		}
		text := fmt.Sprintf("keyledger: key %s has reached %d%% of its %s: %s%s of %s%s.", name, d.Threshold, limitNames[d.Limit], dollar, short(d.Used), dollar, short(d.Most))
		if d.ResetsAt != nil && d.ResetsAt.After(e.at) {
			text += " It starts anew at " + d.ResetsAt.UTC().Format("2006-01-02 15:04 MST") + "."
		}
		return text
	case Expiring:
		end := ""
		if d.ExpiresAt != nil {
			end = ", at " + d.ExpiresAt.UTC().Format("2006-01-02 15:04 MST")
		}
		within := fmt.Sprintf("%d days", d.Days)
		if d.Days == 1 {
			within = "a day"
		}
		return fmt.Sprintf("keyledger: key %s expires within %s: in %s%s.", name, within, left(e.at, d.ExpiresAt), end)
	case Expired:
		return fmt.Sprintf("keyledger: key %s has expired and is disabled.", name)
	case Updated:
		if slices.Contains(d.Changed, "deletedAt") {
			return fmt.Sprintf("keyledger: key %s was restored%s.", name, by)
		}
		return fmt.Sprintf("keyledger: key %s was changed%s: %s.", name, by, strings.Join(d.Changed, ", "))
	case Created, Deleted, Rotated:
		return fmt.Sprintf("keyledger: key %s was %s%s.", name, strings.TrimPrefix(e.kind, "key."), by)
	case Unpriced:
		return fmt.Sprintf("keyledger: model %q was used without a price on %s, at no cost. Give it one, and price the day again.", d.Model, d.Day)
	case test:
		return "keyledger: this webhook works."
	}
	return "keyledger: " + e.kind
}

// short is an amount with at most four decimals, for people.
func short(d decimal.Decimal) string {
	if d.Abs().LessThan(decimal.New(1, -4)) {
		return d.String()
	}
	return d.Truncate(4).String()
}

// left is the time to an end, in days where there is more than one, else in hours.
func left(from time.Time, end *time.Time) string {
	hours := 0.0
	if end != nil {
		hours = math.Max(0, end.Sub(from).Hours())
	}
	if hours >= 48 {
		return fmt.Sprintf("%.0f days", hours/24)
	}
	if hours < 1.5 {
		return "an hour or less"
	}
	return fmt.Sprintf("%.0f hours", hours)
}
