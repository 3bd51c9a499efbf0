package price

import (
	"sort"
	"sync"
	"time"
)

// Wildcard is the model of an entry that prices whatever nothing else matches.
const Wildcard = "*"

// Catalogue answers which price a model has at an instant. It is safe for concurrent use.
type Catalogue struct {
	// Revision is the number of the database's catalogue that it was made from.
	Revision int64

	byModel  map[string][]Price  // a model's entries, earliest first
	byFolded map[string][]string // models by folded name
	byBase   map[string][]string // models by folded name without date, newest date first

	mu    sync.Mutex
	names map[string]string // of models that were asked about, by name as received
}

// NewCatalogue makes a catalogue of entries in any order.
func NewCatalogue(revision int64, prices []Price) *Catalogue {
	c := &Catalogue{
		Revision: revision,
		byModel:  make(map[string][]Price, len(prices)),
		byFolded: make(map[string][]string, len(prices)),
		byBase:   make(map[string][]string, len(prices)),
	}
	for _, p := range prices {
		c.byModel[p.Model] = append(c.byModel[p.Model], p)
	}
	for model, entries := range c.byModel {
		sort.Slice(entries, func(i, j int) bool { return entries[i].EffectiveFrom.Before(entries[j].EffectiveFrom) })
		folded := Fold(model)
		base, _ := undated(folded)
		c.byFolded[folded] = append(c.byFolded[folded], model)
		c.byBase[base] = append(c.byBase[base], model)
	}
	for _, models := range c.byFolded {
		sort.Strings(models)
	}
	for _, models := range c.byBase {
		sort.Slice(models, func(i, j int) bool {
			_, a := undated(Fold(models[i]))
			_, b := undated(Fold(models[j]))
			if a != b {
				return a > b // an undated entry has the date "" and comes last
			}
			return models[i] < models[j]
		})
	}
	return c
}

// Lookup finds the price in force at an instant for a model name as received:
// the exact name; the same but for case and separators; without provider path,
// context marker or Bedrock region; what it is a provider's alias of; the same model
// under another date, newest first; an operator's * entry. A name is never matched by a part of it.
func (c *Catalogue) Lookup(model string, at time.Time) (Price, bool) {
	if p, ok := c.InForce(model, at); ok {
		return p, true
	}
	names := spellings(model)
	for _, name := range names {
		if p, ok := c.firstInForce(c.byFolded[name], at); ok {
			return p, true
		}
	}
	for _, name := range names {
		base, _ := undated(name)
		if p, ok := c.firstInForce(c.byBase[base], at); ok {
			return p, true
		}
	}
	return c.InForce(Wildcard, at)
}

func (c *Catalogue) firstInForce(models []string, at time.Time) (Price, bool) {
	for _, model := range models {
		if p, ok := c.InForce(model, at); ok && model != Wildcard {
			return p, true
		}
	}
	return Price{}, false
}

// InForce is the latest entry of a model that does not start after at.
func (c *Catalogue) InForce(model string, at time.Time) (Price, bool) {
	entries := c.byModel[model]
	for i := len(entries) - 1; i >= 0; i-- {
		if !entries[i].EffectiveFrom.After(at) {
			return entries[i], true
		}
	}
	return Price{}, false
}
