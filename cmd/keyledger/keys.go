package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
)

const jsonType = "application/json"

func keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Create, list and change keys",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN. KEY is an id or an exact name.\nThe value \"none\" sets a field back to its default."}
	c.AddCommand(keysCreate(), keysList(), keysShow(), keysUpdate(), keysRotate(), keysDelete(), keysRestore(), keysExplain())
	return c
}

func keysCreate() *cobra.Command {
	var asJSON *bool
	var count int
	c := remoteCommand("create", "Create a key, or with --count many", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		if c.Flags().Changed("count") {
			return createMany(c, r, count, *asJSON)
		}
		body, err := keyBody(c, nil)
		if err != nil {
			return err
		}
		resp, err := r.CreateKeyWithBodyWithResponse(c.Context(), nil, jsonType, body)
		if err != nil {
			return err
		}
		made := resp.JSON201
		if made == nil {
			made = resp.JSON200
		}
		return printIssued(c, made, resp.Body, *asJSON)
	})
	c.Example = "  keyledger keys create --name alice --daily-cost-limit 5 --tags team-a --expires 720h"
	addKeyFlags(c)
	c.Flags().IntVar(&count, "count", 0, "create this many, named NAME_1 to NAME_n (at most 500)")
	asJSON = wantsJSON(c)
	return c
}

func createMany(c *cobra.Command, r remote, count int, asJSON bool) error {
	base, err := c.Flags().GetString("name")
	if err != nil {
		return err
	}
	c.Flags().Lookup("name").Changed = false
	body, err := keyBody(c, map[string]any{"baseName": base, "count": count})
	if err != nil {
		return err
	}
	resp, err := r.CreateKeysWithBodyWithResponse(c.Context(), jsonType, body)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), resp.Body)
	}
	t := newTable(c.OutOrStdout(), "ID", "NAME", "SECRET (shown this once)")
	for _, k := range resp.JSON201.Data {
		t.row(k.ID, k.Name, k.APIKey)
	}
	return t.flush()
}

// printIssued prints a new secret alone on standard output, so that a script can
// take it, and what it belongs to beside it.
func printIssued(c *cobra.Command, k *client.IssuedKey, raw []byte, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), raw)
	}
	if k.Replayed {
		return fmt.Errorf("an earlier try had already done it for key %q (id %s), and its secret can not be shown again: run keyledger keys rotate %s", k.Name, k.ID, k.ID)
	}
	fmt.Fprintf(c.ErrOrStderr(), "key %q, id %s. Its secret is shown this once:\n", k.Name, k.ID)
	fmt.Fprintln(c.OutOrStdout(), *k.APIKey)
	return nil
}

func keysList() *cobra.Command {
	var q, tag, status, permission, account, sort, cursor string
	var limit int
	var all bool
	var asJSON *bool
	c := remoteCommand("list", "List keys with their numbers", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		params := client.ListKeysParams{Q: orNil(q), Tag: orNil(tag), Permission: orNil(permission), AccountID: orNil(account),
			Limit: &limit, Cursor: orNil(cursor), Sort: ptr(client.ListKeysParamsSort(sort))}
		if status != "" {
			params.Status = ptr(client.KeyStatus(status))
		}
		t := newTable(c.OutOrStdout())
		if !*asJSON {
			t.row("ID", "NAME", "STATUS", "HINT", "IN FLIGHT", "TODAY", "TOTAL", "REQUESTS", "TOKENS", "LAST USED", "EXPIRES")
		}
		for {
			page, err := r.ListKeysWithResponse(c.Context(), &params)
			if err != nil {
				return err
			}
			if *asJSON {
				if err := printJSON(c.OutOrStdout(), page.Body); err != nil {
					return err
				}
			} else {
				for _, k := range page.JSON200.Data {
					t.row(k.ID, k.Name, string(k.Status), k.KeyHint, k.CurrentConcurrency, k.DailyCost, k.TotalCost, k.Usage.Total.Requests, k.Usage.Total.AllTokens, k.LastUsedAt, k.ExpiresAt)
				}
			}
			next := page.JSON200.NextCursor
			if next != "" && !all {
				fmt.Fprintf(c.ErrOrStderr(), "there are more: --all, or --cursor %s\n", next)
			}
			if next == "" || !all {
				return t.flush()
			}
			params.Cursor = &next
		}
	})
	f := c.Flags()
	f.StringVar(&q, "q", "", "part of the name, description, hint or id")
	f.StringVar(&tag, "tag", "", "only keys with this tag")
	f.StringVar(&status, "status", "", "active, disabled, expired or deleted")
	f.StringVar(&permission, "permission", "", "only keys that may use this service")
	f.StringVar(&account, "account", "", "only keys bound to this upstream account")
	f.StringVar(&sort, "sort", "-createdAt", "name, createdAt, lastUsedAt, expiresAt, cost or requests; - before it descends")
	f.IntVar(&limit, "limit", 50, "rows a page, 1 to 200")
	f.StringVar(&cursor, "cursor", "", "go on after an earlier page")
	f.BoolVar(&all, "all", false, "every page")
	asJSON = wantsJSON(c)
	return c
}

func keysShow() *cobra.Command {
	var asJSON *bool
	c := remoteCommand("show KEY", "Show one key", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		resp, err := r.GetKeyWithResponse(c.Context(), id)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printKey(c.OutOrStdout(), resp.JSON200)
	})
	asJSON = wantsJSON(c)
	return c
}

// printKey prints what a person asks of a key: settings that are set, and use.
func printKey(out io.Writer, k *client.KeyDetails) error {
	t := newTable(out)
	t.row("id", k.ID)
	t.row("name", k.Name)
	t.row("status", string(k.Status))
	t.row("hint", k.KeyHint)
	t.row("description", k.Description)
	t.row("permissions", k.Permissions)
	t.row("tags", k.Tags)
	t.row("enforcement", string(k.Enforcement))
	if k.RateLimitWindow > 0 {
		t.row("window", fmt.Sprintf("%d minutes, %s requests, %s tokens", k.RateLimitWindow, limit(k.RateLimitRequests), limit(k.TokenLimit)))
	}
	t.row("concurrency limit", limit(k.ConcurrencyLimit))
	for _, l := range []struct {
		name  string
		limit client.USD
	}{{"daily cost limit", k.DailyCostLimit}, {"weekly cost limit", k.WeeklyCostLimit}, {"monthly cost limit", k.MonthlyCostLimit}, {"total cost limit", k.TotalCostLimit}} {
		if !l.limit.IsZero() {
			t.row(l.name, l.limit)
		}
	}
	if k.EnableModelRestriction {
		t.row("models denied", k.RestrictedModels)
		t.row("models allowed", k.AllowedModels)
	}
	if k.EnableClientRestriction {
		t.row("clients allowed", k.AllowedClients)
	}
	for _, a := range []struct {
		name string
		id   *string
	}{{"claude account", k.ClaudeAccountID}, {"claude console account", k.ClaudeConsoleAccountID}, {"gemini account", k.GeminiAccountID}, {"openai account", k.OpenaiAccountID}, {"bedrock account", k.BedrockAccountID}} {
		if a.id != nil {
			t.row(a.name, *a.id)
		}
	}
	t.row("created", fmt.Sprintf("%s by %s", cell(k.CreatedAt), cell(k.CreatedBy)))
	t.row("expires", k.ExpiresAt)
	t.row("last used", k.LastUsedAt)
	if k.WindowStartTime != nil {
		t.row("open window", fmt.Sprintf("%d requests, %d tokens, %d s left", k.CurrentWindowRequests, k.CurrentWindowTokens, *k.WindowRemainingSeconds))
	}
	t.row("in flight", fmt.Sprintf("%d requests, %d tokens and $%s reserved", k.CurrentConcurrency, k.ReservedTokens, k.ReservedCost.String()))
	t.row("today", usageLine(k.Usage.Daily))
	t.row("this month", usageLine(k.Usage.Monthly))
	t.row("in all", usageLine(k.Usage.Total))
	t.row("version", k.Version)
	return t.flush()
}

func limit(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return fmt.Sprint(n)
}

func usageLine(b client.Block) string {
	return fmt.Sprintf("%d requests, %d tokens, $%s", b.Requests, b.AllTokens, b.CostUsd.String())
}

func keysUpdate() *cobra.Command {
	var asJSON *bool
	var version int64
	c := remoteCommand("update KEY", "Change the fields that are named", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		body, err := keyBody(c, nil)
		if err != nil {
			return err
		}
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		params := &client.UpdateKeyParams{}
		if version > 0 {
			params.IfMatch = ptr(fmt.Sprint(version))
		}
		resp, err := r.UpdateKeyWithBodyWithResponse(c.Context(), id, params, jsonType, body)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printKey(c.OutOrStdout(), resp.JSON200)
	})
	addKeyFlags(c)
	c.Flags().Int64Var(&version, "if-version", 0, "only if the key is at this version")
	asJSON = wantsJSON(c)
	return c
}

func keysRotate() *cobra.Command {
	var grace time.Duration
	var asJSON *bool
	c := remoteCommand("rotate KEY", "Give a key a new secret", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		seconds := int32(grace.Seconds())
		resp, err := r.RotateKeyWithResponse(c.Context(), id, nil, client.RotateRequest{GraceSeconds: &seconds})
		if err != nil {
			return err
		}
		return printIssued(c, resp.JSON200, resp.Body, *asJSON)
	})
	c.Flags().DurationVar(&grace, "grace", 0, "how long the old secret still works, at most 720h")
	asJSON = wantsJSON(c)
	return c
}

func keysDelete() *cobra.Command {
	var purge, yes bool
	c := remoteCommand("delete KEY…", "Delete keys; restore brings them back", cobra.MinimumNArgs(1), func(c *cobra.Command, r remote, args []string) error {
		if purge && !yes {
			return usageError{errors.New("--purge erases for good: add --yes")}
		}
		ids := make([]uuid.UUID, len(args))
		for i, arg := range args {
			id, err := r.find(c.Context(), arg)
			if err != nil {
				return err
			}
			ids[i] = id
		}
		if !purge {
			_, err := r.DeleteKeysWithResponse(c.Context(), client.KeyBatchDelete{Ids: ids})
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), "deleted", strings.Join(args, ", "))
			}
			return err
		}
		for i, id := range ids {
			if _, err := r.DeleteKeyWithResponse(c.Context(), id, &client.DeleteKeyParams{Purge: &purge}); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "purged", args[i])
		}
		return nil
	})
	c.Flags().BoolVar(&purge, "purge", false, "erase the key and all that names it; sums stay under an anonymous id")
	c.Flags().BoolVar(&yes, "yes", false, "mean it")
	return c
}

func keysRestore() *cobra.Command {
	return remoteCommand("restore KEY", "Bring a deleted key back", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		resp, err := r.RestoreKeyWithResponse(c.Context(), id)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "restored %q, now %s\n", resp.JSON200.Name, resp.JSON200.Status)
		return nil
	})
}
