package importer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

// record is a key as it will be here.
type record struct {
	id       uuid.UUID
	name     string
	hash     []byte
	columns  key.Columns
	created  time.Time
	lastUsed time.Time // zero: never
	deleted  bool
}

// What fields of the original become here. Texts that are empty or NaN are left out.
var (
	countFields = []string{"tokenLimit", "rateLimitWindow", "rateLimitRequests", "concurrencyLimit"}
	moneyFields = []string{"dailyCostLimit", "weeklyCostLimit", "monthlyCostLimit", "totalCostLimit"}
	textFields  = []string{"description", "claudeAccountId", "claudeConsoleAccountId", "geminiAccountId", "openaiAccountId", "bedrockAccountId"}
	flagFields  = []string{"enableModelRestriction", "enableClientRestriction", "isActive"}
	listFields  = []string{"restrictedModels", "allowedClients", "tags"}
	// noFields are of no use here, or read on their own.
	noFields = map[string]bool{"userId": true, "weeklyResetDay": true, "weeklyResetHour": true, "activationDays": true, "activationUnit": true, "id": true, "name": true, "apiKey": true, "permissions": true, "createdAt": true, "lastUsedAt": true, "expiresAt": true, "createdBy": true,
		"isDeleted": true, "deletedAt": true, "deletedBy": true, "deletedByType": true, "updatedAt": true, "usage": true, "usageStats": true, "userUsername": true, "icon": true,
		"expirationMode": true, "isActivated": true, "activatedAt": true, "totalUsageCount": true}
)

// defaults are what fields without a counterpart hold in every key.
var defaults = map[string]string{"enableOpenAIResponsesCodexAdaptation": "true", "enableOpenAIResponsesPayloadRules": "false", "openaiResponsesPayloadRules": "[]",
	"serviceRates": "{}", "expirationMode": "fixed"}

// read turns the original's record into a key. unlike tells of what is not as it was there;
// wrong, why the key cannot be brought.
func (k Key) read(rules key.Rules) (r record, unlike []string, wrong string) {
	f := map[string]string{}
	for name, text := range k.Fields {
		if text = strings.TrimSpace(text); text != "" && text != "NaN" && text != "null" && text != "undefined" {
			f[name] = text
		}
	}
	var err error
	if r.hash, err = hex.DecodeString(f["apiKey"]); err != nil || len(r.hash) != sha256.Size {
		r.hash = nil
		return r, nil, "its apiKey is no SHA-256 in hex: a sanitized export, or a key from before the original hashed them"
	}
	if r.id, err = uuid.Parse(f["id"]); err != nil {
		r.id = uuid.NewSHA1(namespace, []byte("key "+f["id"]))
	}
	r.created, _ = scriptTime(f["createdAt"])   // zero: it cannot be read
	r.lastUsed, _ = scriptTime(f["lastUsedAt"]) // zero: never
	r.deleted = f["isDeleted"] == "true"
	note := func(format string, args ...any) { unlike = append(unlike, fmt.Sprintf(format, args...)) }
	if f["name"] == "" {
		f["name"] = "key " + f["id"]
	}
	f["name"], f["description"] = shorten(f["name"], key.MaxName, "name", note), shorten(f["description"], key.MaxDescription, "description", note)
	object := field.Object{"name": quote(f["name"])}
	for _, name := range countFields {
		n := number(f[name])
		if name == "rateLimitWindow" && n > key.MaxWindow {
			note("rateLimitWindow of %d minutes is shortened to %d", n, key.MaxWindow)
			n = key.MaxWindow
		}
		object[name] = jsontext.Value(fmt.Sprint(n))
	}
	for _, name := range moneyFields {
		if d, ok := amount(f[name]); ok {
			object[name] = jsontext.Value(d.String())
		}
	}
	for _, name := range textFields {
		if f[name] != "" {
			object[name] = quote(f[name])
		}
	}
	for _, name := range flagFields {
		if f[name] != "" {
			object[name] = jsontext.Value(fmt.Sprint(f[name] == "true"))
		}
	}
	if k.Barred != "" && f["isActive"] == "true" {
		object["isActive"] = jsontext.Value("false")
		note("%s: it comes disabled", k.Barred)
	}
	for _, name := range listFields {
		list := texts(f[name])
		if name == "tags" {
			list = tags(list, f, note)
		}
		if list = distinct(list); list != nil {
			object[name] = quoteAll(list)
		}
	}
	if list := distinct(texts(f["permissions"])); list != nil {
		object["permissions"] = quoteAll(list)
	}
	if f["expiresAt"] != "" {
		if at, ok := scriptTime(f["expiresAt"]); ok {
			object["expiresAt"] = quote(at.Format(time.RFC3339Nano))
		} else {
			note("expiresAt %q is no time, and never comes there: it does not expire", f["expiresAt"])
		}
	}
	columns, bad := key.ForCreate(object, rules, true)
	for _, b := range bad {
		wrong += fmt.Sprintf("%s %s; ", b.Field, b.Message)
	}
	r.columns = columns
	r.name, _ = columns["name"].(string)
	return r, append(unlike, noCounterpart(f)...), strings.TrimSuffix(wrong, "; ")
}

// shorten cuts a text to so many characters.
func shorten(text string, most int, name string, note func(string, ...any)) string {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\x00", ""))
	if r := []rune(text); len(r) > most {
		note("%s is cut to %d characters", name, most)
		return strings.TrimSpace(string(r[:most]))
	}
	return text
}

// tags are a key's tags within the bounds here, with one for its owner.
func tags(list []string, f map[string]string, note func(string, ...any)) (kept []string) {
	owner := f["userUsername"]
	if owner == "" && f["createdBy"] != "admin" {
		owner = f["createdBy"]
	}
	if owner != "" {
		list = append([]string{"owner:" + owner}, list...)
	}
	for _, tag := range list {
		if tag = shorten(tag, key.MaxTag, "a tag", note); tag != "" {
			kept = append(kept, tag)
		}
	}
	if kept = distinct(kept); len(kept) > key.MaxTags {
		note("%d tags beyond the first %d are left out", len(kept)-key.MaxTags, key.MaxTags)
		kept = kept[:key.MaxTags]
	}
	return kept
}

// distinct is a list without repeats and empty texts; nil: nothing is left.
func distinct(list []string) (kept []string) {
	for _, one := range list {
		if one = strings.TrimSpace(one); one != "" && !slices.Contains(kept, one) {
			kept = append(kept, one)
		}
	}
	return kept
}

// scriptTime reads a time as JavaScript's Date does: a date alone is midnight in UTC, and a
// number counts milliseconds since 1970.
func scriptTime(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), at.Year() >= 1 && at.Year() <= 9999
		}
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && len(text) > 10 {
		at := time.UnixMilli(ms).UTC()
		return at, at.Year() >= 1 && at.Year() <= 9999
	}
	return time.Time{}, false
}

// noCounterpart are fields that limit something and mean nothing here.
func noCounterpart(f map[string]string) (unlike []string) {
	known := map[string]bool{}
	for _, names := range [][]string{countFields, moneyFields, textFields, flagFields, listFields} {
		for _, name := range names {
			known[name] = true
		}
	}
	for _, name := range ordered(f) {
		empty := f[name] == "0" || f[name] == "false" || f[name] == "[]" || f[name] == "{}" || f[name] == defaults[name]
		if !known[name] && !noFields[name] && !empty {
			unlike = append(unlike, fmt.Sprintf("%s (%.40s) has no counterpart here", name, f[name]))
		}
	}
	if f["expirationMode"] == "activation" && f["expiresAt"] == "" {
		unlike = append(unlike, "it expires some days after its first use: set expiresAt by hand")
	}
	return unlike
}

// texts reads a list: as JSON, by comma, or one text. An empty one is nil.
func texts(text string) (list []string) {
	if text == "" || text == "[]" {
		return nil
	}
	if json.Unmarshal([]byte(text), &list) == nil {
		return list
	}
	for one := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(one))
	}
	return list
}

func quote(text string) jsontext.Value {
	raw, err := jsontext.AppendQuote(nil, strings.ToValidUTF8(text, "\uFFFD"))
	if err != nil {
		return jsontext.Value(`""`) // valid UTF-8 can always be quoted
	}
	return raw
}

func quoteAll(list []string) jsontext.Value {
	parts := make([]string, len(list))
	for i, one := range list {
		parts[i] = string(quote(one))
	}
	return jsontext.Value("[" + strings.Join(parts, ",") + "]")
}
