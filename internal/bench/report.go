package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Table prints a report for people.
func (r Report) Table(to io.Writer) error {
	w := &strings.Builder{}
	fmt.Fprintf(w, "\nkeyledger %s, %s, on %s\n%s; took %s\n\n", r.Version, r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Machine, r.Method, r.Took.Round(time.Second))
	rows := [][]string{{"#", "what", "against, in the same run", "reach", "measured", ""}}
	for _, x := range r.Results {
		verdict := "reached"
		if !x.Reached {
			verdict = "SHORT"
		}
		rows = append(rows, []string{x.Name, x.What, x.Against, x.Reach, x.Measured, verdict})
	}
	writeTable(w, rows)
	for _, p := range r.Proofs {
		fmt.Fprintf(w, "\n%s: %d events acknowledged, %d of them in the ledger, %d altered, %d twice, %d sums that differ", p.Stand, p.Acknowledged, p.InLedger, p.Altered, p.Twice, len(p.Differences))
	}
	fmt.Fprintln(w)
	_, err := io.WriteString(to, w.String())
	return err
}

// writeTable writes a Markdown table, its columns aligned.
func writeTable(w *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(w, "| %s%s ", cell, strings.Repeat(" ", widths[i]-len([]rune(cell))))
		}
		fmt.Fprintln(w, "|")
		if n == 0 {
			for _, width := range widths {
				fmt.Fprintf(w, "|%s", strings.Repeat("-", width+2))
			}
			fmt.Fprintln(w, "|")
		}
	}
}

// JSON writes a report for programs.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
