package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	openapi_types "github.com/oapi-codegen/runtime/types"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
)

func reportsCommand() *cobra.Command {
	c := &cobra.Command{Use: "reports", Short: "Reports, and the proof that their sums are right",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN. Reports in SQL: docs/sql.md."}
	c.AddCommand(reportsReconcile())
	return c
}

// errDiffer is the end of a reconciliation that found something.
var errDiffer = errors.New("the sums are not those of the ledger")

func reportsReconcile() *cobra.Command {
	var from, to string
	var asJSON *bool
	c := remoteCommand("reconcile", "Prove that the sums are those of the ledger, or list what differs", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		var params client.ReconcileParams
		for flag, day := range map[string]struct {
			text string
			into **openapi_types.Date
		}{"from": {from, &params.From}, "to": {to, &params.To}} {
			if day.text == "" {
				continue
			}
			t, err := time.Parse(time.DateOnly, day.text)
			if err != nil {
				return usageError{fmt.Errorf("--%s: %q is not a day such as 2026-11-23", flag, day.text)}
			}
			*day.into = &openapi_types.Date{Time: t}
		}
		resp, err := r.ReconcileWithResponse(c.Context(), &params)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(c.OutOrStdout(), resp.Body)
		} else {
			err = printReconciliation(c, resp.JSON200)
		}
		if err == nil && !resp.JSON200.Agrees {
			return errDiffer
		}
		return err
	})
	c.Flags().StringVar(&from, "from", "", "first day (default: 7 days before --to)")
	c.Flags().StringVar(&to, "to", "", "last day, included (default: today)")
	asJSON = wantsJSON(c)
	return c
}

func printReconciliation(c *cobra.Command, found *client.Reconciliation) error {
	out := c.OutOrStdout()
	if found.To.Before(found.From.Time) {
		fmt.Fprintln(out, "none of these days is wholly in the ledger any more; totals of all time were held against the days")
	} else {
		fmt.Fprintf(out, "%d ledger rows of %s to %s\n", found.LedgerRows, found.From, found.To)
	}
	if found.Agrees {
		_, err := fmt.Fprintln(out, "every sum is that of the ledger")
		return err
	}
	t := newTable(out, "ROLLUP", "OF", "DAY", "MODEL", "DIFFERS IN", "SHOULD BE", "IS")
	sum := func(s client.Sum) string {
		return fmt.Sprintf("%d requests, %d tokens, %s USD", s.Requests, s.Tokens, s.CostUsd)
	}
	for _, d := range found.Differences {
		of := d.AccountID
		if d.KeyID != nil {
			of = d.KeyID.String()
		}
		t.row(string(d.Rollup), cell(of), d.Day, cell(d.Model), strings.Join(d.Columns, ", "), sum(d.Summed), sum(d.Stored))
	}
	return t.flush()
}
