package importer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// export is the original's JSON export, as much of it as is brought.
type export struct {
	Metadata struct {
		Version   string `json:"version"`
		Sanitized bool   `json:"sanitized"`
	} `json:"metadata"`
	Data struct {
		APIKeys []map[string]json.RawMessage `json:"apiKeys"`
	} `json:"data"`
}

// usageStats is a key's usage in an export. Its daily rows are taken at another
// midnight than the original counts by, and so miss a day for eight hours; hourly ones
// are a few. Neither is read: the rows of models are right.
type usageStats struct {
	Total   map[string]string            `json:"total"`
	Monthly map[string]map[string]string `json:"monthly"`
	Models  map[string]struct {
		Daily   map[string]map[string]string `json:"daily"`
		Monthly map[string]map[string]string `json:"monthly"`
		AllTime map[string]string            `json:"alltime"`
	} `json:"models"`
	CostTotal   json.RawMessage            `json:"costTotal"`
	CostDaily   map[string]json.RawMessage `json:"costDaily"`
	CostMonthly map[string]json.RawMessage `json:"costMonthly"`
}

// ReadExport reads an export. Sanitized ones, which have no hashes, are refused.
func ReadExport(r io.Reader) (Source, error) {
	var file export
	if err := json.NewDecoder(r).Decode(&file); err != nil {
		return Source{}, fmt.Errorf("this is no JSON export of claude-relay-service: %w", err)
	}
	switch {
	case file.Metadata.Version == "":
		return Source{}, errors.New("this is no JSON export of claude-relay-service: it has no metadata.version")
	case file.Metadata.Sanitized:
		return Source{}, errors.New("this export is sanitized: the hashes of its keys are blacked out, so no key of it could ever be used. Export again without --sanitize")
	}
	source := Source{}
	withUsage, withCosts := false, false
	for i, raw := range file.Data.APIKeys {
		k := Key{Fields: map[string]string{}, History: newHistory()}
		for name, value := range raw {
			if name != "usageStats" {
				k.Fields[name] = plainText(value)
			}
		}
		if k.ID = k.Fields["id"]; k.ID == "" {
			source.Refused = append(source.Refused, Refusal{fmt.Sprintf("apiKeys[%d]", i), "it has no id: the rest of a key that is gone", true})
			continue
		}
		var stats usageStats
		if text, ok := raw["usageStats"]; ok {
			if err := json.Unmarshal(text, &stats); err != nil {
				source.Refused = append(source.Refused, Refusal{"key " + k.ID, "its usageStats cannot be read: " + err.Error(), false})
				continue
			}
		}
		k.History.readStats(stats)
		withUsage, withCosts = withUsage || len(raw["usageStats"]) > 0, withCosts || k.History.TotalCost != nil
		source.Keys = append(source.Keys, k)
	}
	switch {
	case !withUsage && len(source.Keys) > 0:
		source.Notes = append(source.Notes, "THIS EXPORT HAS NO USAGE: keys come as if they had never been used. Export with npm run data:export:enhanced, or import from Redis")
	case !withCosts:
		source.Notes = append(source.Notes, "this export has no costs: usage is priced with this database's catalogue")
	}
	source.Notes = append(source.Notes, "an export has no usage of accounts and does not tell whose owners are disabled: import from Redis to bring that too")
	return source, nil
}

func (h *History) readStats(stats usageStats) {
	h.Total = readSums(stats.Total, "total")
	for month, fields := range stats.Monthly {
		if isMonth(month) {
			h.Months[month] = readSums(fields, "")
		}
	}
	for model, rows := range stats.Models {
		for day, fields := range rows.Daily {
			if isDay(day) {
				put(h.ModelDays, h.ModelDayCosts, model, day, fields)
			}
		}
		for month, fields := range rows.Monthly {
			if isMonth(month) {
				put(h.ModelMonths, h.ModelMonthCosts, model, month, fields)
			}
		}
		if len(rows.AllTime) > 0 {
			name := modelName(model)
			h.ModelTotals[name] = h.ModelTotals[name].plus(readSums(rows.AllTime, ""))
			if cost, ok := ratedCost(rows.AllTime); ok {
				h.ModelTotalCosts[name] = h.ModelTotalCosts[name].Add(cost)
			}
		}
	}
	if d, ok := amount(plainText(stats.CostTotal)); ok {
		h.TotalCost = &d
	}
	for day, raw := range stats.CostDaily {
		if d, ok := amount(plainText(raw)); ok && isDay(day) {
			h.DayCosts[day] = d
		}
	}
	for month, raw := range stats.CostMonthly {
		if d, ok := amount(plainText(raw)); ok && isMonth(month) {
			h.MonthCosts[month] = d
		}
	}
}

// plainText is a JSON value as a Redis hash would hold it.
func plainText(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	if s := strings.TrimSpace(string(value)); s != "null" {
		return s
	}
	return ""
}
