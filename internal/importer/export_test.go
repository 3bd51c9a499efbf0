package importer_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/importer"
)

// Guarantee: no export makes the reader panic; of what it takes, each key has an id and no sum is
// negative.
func FuzzExport(f *testing.F) {
	for _, keys := range []string{
		`[]`, `[{}]`, `[{"id":"a","usageStats":{}}]`, `[{"id":5,"usageStats":null}]`, `[{"id":"a","usageStats":{"total":{"requests":"-1","inputTokens":"1e30"}}}]`,
		`[{"id":"a","usageStats":{"models":{"m":{"daily":{"2026-13-45":{"inputTokens":"1"}},"alltime":{"allTokens":"9223372036854775808"}}},"costTotal":"NaN","costDaily":{"2026-01-01":-5}}}]`,
		`[{"id":"a","usageStats":{"monthly":{"2026-01":{"cacheReadTokens":"1.5"}},"costMonthly":{"x":{}}}}]`,
	} {
		f.Add(`{"metadata":{"version":"1"},"data":{"apiKeys":` + keys + `}}`)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := importer.ReadExport(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, k := range s.Keys {
			if k.ID == "" {
				t.Error("a key without an id")
			}
			for model, days := range k.History.ModelDays {
				for day, sums := range days {
					if sums.All() < 0 || sums.Requests < 0 {
						t.Errorf("%s %s: %+v", model, day, sums)
					}
				}
			}
		}
	})
}
