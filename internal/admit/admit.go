// Package admit decides whether a request may go on: one call of the database
// decides exactly, over all replicas and under any concurrency. It also extends
// and releases what was admitted; settling is usage with an admission's id.
package admit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/price"
)

// Code is the answer to "may this request go on".
type Code string

// The codes, in the order in which they are tried, after those of verify.
const (
	RequestSettled      Code = "REQUEST_ALREADY_SETTLED"
	ServiceNotPermitted Code = "SERVICE_NOT_PERMITTED"
	ModelNotAllowed     Code = "MODEL_NOT_ALLOWED"
	ClientNotAllowed    Code = "CLIENT_NOT_ALLOWED"
	ModelNotPriced      Code = "MODEL_NOT_PRICED"
	ConcurrencyExceeded Code = "CONCURRENCY_EXCEEDED"
	RequestsExceeded    Code = "REQUESTS_EXCEEDED"
	TokensExceeded      Code = "TOKENS_EXCEEDED"
	DailyCostExceeded   Code = "DAILY_COST_EXCEEDED"
	WeeklyCostExceeded  Code = "WEEKLY_COST_EXCEEDED"
	MonthlyCostExceeded Code = "MONTHLY_COST_EXCEEDED"
	TotalCostExceeded   Code = "TOTAL_COST_EXCEEDED"
	Allowed             Code = "ALLOWED"
)

// Unknown counts a request with no key to it, which was refused with a code of verify's.
func (d *Decider) Unknown(code string) { d.o.Refusals.Unknown(code) }

// Bounds of a lease, in seconds.
const (
	MinLease = 5
	MaxLease = 3600
)

// The most that a request is told of, in bytes where it is cut and in characters where it is refused.
const (
	MaxText      = 200 // request id, service, model
	MaxUserAgent = 1000
)

// Request asks whether a request of a key may go on.
type Request struct {
	KeyID        uuid.UUID
	RequestID    string           // empty: none; the same one gives the same admission while its lease lives
	Service      string           // empty: not told
	Model        string           // as received; empty: not told
	UserAgent    string           // empty: not told
	Tokens       int64            // estimate; 0: none
	CostUSD      *decimal.Decimal // estimate; nil: from Use, from Tokens, else the key's own
	Use          *Use             // estimate by kind of token; nil: none
	LeaseSeconds int32            // 0: takes no slot
	DryRun       bool             // decide, and consume nothing
}

// Use is what a request may use at the most.
type Use struct {
	price.Tokens

	Unbounded bool // the output has no bound but the model's own
}

// cost is what so much costs by a price.
func (u Use) cost(of price.Price) decimal.Decimal {
	if u.Unbounded {
		u.Output = cmp.Or(of.MaxOutput, price.UnknownMaxOutput)
	}
	return of.Cost(u.Tokens)
}

// Limit is one limit that is set, as it stands after the decision.
type Limit struct {
	Name      string // as in the list of limits
	Limit     decimal.Decimal
	Used      decimal.Decimal
	Reserved  decimal.Decimal
	Remaining decimal.Decimal
	ResetsAt  *time.Time // nil: it does not, or no window is open
}

// Decision is the answer to a request.
type Decision struct {
	Allowed           bool
	Code              Code
	Message           string
	Observed          Code       // the limit that an observing key went over; empty: none
	RetryAfterSeconds *int64     // nil: waiting does not help, or nobody can tell
	AdmissionID       uuid.UUID  // zero: none was made
	LeaseExpiresAt    *time.Time // nil: no lease
	Repeated          bool       // an earlier request with this id was admitted; nothing was consumed
	Limits            []Limit
	Cost              decimal.Decimal // USD weighed against cost limits: the estimate, or what stands in for one
	CostFrom          string          // where Cost comes from, in words
	Unpriced          bool            // the model has no price, and such models are refused on keys with a cost limit
	DecidedAt         time.Time
}

// Options make a Decider. All must be set, but that Limits have defaults.
type Options struct {
	Fast            *db.DB // a pool whose statements give up soon on a row that somebody holds
	Patient         *db.DB // a pool whose statements may wait for a row
	Prices          *price.Store
	Clients         []config.Client
	Timezone        string          // IANA zone whose midnights part days
	DefaultEstimate decimal.Decimal // USD reserved for a request without an estimate, on a key without one
	ReservationTTL  time.Duration
	RefuseUnpriced  bool // refuse models without a price or an estimate on keys with a cost limit
	Refusals        *Refusals
	Limits          coalesce.Limits
	Writers         *coalesce.Writers // shared with usage, so that no two batches share a key
	Log             *slog.Logger
}

// Decider decides. It is safe for concurrent use.
type Decider struct {
	o      Options
	group  *coalesce.Lanes[Request, decided, uuid.UUID]
	leases *coalesce.Lanes[change, db.LeasesChangeRow, uuid.UUID]
	ends   endings
}

// decided is a decision with the row that it was made of; later: it could not be made in
// this batch.
type decided struct {
	Decision

	row   db.AdmitRow
	later error
}

// maxTries is how often a request is asked for in a batch when it could not be decided with
// the one that it repeats.
const maxTries = 3

// none is what the statement takes as "no estimate".
var none = decimal.NewFromInt(-1)

// Decide decides one request, in one transaction with those that come at the same time. A refusal is an answer, not an error. now nil is the
// database's clock, read after any wait.
func (d *Decider) Decide(ctx context.Context, r Request, now *time.Time) (Decision, error) {
	// A dry run is decided alone: a request of the same id must not get its answer.
	if now == nil && !r.DryRun {
		var one decided
		for range maxTries {
			var err error
			if one, err = d.group.Do(ctx, r); err != nil {
				return Decision{}, err
			}
			if one.later == nil {
				return d.withWait(ctx, r, one, d.remembered), nil
			}
		}
		return Decision{}, one.later
	}
	all, err := d.DecideAll(ctx, []Request{r}, now)
	if err != nil {
		return Decision{}, err
	}
	return all[0], nil
}

// DecideAll decides requests in order; each sees what the ones before it have taken.
// Those of different request ids are decided in one transaction.
func (d *Decider) DecideAll(ctx context.Context, requests []Request, now *time.Time) ([]Decision, error) {
	all, err := d.decideAll(ctx, d.o.Patient, requests, now)
	if err != nil {
		return nil, err
	}
	decisions := make([]Decision, len(all))
	for i, r := range requests {
		if all[i].later != nil {
			return nil, all[i].later
		}
		decisions[i] = d.withWait(ctx, r, all[i], d.read)
	}
	return decisions, nil
}

// decideAll decides each round in a transaction. What a round has admitted stays so
// whatever happens to a later one: its requests, and they alone, are told to come again.
func (d *Decider) decideAll(ctx context.Context, from *db.DB, requests []Request, now *time.Time) ([]decided, error) {
	all := make([]decided, len(requests))
	for nth, places := range rounds(requests) {
		round := make([]Request, len(places))
		for i, place := range places {
			round[i] = requests[place]
		}
		made, err := d.decideRound(ctx, from, round, now)
		if err != nil && nth == 0 {
			return nil, err
		}
		for i, place := range places {
			if err != nil {
				all[place].later = err
			} else {
				all[place] = made[i]
			}
		}
	}
	return all, nil
}

func (d *Decider) decideRound(ctx context.Context, from *db.DB, round []Request, now *time.Time) ([]decided, error) {
	params, err := d.params(ctx, round, now)
	if err != nil {
		return nil, err
	}
	var rows []db.AdmitRow
	err = from.Pipeline(ctx, func(q *db.Queries) (err error) {
		if err = q.CountersLock(ctx, params.KeyIDs); err == nil {
			rows, err = q.Admit(ctx, params)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("deciding: %w", err)
	}
	made := make([]decided, len(rows))
	for i, row := range rows {
		one := decided{Decision: decision(row), row: row}
		one.CostFrom, one.Unpriced = costFrom(round[i], params.Costs[i]), params.Unpriced[i]
		if !round[i].DryRun && !one.Repeated {
			d.o.Refusals.count(round[i].KeyID, row)
		}
		made[i] = one
	}
	return made, nil
}

// rounds splits requests, by their places, into lists in which no two share key and
// request id: a repeat is decided when the one before it is.
func rounds(requests []Request) (lists [][]int) {
	type id struct {
		key     uuid.UUID
		request string
	}
	seen := map[id]int{}
	for i, r := range requests {
		nth := 0
		if r.RequestID != "" {
			nth = seen[id{r.KeyID, r.RequestID}]
			seen[id{r.KeyID, r.RequestID}]++
		}
		if nth == len(lists) {
			lists = append(lists, nil)
		}
		lists[nth] = append(lists[nth], i)
	}
	return lists
}

func (d *Decider) params(ctx context.Context, requests []Request, now *time.Time) (db.AdmitParams, error) {
	catalogue, at, err := d.o.Prices.Current(ctx)
	if err != nil {
		return db.AdmitParams{}, err
	}
	if now != nil {
		at = *now
	}
	p := db.AdmitParams{DefaultEstimate: d.o.DefaultEstimate, ReservationSeconds: int32(d.o.ReservationTTL.Seconds()), Timezone: d.o.Timezone, Now: now}
	for _, r := range requests {
		entry, priced := catalogue.Lookup(r.Model, at)
		cost := none
		switch {
		case r.CostUSD != nil:
			cost = *r.CostUSD
		case r.Use != nil && priced:
			cost = r.Use.cost(entry)
		case r.Tokens > 0 && priced:
			cost = entry.Dearest(r.Tokens)
		}
		p.IDs = append(p.IDs, uuid.Must(uuid.NewV7()))
		p.KeyIDs = append(p.KeyIDs, r.KeyID)
		p.RequestIDs = append(p.RequestIDs, r.RequestID)
		p.Services = append(p.Services, r.Service)
		p.Models = append(p.Models, r.Model)
		p.ModelNames = append(p.ModelNames, price.Comparable(r.Model))
		p.DeniedNames = append(p.DeniedNames, catalogue.Names(r.Model))
		p.Clients = append(p.Clients, d.clientsOf(r.UserAgent))
		p.Tokens = append(p.Tokens, r.Tokens)
		p.Costs = append(p.Costs, cost.String())
		p.LeaseSeconds = append(p.LeaseSeconds, r.LeaseSeconds)
		p.Unpriced = append(p.Unpriced, d.o.RefuseUnpriced && !priced)
		p.Dry = append(p.Dry, r.DryRun)
	}
	return p, nil
}

// costFrom says where the cost that was weighed comes from; asked is what the
// statement was given.
func costFrom(r Request, asked string) string {
	switch {
	case r.CostUSD != nil:
		return "the request's estimate"
	case asked != none.String() && r.Use != nil:
		return "the tokens that it may use"
	case asked != none.String():
		return fmt.Sprintf("%d tokens at the model's dearest rate", r.Tokens)
	}
	return "the key's estimatePerRequest, or the service's default"
}

// clientsOf are the ids of the clients that a User-Agent may be, by comma.
func (d *Decider) clientsOf(userAgent string) string {
	var ids []string
	for _, c := range d.o.Clients {
		if userAgent != "" && c.Regexp.MatchString(userAgent) {
			ids = append(ids, c.ID)
		}
	}
	return strings.Join(ids, ",")
}

func decision(row db.AdmitRow) Decision {
	d := Decision{Code: Code(row.Code), AdmissionID: row.AdmissionID, LeaseExpiresAt: timeOrNil(row.LeaseExpiresAt), Repeated: row.Repeated && row.AdmissionID != uuid.Nil,
		Limits: limitsOf(row), Cost: amount(row.CostAsked), DecidedAt: row.DecidedAt}
	if row.LetThrough {
		d.Observed, d.Code = d.Code, Allowed
	}
	d.Allowed, d.Message = d.Code == Allowed, messages[d.Code]
	return d
}

// timeOrNil is nil for the statement's "none".
func timeOrNil(t time.Time) *time.Time {
	if t.Year() <= 1 {
		return nil
	}
	return &t
}

// amount reads what the statement wrote.
func amount(text string) decimal.Decimal {
	if text == "0" {
		return decimal.Zero
	}
	return decimal.RequireFromString(text)
}
