package api

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
)

const (
	usageReportDays    = 29 // how many days before the last a report begins when it is not told
	defaultReportLimit = 200
	maxReportLimit     = 1000
	maxReportText      = 200 // characters of a filter
)

// ReportUsage answers GET /v1/reports/usage.
func (s *Server) ReportUsage(ctx context.Context, r ReportUsageRequestObject) (ReportUsageResponseObject, error) {
	q, wrong := reportQuery(r.Params)
	after, err := readPlace(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	format := "json"
	if r.Params.Format != nil {
		format = string(*r.Params.Format)
	}
	if format != "json" && format != "csv" {
		wrong = append(wrong, field.Error{Field: "format", Message: "must be json or csv"})
	}
	if wrong != nil {
		return nil, fault.Fields(wrong...)
	}
	if q.From, q.To, err = s.days(ctx, r.Params.From, r.Params.To, usageReportDays); err != nil {
		return nil, err
	}
	if format == "csv" {
		q.Limit = 0
		return csvAnswer{ctx, s, csvName("usage", q.From, q.To), csvHead(q.By), func(begin func(time.Time), each func([]string) error) error {
			return s.Reports.Usage(ctx, q, begin, func(row db.ReportRow) error { return each(csvRow(row, q.By)) })
		}}, nil
	}
	return s.reportPage(ctx, q, after)
}

// ReportFocus answers GET /v1/reports/focus.
func (s *Server) ReportFocus(ctx context.Context, r ReportFocusRequestObject) (ReportFocusResponseObject, error) {
	from, to, err := s.days(ctx, r.Params.From, r.Params.To, 0)
	if err != nil {
		return nil, err
	}
	if r.Params.From == nil {
		from = to.AddDate(0, 0, 1-to.Day())
	}
	key := uuid.Nil
	if r.Params.KeyID != nil {
		if key = *r.Params.KeyID; key == uuid.Nil {
			return nil, fault.Fields(field.Error{Field: "keyId", Message: "must be the id of a key"})
		}
	}
	return csvAnswer{ctx, s, csvName("focus", from, to), report.FocusColumns, func(begin func(time.Time), each func([]string) error) error {
		return s.Reports.Focus(ctx, from, to, key, begin, func(cells []string) error {
			for i, cell := range cells {
				if _, err := decimal.NewFromString(cell); err != nil { // a number may begin with its sign
					cells[i] = harmless(cell)
				}
			}
			return each(cells)
		})
	}}, nil
}

func (s *Server) reportPage(ctx context.Context, q report.Query, after *report.Place) (ReportUsageResponseObject, error) {
	size := q.Limit
	q.After, q.Limit = after, size+1
	rows := make([]db.ReportRow, 0, q.Limit)
	totals, asOf, err := s.Reports.Page(ctx, q, func(row db.ReportRow) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer := ReportUsage200JSONResponse{Data: []reportRow{}, Totals: reportTotals{sumsOf(totals), q.Overlaps()}, AsOf: wire.At(asOf)}
	rows, answer.NextCursor = page(rows, size, func(last db.ReportRow) []string {
		p := report.PlaceOf(last)
		return []string{p.KeyID.String(), p.Period, p.Model, p.AccountID, p.Tag}
	})
	for _, row := range rows {
		answer.Data = append(answer.Data, rowOf(row, q.By))
	}
	return answer, nil
}

// reportQuery reads what is asked for, and names all that is wrong with it.
func reportQuery(p ReportUsageParams) (q report.Query, wrong []field.Error) {
	q.Granularity, q.Limit = report.Day, defaultReportLimit
	if p.Granularity != nil {
		q.Granularity = string(*p.Granularity)
	}
	if !slices.Contains(report.Granularities, q.Granularity) {
		wrong = append(wrong, field.Error{Field: "granularity", Message: "must be hour, day, month or total"})
	}
	if p.Limit != nil {
		q.Limit = *p.Limit
	}
	if q.Limit < 1 || q.Limit > maxReportLimit {
		wrong = append(wrong, field.Error{Field: "limit", Message: "must be between 1 and 1000"})
	}
	if p.GroupBy != nil {
		for _, by := range *p.GroupBy {
			switch {
			case by == "" && len(*p.GroupBy) == 1: // nothing is named
			case by == "key":
				q.By.Key = true
			case by == "model":
				q.By.Model = true
			case by == "account":
				q.By.Account = true
			case by == "tag":
				q.By.Tag = true
			default:
				wrong = append(wrong, field.Error{Field: "groupBy", Message: "must be any of key, model, account and tag, by comma"})
			}
		}
	}
	if p.KeyID != nil {
		if q.KeyID = *p.KeyID; q.KeyID == uuid.Nil {
			wrong = append(wrong, field.Error{Field: "keyId", Message: "must be the id of a key"})
		}
	}
	for _, filter := range []struct {
		field string
		from  *string
		into  *string
	}{{"model", p.Model, &q.Model}, {"accountId", p.AccountID, &q.AccountID}, {"tag", p.Tag, &q.Tag}} {
		if filter.from == nil {
			continue
		}
		value, message := field.Trim(*filter.from, 1, maxReportText)
		if *filter.into = value; message != "" {
			wrong = append(wrong, field.Error{Field: filter.field, Message: message})
		}
	}
	if q.Model != "" {
		if q.Model = price.Normalize(q.Model); q.Model == "" {
			wrong = append(wrong, field.Error{Field: "model", Message: "must be the name of a model"})
		}
	}
	return q, wrong
}

func readPlace(cursor *string) (*report.Place, error) {
	parts, err := readCursor(cursor, 5)
	if err != nil || parts == nil {
		return nil, err
	}
	id, err := uuid.Parse(parts[0])
	if err != nil {
		return nil, badCursor()
	}
	return &report.Place{KeyID: id, Period: parts[1], Model: parts[2], AccountID: parts[3], Tag: parts[4]}, nil
}

func sumsOf(row db.ReportRow) ReportSums {
	return ReportSums{
		Requests: row.Requests, InputTokens: row.InputTokens, OutputTokens: row.OutputTokens,
		CacheCreateTokens: row.CacheCreateTokens, CacheReadTokens: row.CacheReadTokens,
		Ephemeral5MTokens: row.CacheCreateTokens - row.Ephemeral1hTokens, Ephemeral1HTokens: row.Ephemeral1hTokens,
		AllTokens: row.InputTokens + row.OutputTokens + row.CacheCreateTokens + row.CacheReadTokens, CostUsd: usd(row.Cost),
	}
}

func rowOf(row db.ReportRow, by report.By) reportRow {
	one := reportRow{Period: period(row), ReportSums: sumsOf(row)}
	if by.Key {
		one.KeyID, one.KeyName = &row.KeyID, &row.KeyName
	}
	if by.Model {
		one.Model = &row.Model
	}
	if by.Account {
		one.AccountID = &row.AccountID
	}
	if by.Tag {
		one.Tag = &row.Tag
	}
	return one
}

func period(row db.ReportRow) string {
	if row.Period == "" {
		return report.Total
	}
	return row.Period
}

func csvHead(by report.By) []string {
	head := []string{"period"}
	for _, part := range []struct {
		grouped bool
		names   []string
	}{{by.Key, []string{"keyId", "keyName"}}, {by.Model, []string{"model"}}, {by.Account, []string{"accountId"}}, {by.Tag, []string{"tag"}}} {
		if part.grouped {
			head = append(head, part.names...)
		}
	}
	return append(head, "requests", "inputTokens", "outputTokens", "cacheCreateTokens", "cacheReadTokens", "ephemeral5mTokens", "ephemeral1hTokens", "allTokens", "costUsd")
}

func csvRow(row db.ReportRow, by report.By) []string {
	line := append(make([]string, 0, 15), period(row))
	if by.Key {
		line = append(line, row.KeyID.String(), harmless(row.KeyName))
	}
	if by.Model {
		line = append(line, harmless(row.Model))
	}
	if by.Account {
		line = append(line, harmless(row.AccountID))
	}
	if by.Tag {
		line = append(line, harmless(row.Tag))
	}
	for _, n := range []int64{row.Requests, row.InputTokens, row.OutputTokens, row.CacheCreateTokens, row.CacheReadTokens,
		row.CacheCreateTokens - row.Ephemeral1hTokens, row.Ephemeral1hTokens,
		row.InputTokens + row.OutputTokens + row.CacheCreateTokens + row.CacheReadTokens} {
		line = append(line, strconv.FormatInt(n, 10))
	}
	return append(line, row.Cost.String())
}
