package usage

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
)

// Block is a sum of usage.
type Block struct {
	Requests int64
	Counts
	Cost decimal.Decimal // USD
}

// Core are the tokens that averages count: input and output.
func (b Block) Core() int64 { return b.Input + b.Output }

// All are the tokens of all four kinds.
func (b Block) All() int64 { return b.Input + b.Output + b.CacheCreate + b.CacheRead }

// Periods are the sums of the day, ISO week and month that an instant falls in.
type Periods struct {
	Daily, Weekly, Monthly Block
}

// ModelBlock is the all-time usage of one model.
type ModelBlock struct {
	Model string
	Block
}

// Averages are means over a whole number of days, at least one, with two
// decimals, half up. Tokens are input and output.
type Averages struct {
	RPM, TPM, DailyRequests, DailyTokens decimal.Decimal
}

// Mean works out the averages of a total since an instant.
func Mean(total Block, since, asOf time.Time) Averages {
	const day = 24 * 60 * 60 * 1000 // milliseconds; a Duration ends at 292 years
	days := max(1, (asOf.UnixMilli()-since.UnixMilli()+day-1)/day)
	const minutesADay, places = 24 * 60, 2
	over := func(sum, n int64) decimal.Decimal {
		return decimal.NewFromInt(sum).DivRound(decimal.NewFromInt(n), places)
	}
	return Averages{
		RPM: over(total.Requests, days*minutesADay), TPM: over(total.Core(), days*minutesADay),
		DailyRequests: over(total.Requests, days), DailyTokens: over(total.Core(), days),
	}
}

// Stats reads what keys and accounts used, from rollups and what these do not hold yet. It
// is safe for concurrent use.
type Stats struct {
	db       *db.DB
	timezone string
}

// NewStats makes Stats of a database that parts its days in an IANA time zone.
func NewStats(d *db.DB, timezone string) *Stats { return &Stats{db: d, timezone: timezone} }

// From are the Stats of the same service that read from another pool.
func (s *Stats) From(d *db.DB) *Stats { return NewStats(d, s.timezone) }

// OfKey is a key's all-time block.
func OfKey(t db.KeyCounter) Block {
	return block(t.Requests, t.InputTokens, t.OutputTokens, t.CacheCreateTokens, t.CacheReadTokens, t.Ephemeral1hTokens, t.Cost)
}

func block(requests, in, out, create, read, e1h int64, cost decimal.Decimal) Block {
	return Block{Requests: requests, Cost: cost, Counts: Counts{
		Input: in, Output: out, CacheCreate: create, CacheRead: read, Ephemeral1h: e1h}}
}

// Keys reads the periods of many keys in one statement. asOf nil is now.
func (s *Stats) Keys(ctx context.Context, ids []uuid.UUID, asOf *time.Time) (map[uuid.UUID]Periods, error) {
	rows, err := db.Steady(ctx, s.db, func(q *db.Queries) ([]db.KeyUsagePeriodsRow, error) {
		return q.KeyUsagePeriods(ctx, db.KeyUsagePeriodsParams{KeyIDs: ids, Timezone: s.timezone, AsOf: asOf})
	})
	if err != nil {
		return nil, fmt.Errorf("reading usage of keys: %w", err)
	}
	found := make(map[uuid.UUID]Periods, len(ids))
	for _, r := range rows {
		p := found[r.KeyID]
		p.set(r.Period, block(r.Requests, r.InputTokens, r.OutputTokens, r.CacheCreateTokens, r.CacheReadTokens, r.Ephemeral1hTokens, r.Cost))
		found[r.KeyID] = p
	}
	return found, nil
}

func (p *Periods) set(name string, b Block) {
	switch name {
	case "daily":
		p.Daily = b
	case "weekly":
		p.Weekly = b
	case "monthly":
		p.Monthly = b
	}
}

// KeyModels reads a key's usage by model, dearest first.
func (s *Stats) KeyModels(ctx context.Context, id uuid.UUID) ([]ModelBlock, error) {
	rows, err := db.Steady(ctx, s.db, func(q *db.Queries) ([]db.KeyUsageModelsRow, error) { return q.KeyUsageModels(ctx, id) })
	if err != nil {
		return nil, fmt.Errorf("reading models of a key: %w", err)
	}
	models := make([]ModelBlock, len(rows))
	for i, r := range rows {
		models[i] = ModelBlock{r.Model, block(r.Requests, r.InputTokens, r.OutputTokens, r.CacheCreateTokens, r.CacheReadTokens, r.Ephemeral1hTokens, r.Cost)}
	}
	return models, nil
}

// KeyDays reads what a key used on each of the last days, oldest first; none for a day
// without use.
func (s *Stats) KeyDays(ctx context.Context, id uuid.UUID, days int32) ([]db.KeyUsageDaysRow, error) {
	rows, err := db.Steady(ctx, s.db, func(q *db.Queries) ([]db.KeyUsageDaysRow, error) {
		return q.KeyUsageDays(ctx, db.KeyUsageDaysParams{KeyID: id, Timezone: s.timezone, Days: days})
	})
	if err != nil {
		return nil, fmt.Errorf("reading days of a key: %w", err)
	}
	return rows, nil
}

// Timezone is the IANA name of the zone whose midnights part days.
func (s *Stats) Timezone() string { return s.timezone }

// Tail tells how much the rollups do not hold yet.
func (s *Stats) Tail(ctx context.Context) (db.TailSizeRow, error) {
	size, err := s.db.TailSize(ctx)
	if err != nil {
		return size, fmt.Errorf("counting what the rollups do not hold: %w", err)
	}
	return size, nil
}

// AccountModels reads an account's usage by model, dearest first.
func (s *Stats) AccountModels(ctx context.Context, id string) ([]ModelBlock, error) {
	rows, err := s.db.AccountUsageModels(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading models of an account: %w", err)
	}
	models := make([]ModelBlock, len(rows))
	for i, r := range rows {
		models[i] = ModelBlock{r.Model, block(r.Requests, r.InputTokens, r.OutputTokens, r.CacheCreateTokens, r.CacheReadTokens, r.Ephemeral1hTokens, r.Cost)}
	}
	return models, nil
}

// AccountsAfter names an account that a page of AccountList begins after.
type AccountsAfter struct {
	Tokens int64 // of the day
	ID     string
}

// Account is what an account served.
type Account struct {
	ID                  string
	FirstUsed, LastUsed time.Time
	AsOf                time.Time // whose day, week and month the periods are
	Total               Block
	Periods
}

// AccountList reads a page of accounts, those with the most tokens on the day of asOf first,
// all of them in one statement. after nil begins at the start; asOf nil is now.
func (s *Stats) AccountList(ctx context.Context, after *AccountsAfter, asOf *time.Time, limit int32) ([]Account, error) {
	p := db.AccountListParams{AsOf: asOf, Timezone: s.timezone, RowLimit: limit}
	if after != nil {
		p.AfterTokens, p.AfterID = after.Tokens, &after.ID
	}
	return s.accounts(ctx, p)
}

// Account reads one account; NotFound when it was never used.
func (s *Stats) Account(ctx context.Context, id string, asOf *time.Time) (Account, error) {
	found, err := s.accounts(ctx, db.AccountListParams{AsOf: asOf, Timezone: s.timezone, AccountID: &id, RowLimit: 1})
	if err != nil {
		return Account{}, err
	}
	if len(found) == 0 {
		return Account{}, fault.New(fault.NotFound, "No usage of this account has been recorded.")
	}
	return found[0], nil
}

func (s *Stats) accounts(ctx context.Context, p db.AccountListParams) (found []Account, err error) {
	rows, err := s.db.AccountList(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("listing accounts: %w", err)
	}
	for _, r := range rows { // those of an account follow each other
		if n := len(found); n == 0 || found[n-1].ID != r.AccountID {
			found = append(found, Account{ID: r.AccountID, FirstUsed: r.FirstUsedAt, LastUsed: r.LastUsedAt, AsOf: r.AsOf})
		}
		one := &found[len(found)-1]
		b := block(r.Requests, r.InputTokens, r.OutputTokens, r.CacheCreateTokens, r.CacheReadTokens, r.Ephemeral1hTokens, r.Cost)
		if r.Period == "total" {
			one.Total = b
		} else {
			one.set(r.Period, b)
		}
	}
	return found, nil
}
