package admit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
)

// Check is one rule that a request was held against.
type Check struct {
	Check  string
	Passed bool
	Detail string
}

// order is the order in which rules are tried, by the code that each refuses with.
var order = []Code{"NOT_FOUND", "DISABLED", "EXPIRED", RequestSettled, ServiceNotPermitted, ModelNotAllowed, ClientNotAllowed, ModelNotPriced,
	ConcurrencyExceeded, RequestsExceeded, TokensExceeded, DailyCostExceeded, WeeklyCostExceeded, MonthlyCostExceeded, TotalCostExceeded}

// Explain tells which rules a request was held against, in order, with their
// numbers, up to and with the one that refused it. The key is as it was read
// beside the decision; the limits' numbers are the decision's own.
func Explain(k db.APIKey, r Request, d Decision) (checks []Check) {
	deciding := d.Code
	if d.Observed != "" {
		deciding = d.Observed
	}
	limits := map[string]Limit{}
	for _, l := range d.Limits {
		limits[l.Name] = l
	}
	for _, code := range order {
		detail := keyDetail(code, k, r, d)
		if l, set := limits[limitByCode[code]]; set {
			detail = limitDetail(l, r, d)
		}
		if detail == "" && code != deciding {
			continue // no such rule on this key
		}
		checks = append(checks, Check{Check: string(code), Passed: code != deciding, Detail: detail})
		if code == deciding {
			break
		}
	}
	return checks
}

// keyDetail tells what a rule on the key itself compared.
func keyDetail(code Code, k db.APIKey, r Request, d Decision) string {
	switch code { //nolint:exhaustive // limits have their own
	case "NOT_FOUND":
		return "the key exists and is not deleted"
	case "DISABLED":
		return fmt.Sprintf("isActive is %v", k.IsActive)
	case "EXPIRED":
		if k.ExpiresAt == nil {
			return "the key never expires"
		}
		return "expiresAt is " + k.ExpiresAt.UTC().Format("2006-01-02T15:04:05.000Z")
	case ServiceNotPermitted:
		return fmt.Sprintf("service %q; permitted: %s", r.Service, strings.Join(k.Permissions, ", "))
	case ModelNotAllowed:
		if !k.EnableModelRestriction {
			return ""
		}
		return fmt.Sprintf("model %q; denied: %s; allowed: %s", r.Model, orNone(k.RestrictedModels), orAny(k.AllowedModels))
	case ModelNotPriced:
		if !d.Unpriced {
			return ""
		}
		return fmt.Sprintf("model %q has no price: on a key with a cost limit it needs an estimate above 0, and has %s USD", r.Model, d.Cost)
	case RequestSettled:
		if r.RequestID == "" {
			return ""
		}
		return fmt.Sprintf("request id %q", r.RequestID)
	case ClientNotAllowed:
		if !k.EnableClientRestriction {
			return ""
		}
		return fmt.Sprintf("user agent %q; allowed clients: %s", r.UserAgent, orAny(k.AllowedClients))
	}
	return ""
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func orAny(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return strings.Join(list, ", ")
}

// limitDetail tells a limit's numbers.
func limitDetail(l Limit, r Request, d Decision) string {
	unit := ""
	if strings.HasSuffix(l.Name, "Cost") {
		unit = " USD"
	}
	text := fmt.Sprintf("limit %s%s, used %s, reserved %s, remaining %s", l.Limit, unit, l.Used, l.Reserved, l.Remaining)
	if l.Name == "tokens" && r.Tokens > 0 {
		text += fmt.Sprintf(", asked for %d", r.Tokens)
	}
	if unit != "" && d.Cost.IsPositive() {
		text += fmt.Sprintf(", asked for %s (%s)", d.Cost, d.CostFrom)
	}
	if l.ResetsAt != nil {
		text += ", resets at " + l.ResetsAt.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if slices.Contains([]string{"concurrency", "requests"}, l.Name) && l.Remaining.Equal(decimal.Zero) {
		text += ", full"
	}
	return text
}
