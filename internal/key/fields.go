// Package key is what a key is: its fields and their rules, how its secret is
// made and hashed, and what can be told from its times. It knows neither the
// database nor HTTP.
package key

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/internal/field"
)

// Rules are what validation needs to know of the service's configuration.
type Rules struct {
	DefaultTokenLimit int64    // tokenLimit of a key that names none
	Services          []string // what permissions may name besides "all"
	Clients           []string // ids that allowedClients may name
	// Comparable and Denied turn an entry of allowedModels and of restrictedModels into
	// the form that models are compared with.
	Comparable, Denied func(model string) string
}

// Columns are validated fields by the api_keys column they go to.
type Columns map[string]any

// Bounds of fields that imports must keep within too.
const (
	MaxName        = 100 // characters
	MaxDescription = 500 // characters
	MaxTags        = 50
	MaxTag         = 50            // characters
	MaxWindow      = 366 * 24 * 60 // minutes: a window longer than a year is a mistake
)

// Bounds of fields.
const (
	maxAccountID = 200
	maxModelName = 200
	maxModels    = 1000
	maxAlerts    = 10
)

// member is one row of the table below: where a JSON member goes and what it must be.
type member struct {
	column string
	// zero is the value of a member that is null, and of one that is left out
	// of a new key.
	zero func(Rules) any
	// parse reads a value that is not null; message says which rule it breaks.
	parse func(raw jsontext.Value, r Rules) (value any, message string)
}

// table is every field that a caller may set: data, so that create, update,
// their batches and the rules' documentation cannot drift apart.
var table = map[string]member{
	"name":                    {"name", nil, text(1, MaxName)},
	"description":             {"description", always(""), text(0, MaxDescription)},
	"tokenLimit":              {"token_limit", always(int64(0)), count(math.MaxInt64)},
	"rateLimitWindow":         {"rate_limit_window", always(int64(0)), count(MaxWindow)},
	"rateLimitRequests":       {"rate_limit_requests", always(int64(0)), count(math.MaxInt64)},
	"concurrencyLimit":        {"concurrency_limit", always(int64(0)), count(math.MaxInt32)},
	"dailyCostLimit":          {"daily_cost_limit", always(json.Number("0")), usd},
	"weeklyCostLimit":         {"weekly_cost_limit", always(json.Number("0")), usd},
	"monthlyCostLimit":        {"monthly_cost_limit", always(json.Number("0")), usd},
	"totalCostLimit":          {"total_cost_limit", always(json.Number("0")), usd},
	"permissions":             {"permissions", always([]string{"all"}), permissions},
	"enableModelRestriction":  {"enable_model_restriction", always(false), boolean},
	"restrictedModels":        {"restricted_models", always([]string{}), list(maxModels, maxModelName)},
	"allowedModels":           {"allowed_models", always([]string{}), list(maxModels, maxModelName)},
	"enableClientRestriction": {"enable_client_restriction", always(false), boolean},
	"allowedClients":          {"allowed_clients", always([]string{}), clients},
	"claudeAccountId":         {"claude_account_id", always(nil), text(1, maxAccountID)},
	"claudeConsoleAccountId":  {"claude_console_account_id", always(nil), text(1, maxAccountID)},
	"geminiAccountId":         {"gemini_account_id", always(nil), text(1, maxAccountID)},
	"openaiAccountId":         {"openai_account_id", always(nil), text(1, maxAccountID)},
	"bedrockAccountId":        {"bedrock_account_id", always(nil), text(1, maxAccountID)},
	"estimatePerRequest":      {"estimate_per_request", always(nil), usd},
	"enforcement":             {"enforcement", always("enforce"), enforcement},
	"tags":                    {"tags", always([]string{}), list(MaxTags, MaxTag)},
	"expiresAt":               {"expires_at", always(nil), instant},
	"isActive":                {"is_active", always(true), boolean},
	"alertAt":                 {"alert_at", always([]int64{80, 100}), numbers(maxAlerts, 100)},
	"alertExpiryDays":         {"alert_expiry_days", always([]int64{7, 1}), numbers(maxAlerts, 365)},
}

// ForCreate validates the fields of a new key and fills in the defaults. Every
// wrong field is named. The name is not part of it when named is false (a batch
// makes names of its own).
func ForCreate(o field.Object, r Rules, named bool) (Columns, []field.Error) {
	columns, wrong := ForUpdate(o, r)
	for name, m := range table {
		_, given := o[name]
		switch {
		case name == "name" && !named:
			if given {
				wrong = append(wrong, field.Error{Field: name, Message: "is not a field of a batch: use baseName"})
			}
		case given:
		case name == "name":
			wrong = append(wrong, field.Error{Field: name, Message: "is required"})
		case name == "tokenLimit":
			columns[m.column] = r.DefaultTokenLimit
		default:
			columns[m.column] = m.zero(r)
		}
	}
	for _, list := range modelLists {
		if _, set := columns[list.compared]; !set {
			columns[list.compared] = columns[list.entered] // the default: none
		}
	}
	return columns, ordered(wrong)
}

// ForUpdate validates the fields that are named and leaves the others alone;
// null sets a field back to its default. Every wrong field is named.
func ForUpdate(o field.Object, r Rules) (Columns, []field.Error) {
	columns := Columns{}
	var wrong []field.Error
	for name, raw := range o {
		f, known := table[name]
		if !known {
			wrong = append(wrong, field.Error{Field: name, Message: "is not a known field"})
			continue
		}
		if raw.Kind() == 'n' {
			if f.zero == nil {
				wrong = append(wrong, field.Error{Field: name, Message: "must not be null"})
				continue
			}
			columns[f.column] = f.zero(r)
			continue
		}
		value, message := f.parse(raw, r)
		if message != "" {
			wrong = append(wrong, field.Error{Field: name, Message: message})
			continue
		}
		columns[f.column] = value
	}
	for _, list := range modelLists {
		if names, ok := columns[list.entered].([]string); ok {
			columns[list.compared] = each(names, list.form(r))
		}
	}
	return columns, ordered(wrong)
}

// modelLists are the columns of model lists as entered, and as compared.
var modelLists = []struct {
	entered, compared string
	form              func(Rules) func(string) string
}{
	{"restricted_models", "restricted_model_names", func(r Rules) func(string) string { return r.Denied }},
	{"allowed_models", "allowed_model_names", func(r Rules) func(string) string { return r.Comparable }},
}

func each(names []string, do func(string) string) []string {
	done := make([]string, len(names))
	for i, name := range names {
		done[i] = do(name)
	}
	return done
}

// JSON is the form that the KeyCreate and KeyUpdate queries take.
func (c Columns) JSON() (json.RawMessage, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding key fields: %w", err)
	}
	return raw, nil
}

func ordered(wrong []field.Error) []field.Error {
	sort.Slice(wrong, func(i, j int) bool { return wrong[i].Field < wrong[j].Field })
	return wrong
}

func always(value any) func(Rules) any { return func(Rules) any { return value } }

func text(low, high int) func(jsontext.Value, Rules) (any, string) {
	return func(raw jsontext.Value, _ Rules) (any, string) {
		value, message := field.Text(raw, low, high)
		return value, message
	}
}

func count(high int64) func(jsontext.Value, Rules) (any, string) {
	return func(raw jsontext.Value, _ Rules) (any, string) {
		value, message := field.Integer(raw, high)
		return value, message
	}
}

func boolean(raw jsontext.Value, _ Rules) (any, string) {
	if kind := raw.Kind(); kind != jsontext.KindTrue && kind != jsontext.KindFalse {
		return nil, "must be true or false"
	}
	return raw.Kind() == jsontext.KindTrue, ""
}

func usd(raw jsontext.Value, _ Rules) (any, string) {
	amount, message := field.Money(raw)
	return json.Number(amount.String()), message
}

func list(most, high int) func(jsontext.Value, Rules) (any, string) {
	return func(raw jsontext.Value, _ Rules) (any, string) {
		values, message := field.Texts(raw, most, high)
		return values, message
	}
}

// numbers is a list of at most so many whole numbers from 1 to high, each once.
func numbers(most int, high int64) func(jsontext.Value, Rules) (any, string) {
	return func(raw jsontext.Value, _ Rules) (any, string) {
		values, message := field.Integers(raw, most, high)
		return values, message
	}
}

func permissions(raw jsontext.Value, r Rules) (any, string) {
	if raw.Kind() == '"' { // a single string is accepted as a one-element list
		raw = jsontext.Value("[" + string(raw) + "]")
	}
	values, message := field.Texts(raw, len(r.Services)+1, maxModelName)
	if message != "" {
		return nil, message
	}
	if len(values) == 0 {
		return nil, "must name at least one service, or all"
	}
	for _, v := range values {
		if v != "all" && !slices.Contains(r.Services, v) {
			return nil, fmt.Sprintf("%q is not a service: use all, or any of %s (KEYLEDGER_SERVICES)", v, strings.Join(r.Services, ", "))
		}
	}
	if slices.Contains(values, "all") && len(values) > 1 {
		return nil, "must not name other services beside all"
	}
	return values, ""
}

func clients(raw jsontext.Value, r Rules) (any, string) {
	values, message := field.Texts(raw, len(r.Clients), maxModelName)
	for _, v := range values {
		if !slices.Contains(r.Clients, v) {
			return nil, fmt.Sprintf("%q is not a known client: use any of %s (KEYLEDGER_CLIENTS_FILE)", v, strings.Join(r.Clients, ", "))
		}
	}
	return values, message
}

func enforcement(raw jsontext.Value, _ Rules) (any, string) {
	value, message := field.Text(raw, 1, MaxName)
	if message == "" && value != "enforce" && value != "observe" {
		message = "must be enforce or observe"
	}
	return value, message
}

func instant(raw jsontext.Value, _ Rules) (any, string) {
	const rule = "must be an RFC 3339 time like 2026-12-31T23:59:59Z"
	written, message := field.Text(raw, 1, MaxName)
	if message != "" {
		return nil, rule
	}
	t, err := time.Parse(time.RFC3339Nano, written)
	if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
		return nil, rule
	}
	return t.UTC().Format(time.RFC3339Nano), ""
}
