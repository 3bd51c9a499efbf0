package alert

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"
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
