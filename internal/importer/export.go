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
	} `json:"models"`
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
	source := Source{Notes: []string{
		"an export has no costs: usage is priced with this database's catalogue",
		"an export has no usage of accounts: import from Redis to bring that too",
	}}
	for i, raw := range file.Data.APIKeys {
		k := Key{Fields: map[string]string{}, History: newHistory()}
		for name, value := range raw {
			if name != "usageStats" {
				k.Fields[name] = plainText(value)
			}
		}
		if k.ID = k.Fields["id"]; k.ID == "" {
			source.Refused = append(source.Refused, Refusal{fmt.Sprintf("apiKeys[%d]", i), "it has no id: the rest of a key that is gone"})
			continue
		}
		var stats usageStats
		if text, ok := raw["usageStats"]; ok {
			if err := json.Unmarshal(text, &stats); err != nil {
				source.Refused = append(source.Refused, Refusal{"key " + k.ID, "its usageStats cannot be read: " + err.Error()})
				continue
			}
		}
		k.History.readStats(stats)
		source.Keys = append(source.Keys, k)
	}
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
				put(h.ModelDays, model, day, readSums(fields, ""))
			}
		}
		for month, fields := range rows.Monthly {
			if isMonth(month) {
				put(h.ModelMonths, model, month, readSums(fields, ""))
			}
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
