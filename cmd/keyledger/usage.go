package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
	"github.com/keyledger/keyledger/client/wire"
)

func usageCommand() *cobra.Command {
	c := &cobra.Command{Use: "usage", Short: "What keys and accounts used: read and record",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN. KEY is an id or an exact name."}
	c.AddCommand(usageShow(), usageAccount(), usageAccounts(), usageRecord(), usageEvents(), usageVoid())
	return c
}

// timeFlag reads a flag that is an instant.
func timeFlag(flag, text string) (*wire.Time, error) {
	t, err := parseTime(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
	}
	return wire.AtOrNil(t), nil
}

func usageShow() *cobra.Command {
	var at string
	var asJSON *bool
	c := remoteCommand("show KEY", "What a key used", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		when, err := timeFlag("as-of", at)
		if err != nil {
			return err
		}
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		resp, err := r.GetKeyUsageWithResponse(c.Context(), id, &client.GetKeyUsageParams{AsOf: when})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printStats(c.OutOrStdout(), resp.JSON200)
	})
	c.Flags().StringVar(&at, "as-of", "", "instant that picks day, week and month (default: now)")
	asJSON = wantsJSON(c)
	return c
}

func usageAccount() *cobra.Command {
	var at string
	var asJSON *bool
	c := remoteCommand("account ID", "What an upstream account served", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		when, err := timeFlag("as-of", at)
		if err != nil {
			return err
		}
		resp, err := r.GetAccountUsageWithResponse(c.Context(), args[0], &client.GetAccountUsageParams{AsOf: when})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printStats(c.OutOrStdout(), resp.JSON200)
	})
	c.Flags().StringVar(&at, "as-of", "", "instant that picks day, week and month (default: now)")
	asJSON = wantsJSON(c)
	return c
}

func printStats(out io.Writer, s *client.Stats) error {
	t := newTable(out, "PERIOD", "REQUESTS", "INPUT", "OUTPUT", "CACHE WRITE", "CACHE READ", "TOKENS", "COST")
	row := func(name string, b client.Block) {
		t.row(name, b.Requests, b.InputTokens, b.OutputTokens, b.CacheCreateTokens, b.CacheReadTokens, b.AllTokens, b.CostUsd)
	}
	row("day", s.Daily)
	row("month", s.Monthly)
	row("all time", s.Total)
	for _, m := range s.Models {
		row("  "+cell(m.Model), client.Block{Requests: m.Requests, InputTokens: m.InputTokens, OutputTokens: m.OutputTokens,
			CacheCreateTokens: m.CacheCreateTokens, CacheReadTokens: m.CacheReadTokens, AllTokens: m.AllTokens, CostUsd: m.CostUsd})
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "week %s · a day on average: %s requests, %s tokens (input and output) · as of %s\n",
		cell(s.Cost.Weekly), s.Averages.DailyRequests, s.Averages.DailyTokens, cell(s.AsOf))
	return err
}

func usageAccounts() *cobra.Command {
	var limit int
	var cursor string
	var asJSON *bool
	c := remoteCommand("accounts", "Every upstream account, busiest today first", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		resp, err := r.ListAccountUsageWithResponse(c.Context(), &client.ListAccountUsageParams{Limit: &limit, Cursor: orNil(cursor)})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		t := newTable(c.OutOrStdout(), "ACCOUNT", "TODAY", "TOKENS TODAY", "TOTAL", "REQUESTS", "TOKENS", "LAST USED")
		for _, a := range resp.JSON200.Data {
			t.row(a.AccountID, a.Daily.CostUsd, a.Daily.AllTokens, a.Total.CostUsd, a.Total.Requests, a.Total.AllTokens, a.LastUsedAt)
		}
		if next := resp.JSON200.NextCursor; next != "" {
			fmt.Fprintln(c.ErrOrStderr(), "there are more: --cursor", next)
		}
		return t.flush()
	})
	c.Flags().IntVar(&limit, "limit", 50, "rows, 1 to 200")
	c.Flags().StringVar(&cursor, "cursor", "", "go on after an earlier page")
	asJSON = wantsJSON(c)
	return c
}

func usageRecord() *cobra.Command {
	var key, account, model, requestID, at, usage, file string
	var estimated bool
	var asJSON *bool
	c := remoteCommand("record", "Record usage: one event by flags, or a request body from a file", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		body, err := recordBody(c, r, file, key, usage, estimated, map[string]string{"accountId": account, "model": model, "requestId": requestID, "occurredAt": at})
		if err != nil {
			return err
		}
		resp, err := r.RecordUsageWithBodyWithResponse(c.Context(), jsonType, bytes.NewReader(body))
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		t := newTable(c.OutOrStdout(), "EVENT", "REQUEST", "STATUS", "MODEL", "COST", "PRICED")
		for _, e := range resp.JSON200.Results {
			t.row(e.EventID, e.RequestID, string(e.Status), e.Model, e.CostUsd, e.Priced)
		}
		return t.flush()
	})
	c.Example = `  keyledger usage record --key alice --model gpt-4o --request-id r1 --usage '{"prompt_tokens": 100, "completion_tokens": 5}'
  keyledger usage record --file events.json`
	f := c.Flags()
	f.StringVar(&key, "key", "", "key that used it")
	f.StringVar(&account, "account", "", "upstream account that served it")
	f.StringVar(&model, "model", "", "model, as the provider named it")
	f.StringVar(&requestID, "request-id", "", "counts once per key (default: a new one)")
	f.StringVar(&at, "at", "", "when it happened, RFC 3339 (default: now)")
	f.StringVar(&usage, "usage", "", "the provider's usage object, as JSON")
	f.BoolVar(&estimated, "estimated", false, "it had to be estimated; the ledger keeps that")
	f.StringVar(&file, "file", "", "a whole request body as JSON; - for standard input")
	asJSON = wantsJSON(c)
	return c
}

func recordBody(c *cobra.Command, r remote, file, key, usage string, estimated bool, texts map[string]string) ([]byte, error) {
	switch file {
	case "":
	case "-":
		return io.ReadAll(c.InOrStdin())
	default:
		return os.ReadFile(file)
	}
	if key == "" || usage == "" {
		return nil, usageError{errors.New("--key and --usage are required, or --file")}
	}
	if !json.Valid([]byte(usage)) {
		return nil, usageError{errors.New("--usage must be a JSON object")}
	}
	id, err := r.find(c.Context(), key)
	if err != nil {
		return nil, err
	}
	body := map[string]any{"keyId": id, "usage": json.RawMessage(usage)}
	if estimated {
		body["estimated"] = true
	}
	for name, text := range texts {
		if text != "" {
			body[name] = text
		}
	}
	if texts["requestId"] == "" {
		body["requestId"] = uuid.NewString() // so that a retry cannot count twice
	}
	return json.Marshal(body)
}

func usageEvents() *cobra.Command {
	var key, account, model, requestID, kind, from, to, cursor string
	var limit int
	var asJSON *bool
	c := remoteCommand("events", "The ledger, newest first", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		params := client.ListEventsParams{AccountID: orNil(account), Model: orNil(model), RequestID: orNil(requestID), Limit: &limit, Cursor: orNil(cursor)}
		var err error
		if params.From, err = timeFlag("from", from); err != nil {
			return err
		}
		if params.To, err = timeFlag("to", to); err != nil {
			return err
		}
		if kind != "" {
			params.Kind = ptr(client.EventKind(kind))
		}
		if key != "" {
			id, err := r.find(c.Context(), key)
			if err != nil {
				return err
			}
			params.KeyID = &id
		}
		resp, err := r.ListEventsWithResponse(c.Context(), &params)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		t := newTable(c.OutOrStdout(), "EVENT", "OCCURRED", "KIND", "KEY", "ACCOUNT", "MODEL", "TOKENS", "COST", "REQUEST")
		for _, e := range resp.JSON200.Data {
			t.row(e.ID, e.OccurredAt, string(e.Kind), e.KeyID, e.AccountID, e.Model,
				e.InputTokens+e.OutputTokens+e.CacheCreateTokens+e.CacheReadTokens, e.CostUsd, e.RequestID)
		}
		if next := resp.JSON200.NextCursor; next != "" {
			fmt.Fprintln(c.ErrOrStderr(), "there are more: --cursor", next)
		}
		return t.flush()
	})
	f := c.Flags()
	f.StringVar(&key, "key", "", "only of this key")
	f.StringVar(&account, "account", "", "only of this upstream account")
	f.StringVar(&model, "model", "", "only of this model (normalised name)")
	f.StringVar(&requestID, "request-id", "", "only with this request id")
	f.StringVar(&kind, "kind", "", "usage, adjustment or opening")
	f.StringVar(&from, "from", "", "earliest occurrence, RFC 3339 or a duration like -24h")
	f.StringVar(&to, "to", "", "first occurrence no longer wanted")
	f.IntVar(&limit, "limit", 50, "rows, 1 to 200")
	f.StringVar(&cursor, "cursor", "", "go on after an earlier page")
	asJSON = wantsJSON(c)
	return c
}

func usageVoid() *cobra.Command {
	var reason string
	c := remoteCommand("void EVENT", "Take a usage event back by an adjustment", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := uuid.Parse(args[0])
		if err != nil {
			return usageError{fmt.Errorf("%q is not an event's id", args[0])}
		}
		if strings.TrimSpace(reason) == "" {
			return usageError{errors.New("--reason is required")}
		}
		resp, err := r.VoidEventWithResponse(c.Context(), id, client.VoidRequest{Reason: reason})
		if err != nil {
			return err
		}
		word := "taken back"
		if resp.JSON200.Status == client.Duplicate {
			word = "had been taken back before"
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: adjustment %s, %s\n", word, resp.JSON200.EventID, cell(resp.JSON200.CostUsd))
		return nil
	})
	c.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	return c
}
