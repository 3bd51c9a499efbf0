package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// keyFlag is a flag that sets one field of a key.
type keyFlag struct {
	name, field string
	read        func(text string) (any, error)
	help        string
}

const boundTo = "upstream account the key is bound to"

// keyFlags are the fields that can be set from the command line.
var keyFlags = []keyFlag{
	{"name", "name", asText, "display name, 1 to 100 characters"},
	{"description", "description", asText, "free text"},
	{"token-limit", "tokenLimit", asNumber, "tokens per rate-limit window; 0: no limit"},
	{"window", "rateLimitWindow", asMinutes, "rate-limit window, minutes or a duration like 5h; 0: none"},
	{"request-limit", "rateLimitRequests", asNumber, "requests per rate-limit window; 0: no limit"},
	{"concurrency-limit", "concurrencyLimit", asNumber, "requests in flight; 0: no limit"},
	{"daily-cost-limit", "dailyCostLimit", asText, "USD per day; 0: no limit"},
	{"weekly-cost-limit", "weeklyCostLimit", asText, "USD per ISO week; 0: no limit"},
	{"monthly-cost-limit", "monthlyCostLimit", asText, "USD per month; 0: no limit"},
	{"total-cost-limit", "totalCostLimit", asText, "USD in all; 0: no limit"},
	{"permissions", "permissions", asList, "services the key may use, by comma; all: every one"},
	{"restrict-models", "enableModelRestriction", asBool, "true: denied-models and allowed-models are in force"},
	{"denied-models", "restrictedModels", asList, "models denied, by comma"},
	{"allowed-models", "allowedModels", asList, "if not empty, only these models, by comma"},
	{"restrict-clients", "enableClientRestriction", asBool, "true: allowed-clients is in force"},
	{"allowed-clients", "allowedClients", asList, "ids of client programs, by comma"},
	{"claude-account", "claudeAccountId", asText, boundTo},
	{"claude-console-account", "claudeConsoleAccountId", asText, boundTo},
	{"gemini-account", "geminiAccountId", asText, boundTo},
	{"openai-account", "openaiAccountId", asText, boundTo},
	{"bedrock-account", "bedrockAccountId", asText, boundTo},
	{"estimate", "estimatePerRequest", asText, "USD reserved for a request that brings no estimate"},
	{"enforcement", "enforcement", asText, "enforce, or observe: count limits and let through"},
	{"tags", "tags", asList, "labels for reports, by comma"},
	{"alert-at", "alertAt", asNumbers, "percentages of any limit at which webhooks are told, by comma"},
	{"alert-expiry-days", "alertExpiryDays", asNumbers, "days before the end at which webhooks are told, by comma"},
	{"expires", "expiresAt", asTime, "end, as RFC 3339 or a duration from now like 720h"},
	{"active", "isActive", asBool, "false: disabled"},
}

// unset is what a person writes to set a field back to its default.
const unset = "none"

func asText(text string) (any, error)   { return text, nil }
func asNumber(text string) (any, error) { return json.Number(text), nil }

func asBool(text string) (any, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither true nor false", text)
	}
	return b, nil
}

func asList(text string) (any, error) {
	list := []string{}
	for _, item := range strings.Split(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list, nil
}

func asNumbers(text string) (any, error) {
	numbers := []json.Number{}
	items, _ := asList(text)
	for _, item := range items.([]string) {
		numbers = append(numbers, json.Number(item))
	}
	return numbers, nil
}

func asMinutes(text string) (any, error) {
	if d, err := time.ParseDuration(text); err == nil {
		if d%time.Minute != 0 {
			return nil, fmt.Errorf("%s is not a whole number of minutes", text)
		}
		return int64(d / time.Minute), nil
	}
	return asNumber(text)
}

func asTime(text string) (any, error) {
	t, err := parseTime(text)
	if err != nil {
		return nil, err
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

func addKeyFlags(c *cobra.Command) {
	for _, f := range keyFlags {
		c.Flags().String(f.name, "", f.help)
	}
}

// keyBody makes a JSON body of the flags that were given.
func keyBody(c *cobra.Command, more map[string]any) (io.Reader, error) {
	body := map[string]any{}
	for _, f := range keyFlags {
		given := c.Flags().Lookup(f.name)
		if given == nil || !given.Changed {
			continue
		}
		if given.Value.String() == unset {
			body[f.field] = nil
			continue
		}
		value, err := f.read(given.Value.String())
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", f.name, err)}
		}
		body[f.field] = value
	}
	for name, value := range more {
		body[name] = value
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, usageError{fmt.Errorf("a number is not one: %w", err)}
	}
	return bytes.NewReader(raw), nil
}
