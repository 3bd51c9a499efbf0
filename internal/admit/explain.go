package admit

import (
	"fmt"
	"strings"

	"github.com/keyledger/keyledger/db"
)

// Check is one rule that a request was held against.
type Check struct {
	Check  string
	Passed bool
	Detail string
}

// Explain tells which rules a request was held against, in order, with their
// numbers, up to and with the one that refused it. The key is as it was read
// beside the decision; the limits' numbers are the decision's own.
func Explain(k db.APIKey, r Request, d Decision) (checks []Check) {
	deciding := d.Code
	if d.Observed != "" {
		deciding = d.Observed
	}
	set := map[string]Limit{}
	for _, l := range d.Limits {
		set[l.Name] = l
	}
	for _, code := range order {
		detail := keyDetail(code, k, r, d)
		if l, is := limitOf(code); is {
			if state, has := set[l.name]; has {
				detail = limitDetail(l, state, r, d)
			}
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
func limitDetail(l limit, s Limit, r Request, d Decision) string {
	unit := ""
	if l.measure == measureCost {
		unit = " USD"
	}
	text := fmt.Sprintf("limit %s%s, used %s, reserved %s, remaining %s", s.Limit, unit, s.Used, s.Reserved, s.Remaining)
	switch {
	case l.measure == measureTokens && r.Tokens > 0:
		text += fmt.Sprintf(", asked for %d", r.Tokens)
	case l.measure == measureCost && d.Cost.IsPositive():
		text += fmt.Sprintf(", asked for %s (%s)", d.Cost, d.CostFrom)
	}
	if s.ResetsAt != nil {
		text += ", resets at " + s.ResetsAt.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if (l.measure == measureLeases || l.measure == "") && s.Remaining.IsZero() {
		text += ", full"
	}
	return text
}
