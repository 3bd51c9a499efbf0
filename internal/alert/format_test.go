package alert

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Guarantee: whatever an event holds, each format makes a JSON object of it that is valid UTF-8 and
// that chats take: no text is longer than they allow.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"name":"alice","limit":"dailyCost","percent":82,"used":4.1,"most":5,"resetsAt":"2026-11-29T00:00:00+00:00"}`, `{"name":"a","expiresAt":null}`,
		`{"name":"` + "\u202e" + `<!channel> @everyone","changed":["a"]}`, `{"used":1e-30,"most":1e300}`, `{"name":5}`, `[]`, `null`,
	} {
		for kind := range Types {
			f.Add(seed, kind)
		}
	}
	f.Fuzz(func(t *testing.T, data string, kind int) {
		if !json.Valid([]byte(data)) || !utf8.ValidString(data) {
			return // the database holds nothing else
		}
		e := event{kind: append(Types, test, "other")[uint(kind)%uint(len(Types)+2)], at: time.Now(), data: json.RawMessage(data)}
		for _, format := range Formats {
			_, body, err := e.body(format)
			if e.kind == Used && format == CloudEvents { // a batch; and of data that is not ours an error
				var batch []json.RawMessage
				if err == nil && json.Unmarshal(body, &batch) != nil {
					t.Errorf("%q", body)
				}
				continue
			}
			var object map[string]json.RawMessage
			if err != nil || json.Unmarshal(body, &object) != nil || !utf8.Valid(body) {
				t.Errorf("%s: %v %q", format, err, body)
			}
			var text string
			if json.Unmarshal(object["content"], &text) == nil && len(text) > 2000 {
				t.Errorf("%s: %d bytes", format, len(text))
			}
		}
	})
}

// Guarantee: people are told in plain sentences, with what there is to know and nothing that is not.
func TestText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ kind, data, want string }{
		{LimitReached, `{"name":"alice","limit":"dailyCost","threshold":80,"used":4.100000000001,"most":5,"resetsAt":"2026-11-29T00:00:00+00:00"}`,
			`keyledger: key "alice" has reached 80% of its daily cost limit: $4.1 of $5. It starts anew at 2026-11-29 00:00 UTC.`},
		{LimitReached, `{"name":"alice","limit":"requests","threshold":100,"used":10,"most":10,"resetsAt":"2026-11-28T11:00:00+00:00"}`,
			`keyledger: key "alice" has reached 100% of its requests a window: 10 of 10.`},
		{Expiring, `{"name":"bob","days":7,"expiresAt":"2026-12-03T12:00:00Z"}`, `keyledger: key "bob" expires within 7 days: in 5 days, at 2026-12-03 12:00 UTC.`},
		{Expiring, `{"name":"bob","days":1,"expiresAt":"2026-11-28T12:30:00Z"}`, `keyledger: key "bob" expires within a day: in an hour or less, at 2026-11-28 12:30 UTC.`},
		{Expired, `{"name":"bob"}`, `keyledger: key "bob" has expired and is disabled.`},
		{Updated, `{"name":"bob","actor":"ops","changed":["dailyCostLimit","tags"]}`, `keyledger: key "bob" was changed by ops: dailyCostLimit, tags.`},
		{Updated, `{"name":"bob","actor":"ops","changed":["deletedAt"]}`, `keyledger: key "bob" was restored by ops.`},
		{Deleted, `{"keyId":"0197","purged":true}`, `keyledger: key 0197 was deleted.`},
		{Unpriced, `{"model":"new-model","day":"2026-11-28"}`, `keyledger: model "new-model" was used without a price on 2026-11-28, at no cost. Give it one, and price the day again.`},
		{test, `{}`, `keyledger: this webhook works.`},
	} {
		if got := (event{kind: c.kind, at: at, data: json.RawMessage(c.data)}).text(); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.kind, got, c.want)
		}
	}
}

// Guarantee: usage as CloudEvents is a batch that a meter takes: each event has what OpenMeter
// requires, ids of its own that repeats have too, and the numbers of the ledger to the last digit.
func TestMetered(t *testing.T) {
	t.Parallel()
	e := event{id: uuid.New(), kind: Used, at: time.Now(), data: json.RawMessage(`{"events": [
		{"id": "e1", "kind": "usage", "keyId": "k1", "model": "m", "accountId": "a", "requestId": "r", "occurredAt": "2026-11-28T10:00:00.123456+00:00", "requests": 1, "inputTokens": 10, "outputTokens": 2, "cacheCreateTokens": 0, "cacheReadTokens": 4, "costUsd": 0.000000000001, "priced": true},
		{"id": "e2", "kind": "adjustment", "keyId": "k1", "model": "m", "occurredAt": "2026-11-28T10:00:00+00:00", "requests": -1, "inputTokens": -10, "outputTokens": 0, "cacheCreateTokens": 0, "cacheReadTokens": 0, "costUsd": -0.5}]}`)}
	kind, body, err := e.body(CloudEvents)
	if err != nil || kind != "application/cloudevents-batch+json" {
		t.Fatal(kind, err)
	}
	var batch []map[string]any
	if err := json.Unmarshal(body, &batch); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range batch {
		data := one["data"].(map[string]any)
		if one["specversion"] != "1.0" || one["source"] != "keyledger" || one["subject"] != "k1" || one["datacontenttype"] != "application/json" || data["model"] != "m" {
			t.Errorf("%v", one)
		}
		got = append(got, fmt.Sprint(one["id"], " ", one["type"], " ", data["class"], " ", data["tokens"], " ", data["requests"]))
	}
	want := []string{"e1:request llm.request <nil> <nil> 1", "e1:input llm.tokens input 10 <nil>", "e1:output llm.tokens output 2 <nil>", "e1:cache_read llm.tokens cache_read 4 <nil>",
		"e2:request llm.request <nil> <nil> -1", "e2:input llm.tokens input -10 <nil>"}
	if !slices.Equal(got, want) || !strings.Contains(string(body), `"costUsd":0.000000000001`) || !strings.Contains(string(body), `"time":"2026-11-28T10:00:00.123Z"`) {
		t.Errorf("%q\n%s", got, body)
	}
}

// Guarantee: an event of a key's life as a CloudEvent is about that key.
func TestCloudEventSubject(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]any{`{"keyId": "k1", "name": "a"}`: "k1", `{"model": "m", "day": "2026-11-28"}`: "m", `{}`: nil, `{"name": 5}`: nil} {
		_, body, err := event{id: uuid.New(), kind: Created, at: time.Now(), data: json.RawMessage(data)}.body(CloudEvents)
		var one map[string]any
		if err != nil || json.Unmarshal(body, &one) != nil || one["subject"] != want || one["type"] != Created {
			t.Errorf("%s: %v %s", data, err, body)
		}
	}
}
