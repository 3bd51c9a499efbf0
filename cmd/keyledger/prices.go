package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
	"github.com/keyledger/keyledger/client/wire"
)

func pricesCommand() *cobra.Command {
	c := &cobra.Command{Use: "prices", Short: "The price catalogue",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN."}
	c.AddCommand(pricesImport(), pricesList(), pricesUnpriced(), pricesReprice())
	return c
}

func pricesImport() *cobra.Command {
	var from string
	var asJSON *bool
	c := remoteCommand("import FILE", "Import a price file in LiteLLM's JSON format", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		start, err := parseTime(from)
		if err != nil {
			return usageError{fmt.Errorf("--from: %w", err)}
		}
		file, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		resp, err := r.ImportPricesWithBodyWithResponse(c.Context(), &client.ImportPricesParams{EffectiveFrom: wire.AtOrNil(start)}, jsonType, bytes.NewReader(file))
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		a := resp.JSON200
		fmt.Fprintf(c.OutOrStdout(), "%d models read, %d new or different, in force from %s\n", a.Models, a.Changed, cell(a.EffectiveFrom))
		for _, s := range a.Skipped {
			fmt.Fprintf(c.OutOrStdout(), "%d skipped: %s\n", s.Count, s.Reason)
		}
		return nil
	})
	c.Flags().StringVar(&from, "from", "", "first instant at which the prices hold, RFC 3339 (default: now)")
	asJSON = wantsJSON(c)
	return c
}

func pricesList() *cobra.Command {
	var q, provider string
	var asJSON *bool
	c := remoteCommand("list", "List prices, USD per million tokens", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		params := client.ListPricesParams{Q: orNil(q), Provider: orNil(provider), Limit: ptr(200)}
		t := newTable(c.OutOrStdout())
		if !*asJSON {
			t.row("MODEL", "PROVIDER", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "1H WRITE", "FROM", "SOURCE")
		}
		for {
			page, err := r.ListPricesWithResponse(c.Context(), &params)
			if err != nil {
				return err
			}
			if *asJSON {
				if err := printJSON(c.OutOrStdout(), page.Body); err != nil {
					return err
				}
			} else {
				for _, p := range page.JSON200.Data {
					from := "ever"
					if p.EffectiveFrom.Year() > 1 {
						from = cell(p.EffectiveFrom)
					}
					t.row(p.Model, p.Provider, p.InputPerMillion, p.OutputPerMillion, p.CacheReadPerMillion, p.CacheWritePerMillion, p.CacheWrite1HPerMillion, from, string(p.Source))
				}
			}
			if page.JSON200.NextCursor == "" {
				return t.flush()
			}
			params.Cursor = &page.JSON200.NextCursor
		}
	})
	c.Flags().StringVar(&q, "q", "", "part of the model's name")
	c.Flags().StringVar(&provider, "provider", "", "only of this provider")
	asJSON = wantsJSON(c)
	return c
}

func pricesUnpriced() *cobra.Command {
	var asJSON *bool
	c := remoteCommand("unpriced", "Models that were used without a price", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		resp, err := r.ListUnpricedWithResponse(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		if len(resp.JSON200.Data) == 0 {
			fmt.Fprintln(c.OutOrStdout(), "every model used had a price")
			return nil
		}
		t := newTable(c.OutOrStdout(), "MODEL", "REQUESTS", "TOKENS", "FIRST", "LAST", "PRICED NOW")
		for _, u := range resp.JSON200.Data {
			t.row(u.Model, u.Requests, u.Tokens, u.FirstAt, u.LastAt, u.PricedNow)
		}
		return t.flush()
	})
	asJSON = wantsJSON(c)
	return c
}

func pricesReprice() *cobra.Command {
	var from, to, model string
	var dryRun bool
	var asJSON *bool
	c := remoteCommand("reprice", "Price usage of some days again with the catalogue as it is now", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		first, last, err := readDays(from, to)
		if err != nil {
			return err
		}
		resp, err := r.RepriceWithResponse(c.Context(), client.RepriceRequest{From: *first, To: *last, Model: orNil(model), DryRun: &dryRun})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		a, out := resp.JSON200, c.OutOrStdout()
		if len(a.Changes) > 0 {
			t := newTable(out, "KEY", "MODEL", "EVENTS", "COST", "NOW")
			for _, x := range a.Changes {
				name := x.KeyName
				if name == "" {
					name = x.KeyID.String()
				}
				t.row(name, x.Model, x.Events, x.CostBefore, x.CostAfter)
			}
			if err := t.flush(); err != nil {
				return err
			}
		}
		did := "changed"
		if a.DryRun {
			did = "would change; nothing was"
		}
		fmt.Fprintf(out, "%d of %d events %s: from $%s to $%s\n", a.Changed, a.Events, did, a.CostBefore, a.CostAfter)
		return nil
	})
	c.Flags().StringVar(&from, "from", "", "first day (required)")
	c.Flags().StringVar(&to, "to", "", "last day, included (required)")
	c.Flags().StringVar(&model, "model", "", "only this model")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	asJSON = wantsJSON(c)
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagRequired("to")
	return c
}
