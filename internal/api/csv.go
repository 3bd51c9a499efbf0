package api

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/fault"
)

const (
	csvBatch    = 500              // rows between two looks at the client
	csvPatience = 30 * time.Second // for a client that takes nothing
)

// csvAnswer is a report as one answer of any size: rows go out as they come in.
type csvAnswer struct {
	ctx    context.Context //nolint:containedctx // the generated interface passes none
	server *Server
	name   string // of the file
	head   []string
	rows   func(begin func(asOf time.Time), each func([]string) error) error
}

// csvName names the file of a report of some days.
func csvName(kind string, from, to time.Time) string {
	return fmt.Sprintf("%s-%s-%s.csv", kind, from.Format(time.DateOnly), to.Format(time.DateOnly))
}

// VisitReportUsageResponse writes a usage report.
func (c csvAnswer) VisitReportUsageResponse(w http.ResponseWriter) error { return c.write(w) }

// VisitReportFocusResponse writes a report in FOCUS.
func (c csvAnswer) VisitReportFocusResponse(w http.ResponseWriter) error { return c.write(w) }

// write writes the report. What goes wrong before its first row is answered as always; after
// it the connection is broken, so that nobody takes a part for the whole.
func (c csvAnswer) write(w http.ResponseWriter) error {
	// Each holds a connection for as long as its client reads: some are left to others.
	_, _, conns := c.server.Reports.PoolStat()
	defer c.server.streams.Add(-1)
	if c.server.streams.Add(1) > max(1, conns/2) {
		return fault.New(fault.Unavailable, "As many CSV reports as this service has connections for are under way. Try again.")
	}
	out, control, rows := csv.NewWriter(w), http.NewResponseController(w), 0
	var asOf time.Time
	begin := func() {
		w.Header().Set("X-As-Of", wire.At(asOf).String())
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename=%q`, c.name))
		_ = out.Write(c.head) // errors stay until Flush
	}
	err := c.rows(func(at time.Time) { asOf = at }, func(row []string) error {
		if rows == 0 {
			begin()
		}
		if err := out.Write(row); err != nil {
			return err
		}
		if rows++; rows%csvBatch != 0 {
			return nil
		}
		out.Flush()
		if err := errors.Join(out.Error(), control.Flush()); err != nil {
			return err
		}
		return control.SetWriteDeadline(time.Now().Add(csvPatience))
	})
	if err != nil {
		if rows > 0 {
			c.server.Log.WarnContext(c.ctx, "a CSV report was broken off", "rows", rows, "error", err)
			out.Flush()
			_ = control.Flush() // few rows: a stream from here on, so that nobody gives it another deadline
			_ = control.SetWriteDeadline(time.Unix(1, 0))
		}
		return err
	}
	if rows == 0 {
		begin()
	}
	out.Flush()
	return out.Error()
}

// harmless is a text as a spreadsheet shows it and does not run it: what would begin a
// formula begins with an apostrophe.
// Source: https://owasp.org/www-community/attacks/CSV_Injection
func harmless(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
