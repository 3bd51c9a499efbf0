package importer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

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
	noFields = map[string]bool{"id": true, "name": true, "apiKey": true, "permissions": true, "createdAt": true, "lastUsedAt": true, "expiresAt": true, "createdBy": true,
		"isDeleted": true, "deletedAt": true, "deletedBy": true, "deletedByType": true, "updatedAt": true, "usage": true, "userId": true, "userUsername": true, "icon": true,
		"expirationMode": true, "isActivated": true, "activatedAt": true, "totalUsageCount": true}
)

// read turns the original's record into a key. unlike tells of limits that have no
// counterpart; wrong, why the key cannot be brought.
func (k Key) read(rules key.Rules) (r record, unlike []string, wrong string) {
	f := map[string]string{}
	for name, text := range k.Fields {
		if text = strings.TrimSpace(text); text != "" && text != "NaN" && text != "null" && text != "undefined" {
			f[name] = text
		}
	}
	var err error
	if r.hash, err = hex.DecodeString(f["apiKey"]); err != nil || len(r.hash) != sha256.Size {
		return r, nil, "its apiKey is no SHA-256 in hex: a sanitized export, or a key from before the original hashed them"
	}
	if r.id, err = uuid.Parse(f["id"]); err != nil {
		r.id = uuid.NewSHA1(namespace, []byte("key "+f["id"]))
	}
	if r.created, err = time.Parse(time.RFC3339, f["createdAt"]); err != nil {
		r.created = time.Time{}
	}
	if at, err := time.Parse(time.RFC3339, f["lastUsedAt"]); err == nil {
		r.lastUsed = at
	}
	r.deleted = f["isDeleted"] == "true"
	object := key.Object{"name": quote(f["name"])}
	if f["name"] == "" {
		object["name"] = quote("key " + f["id"])
	}
	for _, name := range countFields {
		object[name] = jsontext.Value(fmt.Sprint(number(f[name])))
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
	for _, name := range listFields {
		if list := texts(f[name]); list != nil {
			object[name] = quoteAll(list)
		}
	}
	if list := texts(f["permissions"]); list != nil {
		object["permissions"] = quoteAll(list)
	}
	if f["expiresAt"] != "" {
		object["expiresAt"] = quote(f["expiresAt"])
	}
	columns, bad := key.ForCreate(object, rules, true)
	for _, b := range bad {
		wrong += fmt.Sprintf("%s %s; ", b.Field, b.Message)
	}
	r.columns = columns
	r.name, _ = columns["name"].(string)
	return r, noCounterpart(f), strings.TrimSuffix(wrong, "; ")
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
		empty := f[name] == "0" || f[name] == "false" || f[name] == "[]" || f[name] == "{}"
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
