package price

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
)

// Memory is what Store remembers the catalogue in.
type Memory = cache.Cache[struct{}, *Catalogue]

// Store is the catalogue in the database, with a copy in memory that is used
// only while its revision is the database's, or while a change would be heard of.
// It is safe for concurrent use.
type Store struct {
	db      *db.DB
	changes cache.Changes
	memory  *Memory
	copy    atomic.Pointer[Catalogue]
}

// New makes a Store, which asks the database for the catalogue's revision each time unless
// changes are heard.
func New(d *db.DB, changes cache.Changes) *Store {
	return &Store{db: d, changes: changes, memory: cache.New[struct{}, *Catalogue](1, changes.Live)}
}

// Memory is what is remembered.
func (s *Store) Memory() *Memory { return s.memory }

// The sources of entries.
const (
	SourceBuiltin = "builtin"
	SourceLiteLLM = "litellm"
	SourceManual  = "manual"
)

// Beginning is the start of entries that hold since ever.
var Beginning = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)

// Current is the catalogue as the database has it at this moment, with the
// database's time. No query while changes are heard; else one small one, and the
// whole catalogue only after a change.
func (s *Store) Current(ctx context.Context) (*Catalogue, time.Time, error) {
	if now, live := s.changes.Clock(); live {
		c, err := s.memory.Get(ctx, struct{}{}, func(ctx context.Context) (*Catalogue, uuid.UUID, error) {
			c, _, err := s.read(ctx)
			return c, uuid.Nil, err
		})
		return c, now, err
	}
	return s.read(ctx)
}

func (s *Store) read(ctx context.Context) (*Catalogue, time.Time, error) {
	r, err := s.db.PriceRevision(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the price revision: %w", err)
	}
	if c := s.copy.Load(); c != nil && c.Revision == r.Revision {
		return c, r.Now, nil
	}
	rows, err := s.db.PriceAll(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading prices: %w", err)
	}
	prices := make([]Price, len(rows))
	revision := r.Revision
	for i, row := range rows {
		prices[i], revision = FromRow(row.ModelPrice), row.Revision
	}
	c := NewCatalogue(revision, prices)
	s.copy.Store(c)
	return c, r.Now, nil
}

// FromRow makes a Price of a database row.
func FromRow(m db.ModelPrice) Price {
	return Price{
		Model: m.Model, Provider: m.Provider, Source: m.Source, EffectiveFrom: m.EffectiveFrom,
		Base:      Rates{m.InputPerMillion, m.OutputPerMillion, m.CacheReadPerMillion, m.CacheWritePerMillion, m.CacheWrite1hPerMillion},
		Long:      Rates{m.LongInputPerMillion, m.LongOutputPerMillion, m.LongCacheReadPerMillion, m.LongCacheWritePerMillion, m.LongCacheWrite1hPerMillion},
		MaxOutput: valueOr(m.MaxOutputTokens),
	}
}

// valueOr is a number, or 0 for none.
func valueOr(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// Put stores entries that hold from an instant, all or nothing, and returns the models
// whose entries were new or different, by name. An audit row tells of it. The catalogue's
// memory follows by itself, here and on every replica.
func (s *Store) Put(ctx context.Context, who db.Actor, source string, from time.Time, prices []Price) (changed []string, err error) {
	return s.put(ctx, who, source, from, prices, nil)
}

// errDryRun undoes the transaction of a dry run.
var errDryRun = errors.New("a dry run changes nothing")

// Preview returns what Put would, and changes nothing.
func (s *Store) Preview(ctx context.Context, who db.Actor, source string, from time.Time, prices []Price) (changed []string, err error) {
	changed, err = s.put(ctx, who, source, from, prices, errDryRun)
	if errors.Is(err, errDryRun) {
		return changed, nil
	}
	return nil, err
}

// put stores entries, and undoes it where undo is an error.
func (s *Store) put(ctx context.Context, who db.Actor, source string, from time.Time, prices []Price, undo error) (changed []string, err error) {
	err = s.db.Audited(ctx, who, "put", func(q *db.Queries) error {
		changed, err = q.PriceUpsert(ctx, upsert(source, from, prices))
		if err != nil {
			return err
		}
		slices.Sort(changed)
		if undo != nil || len(changed) == 0 {
			return undo
		}
		after, err := json.Marshal(map[string]any{"source": source, "effectiveFrom": from, "changed": len(changed), "models": summary(prices)})
		if err != nil {
			return fmt.Errorf("encoding the audit row: %w", err)
		}
		return q.AuditAppend(ctx, db.AuditAppendParams{TargetType: "prices", TargetID: source, After: after})
	})
	if err != nil {
		return changed, fmt.Errorf("storing prices: %w", err)
	}
	return changed, nil
}

// summary keeps audit rows readable: a few entries whole, else their number.
func summary(prices []Price) any {
	const few = 20
	if len(prices) <= few {
		return prices
	}
	return len(prices)
}

//go:embed builtin.json
var builtinJSON []byte

// builtin is the form of builtin.json.
type builtin struct {
	AsOf    string            `json:"asOf"`
	Aliases map[string]string `json:"aliases"`
	Models  []struct {
		Model     string    `json:"model"`
		Provider  string    `json:"provider"`
		jsonRates           // inline
		Above200k jsonRates `json:"above200k"`
		MaxOutput int64     `json:"maxOutputTokens"`
	} `json:"models"`
}

var readBuiltin = sync.OnceValues(func() (file builtin, err error) {
	if err := json.Unmarshal(builtinJSON, &file); err != nil {
		return file, fmt.Errorf("reading the built-in prices: %w", err)
	}
	return file, nil
})

// aliases are the providers' own other names of models, by folded alias.
func aliases() map[string]string {
	file, err := readBuiltin()
	if err != nil {
		return nil // Builtin tells of it at the start
	}
	return file.Aliases
}

// Builtin is the catalogue that comes with the binary: list prices of models in
// use, and the day they were read. They hold since ever, so that an operator's
// own entries always win from their start on.
func Builtin() (prices []Price, asOf string, err error) {
	file, err := readBuiltin()
	if err != nil {
		return nil, "", err
	}
	for _, m := range file.Models {
		prices = append(prices, Price{
			Model: m.Model, Provider: m.Provider, Source: SourceBuiltin, EffectiveFrom: Beginning,
			Base: Rates(m.jsonRates), Long: Rates(m.Above200k), MaxOutput: m.MaxOutput,
		})
	}
	return prices, file.AsOf, nil
}

type jsonRates struct {
	Input        *decimal.Decimal `json:"inputPerMillion"`
	Output       *decimal.Decimal `json:"outputPerMillion"`
	CacheRead    *decimal.Decimal `json:"cacheReadPerMillion"`
	CacheWrite   *decimal.Decimal `json:"cacheWritePerMillion"`
	CacheWrite1h *decimal.Decimal `json:"cacheWrite1hPerMillion"`
}

// PutBuiltin stores the built-in catalogue, replacing built-in entries of an
// older binary and nothing else. Any number of replicas may do it at once.
func (s *Store) PutBuiltin(ctx context.Context) (changed []string, err error) {
	prices, _, err := Builtin()
	if err != nil {
		return nil, err
	}
	return s.Put(ctx, db.Actor{Name: "system"}, SourceBuiltin, Beginning, prices)
}

func upsert(source string, from time.Time, prices []Price) db.PriceUpsertParams {
	p := db.PriceUpsertParams{Source: source, EffectiveFrom: from, KeepOthers: source == SourceBuiltin}
	none := decimal.NewFromInt(-1)
	or := func(d *decimal.Decimal) decimal.Decimal {
		if d == nil {
			return none
		}
		return *d
	}
	for _, e := range prices {
		p.Models = append(p.Models, e.Model)
		p.Providers = append(p.Providers, e.Provider)
		p.Inputs = append(p.Inputs, or(e.Base.Input))
		p.Outputs = append(p.Outputs, or(e.Base.Output))
		p.CacheReads = append(p.CacheReads, or(e.Base.CacheRead))
		p.CacheWrites = append(p.CacheWrites, or(e.Base.CacheWrite))
		p.CacheWrites1h = append(p.CacheWrites1h, or(e.Base.CacheWrite1h))
		p.LongInputs = append(p.LongInputs, or(e.Long.Input))
		p.LongOutputs = append(p.LongOutputs, or(e.Long.Output))
		p.LongCacheReads = append(p.LongCacheReads, or(e.Long.CacheRead))
		p.LongCacheWrites = append(p.LongCacheWrites, or(e.Long.CacheWrite))
		p.LongCacheWrites1h = append(p.LongCacheWrites1h, or(e.Long.CacheWrite1h))
		p.MaxOutputs = append(p.MaxOutputs, e.MaxOutput)
	}
	return p
}
