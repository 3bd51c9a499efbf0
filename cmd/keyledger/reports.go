package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	openapi_types "github.com/oapi-codegen/runtime/types"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
)

func reportsCommand() *cobra.Command {
	c := &cobra.Command{Use: "reports", Short: "Reports, and the proof that their sums are right",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN. Reports in SQL: docs/sql.md."}
	c.AddCommand(reportsUsage(), reportsFocus(), reportsReconcile(), reportsRebuild())
	return c
}

// maxTableRows is how many rows a table shows: more are for --csv.
const maxTableRows = 1000

func reportsUsage() *cobra.Command {
	var from, to, granularity, keyName, model, account, tag string
	var by []string
	var asCSV bool
	var asJSON *bool
	c := remoteCommand("usage", "What was used, by day, month or hour and by key, model, account or tag", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		params := client.ReportUsageParams{Granularity: ptr(client.ReportUsageParamsGranularity(granularity)), Limit: ptr(maxTableRows),
			Model: orNil(model), AccountID: orNil(account), Tag: orNil(tag)}
		var err error
		if params.From, params.To, err = readDays(from, to); err != nil {
			return err
		}
		if len(by) > 0 {
			params.GroupBy = &[]client.ReportUsageParamsGroupBy{}
			for _, one := range by {
				*params.GroupBy = append(*params.GroupBy, client.ReportUsageParamsGroupBy(one))
			}
		}
		if keyName != "" {
			id, err := r.find(c.Context(), keyName)
			if err != nil {
				return err
			}
			params.KeyID = &id
		}
		if asCSV {
			params.Format = ptr(client.ReportUsageParamsFormat("csv"))
			resp, err := r.ReportUsage(c.Context(), &params)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			return printCSV(c.OutOrStdout(), resp.Body)
		}
		resp, err := r.ReportUsageWithResponse(c.Context(), &params)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printUsageReport(c.OutOrStdout(), resp.JSON200)
	})
	c.Flags().StringVar(&from, "from", "", "first day (default: 29 days before --to)")
	c.Flags().StringVar(&to, "to", "", "last day, included (default: today)")
	c.Flags().StringVar(&granularity, "per", "day", "what a row is for: hour, day, month or total")
	c.Flags().StringSliceVar(&by, "by", nil, "any of key, model, account and tag, by comma")
	c.Flags().StringVar(&keyName, "key", "", "only this key, by id or exact name")
	c.Flags().StringVar(&model, "model", "", "only this model")
	c.Flags().StringVar(&account, "account", "", "only this upstream account")
	c.Flags().StringVar(&tag, "tag", "", "only usage under this tag")
	c.Flags().BoolVar(&asCSV, "csv", false, "print all of it as CSV, as it comes")
	asJSON = wantsJSON(c)
	return c
}

// printUsageReport prints a table with a bar for each row's cost, or for its tokens
// where nothing cost anything.
func printUsageReport(out io.Writer, found *client.UsageReport) error {
	measure, most := func(s client.ReportRow) float64 { return s.CostUsd.InexactFloat64() }, 0.0
	if found.Totals.CostUsd.IsZero() {
		measure = func(s client.ReportRow) float64 { return float64(s.AllTokens) }
	}
	heads := []string{"PERIOD"}
	for _, row := range found.Data {
		most = max(most, measure(row))
	}
	if len(found.Data) > 0 {
		for _, part := range groups(found.Data[0]) {
			heads = append(heads, part.head)
		}
	}
	t := newTable(out, append(heads, "REQUESTS", "INPUT", "OUTPUT", "CACHE WRITE", "CACHE READ", "COST", "SHARE")...)
	for _, row := range found.Data {
		cells := []any{row.Period}
		for _, part := range groups(row) {
			cells = append(cells, *part.value)
		}
		t.row(append(cells, row.Requests, row.InputTokens, row.OutputTokens, row.CacheCreateTokens, row.CacheReadTokens, row.CostUsd, bar(measure(row), most))...)
	}
	if err := t.flush(); err != nil {
		return err
	}
	s := found.Totals
	fmt.Fprintf(out, "in all: %d requests, %d tokens, $%s", s.Requests, s.AllTokens, s.CostUsd)
	if s.RowsOverlap {
		fmt.Fprint(out, " (keys with several tags are in several rows)")
	}
	fmt.Fprintln(out)
	if found.NextCursor != "" {
		fmt.Fprintf(out, "these are the first %d rows: --csv has all of them\n", len(found.Data))
	}
	return nil
}

type group struct {
	head  string
	value *string
}

// groups are what a row is grouped by.
func groups(row client.ReportRow) (parts []group) {
	for _, g := range []group{{"KEY", row.KeyName}, {"MODEL", row.Model}, {"ACCOUNT", row.AccountID}, {"TAG", row.Tag}} {
		if g.value != nil {
			parts = append(parts, g)
		}
	}
	return parts
}

// bar is a part of the most there is, drawn up to 24 characters wide in eighths.
func bar(value, most float64) string {
	const width = 24
	if most <= 0 || value <= 0 {
		return ""
	}
	eighths := int(math.Round(value / most * width * 8))
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

// errDiffer is the end of a reconciliation that found something.
var errDiffer = errors.New("the sums are not those of the ledger")

func reportsFocus() *cobra.Command {
	var from, to, keyName string
	c := remoteCommand("focus", "Cost and usage as CSV in the columns of FOCUS, the FinOps Foundation's format", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) (err error) {
		var params client.ReportFocusParams
		if params.From, params.To, err = readDays(from, to); err != nil {
			return err
		}
		if keyName != "" {
			id, err := r.find(c.Context(), keyName)
			if err != nil {
				return err
			}
			params.KeyID = &id
		}
		resp, err := r.ReportFocus(c.Context(), &params)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		return printCSV(c.OutOrStdout(), resp.Body)
	})
	c.Flags().StringVar(&from, "from", "", "first day (default: the first of the month of --to)")
	c.Flags().StringVar(&to, "to", "", "last day, included (default: today)")
	c.Flags().StringVar(&keyName, "key", "", "only this key, by id or exact name")
	return c
}

// printCSV prints an answer of any size as it comes.
func printCSV(out io.Writer, body io.Reader) error {
	if _, err := io.Copy(out, body); err != nil {
		return fmt.Errorf("the report was broken off, what was printed is a part of it: %w", err)
	}
	return nil
}

func reportsReconcile() *cobra.Command {
	var from, to string
	var asJSON *bool
	c := remoteCommand("reconcile", "Prove that the sums are those of the ledger, or list what differs", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		var params client.ReconcileParams
		var err error
		if params.From, params.To, err = readDays(from, to); err != nil {
			return err
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

func reportsRebuild() *cobra.Command {
	var from, to string
	c := remoteCommand("rebuild", "Derive the rollups of some days anew from the ledger", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		first, last, err := readDays(from, to)
		if err != nil {
			return err
		}
		resp, err := r.RebuildRollupsWithResponse(c.Context(), client.DayRange{From: *first, To: *last})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "the rollups of %s to %s were derived from the ledger\n", resp.JSON200.From, resp.JSON200.To)
		return err
	})
	c.Long = "For when reconcile says that rollups differ. Reports are exact meanwhile; an audit row tells of it."
	c.Flags().StringVar(&from, "from", "", "first day, such as 2026-11-20")
	c.Flags().StringVar(&to, "to", "", "last day, included")
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagRequired("to")
	return c
}

// readDays reads the flags --from and --to; nil: not given.
func readDays(from, to string) (first, last *openapi_types.Date, err error) {
	for _, day := range []struct {
		flag, text string
		into       **openapi_types.Date
	}{{"from", from, &first}, {"to", to, &last}} {
		if day.text == "" {
			continue
		}
		t, err := time.Parse(time.DateOnly, day.text)
		if err != nil {
			return nil, nil, usageError{fmt.Errorf("--%s: %q is not a day such as 2026-11-23", day.flag, day.text)}
		}
		*day.into = &openapi_types.Date{Time: t}
	}
	return first, last, nil
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
		switch {
		case d.KeyID != nil:
			of = d.KeyID.String()
		case d.Tag != nil:
			of = "tag " + *d.Tag
		}
		t.row(string(d.Rollup), cell(of), d.Day, cell(d.Model), strings.Join(d.Columns, ", "), sum(d.Summed), sum(d.Stored))
	}
	return t.flush()
}
