package api

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	openapi_types "github.com/oapi-codegen/runtime/types"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
)

// topKeys is how many of the dearest keys an overview names.
const topKeys = 10

// overviewAge is how old an overview may be: it reads what every key counts, and each open
// console asks for it again and again.
const overviewAge = 5 * time.Second

// GetOverview answers GET /v1/overview.
func (s *Server) GetOverview(ctx context.Context, _ GetOverviewRequestObject) (GetOverviewResponseObject, error) {
	answer, err := s.overview.get(ctx, overviewAge, s.readOverview)
	return GetOverview200JSONResponse(answer), err
}

// recent is a value that is read anew when it is too old, by one of those who ask for it while
// the others wait.
type recent[T any] struct {
	mu    sync.Mutex
	read  time.Time
	value T
}

func (r *recent[T]) get(ctx context.Context, age time.Duration, load func(context.Context) (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.read) < age {
		return r.value, nil
	}
	value, err := load(ctx)
	if err == nil {
		r.value, r.read = value, time.Now()
	}
	return value, err
}

func (s *Server) readOverview(ctx context.Context) (answer Overview, err error) {
	zone := s.Reports.Timezone()
	states, err := s.DB.KeyStates(ctx, zone)
	if err != nil {
		return answer, fmt.Errorf("counting keys: %w", err)
	}
	answer = Overview{Day: openapi_types.Date{Time: states.Today}, Timezone: zone, TopToday: []KeyCost{}, TopMonth: []KeyCost{}, TopRefused: []KeyRefusals{}}
	answer.Keys.Active, answer.Keys.Disabled, answer.Keys.Expired = states.Active, states.Disabled, states.Expired
	live, err := s.DB.AdmissionsLiveSum(ctx)
	if err != nil {
		return answer, fmt.Errorf("adding up admissions: %w", err)
	}
	answer.Live.Admissions, answer.Live.ReservedTokens, answer.Live.ReservedCost = live.Leases, live.Tokens, usd(live.Cost)
	refusals, err := s.DB.RefusalsByReason(ctx, states.Today)
	if err != nil {
		return answer, fmt.Errorf("adding up refusals: %w", err)
	}
	refused, err := s.DB.RefusedMost(ctx, db.RefusedMostParams{Day: states.Today, RowLimit: topKeys})
	if err != nil {
		return answer, fmt.Errorf("reading the keys that were refused most: %w", err)
	}
	for _, r := range refused {
		answer.TopRefused = append(answer.TopRefused, KeyRefusals{KeyID: r.KeyID, KeyName: r.Name, Refusals: r.Refusals})
	}
	answer.Refusals = make([]RefusalSum, len(refusals))
	for i, r := range refusals {
		answer.Refusals[i] = RefusalSum{Code: r.Code, LetThrough: r.LetThrough, Today: r.Today, Week: r.Week}
	}
	top, err := s.DB.KeyTop(ctx, db.KeyTopParams{Today: states.Today, RowLimit: topKeys})
	if err != nil {
		return answer, fmt.Errorf("reading the dearest keys: %w", err)
	}
	for _, row := range top {
		list := &answer.TopToday
		if row.Period == "month" {
			list = &answer.TopMonth
		}
		*list = append(*list, KeyCost{KeyID: row.KeyID, KeyName: row.Name, CostUsd: usd(row.Cost)})
	}
	return answer, nil
}

// ListKeySecrets answers GET /v1/keys/{id}/secrets.
func (s *Server) ListKeySecrets(ctx context.Context, r ListKeySecretsRequestObject) (ListKeySecretsResponseObject, error) {
	if _, err := s.Keys.Show(ctx, r.ID); err != nil {
		return nil, err
	}
	rows, err := s.DB.SecretList(ctx, db.SecretListParams{KeyID: r.ID})
	if err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	answer := ListKeySecrets200JSONResponse{Data: make([]Secret, len(rows))}
	for i, row := range rows {
		answer.Data[i] = Secret{Hint: row.Hint, CreatedAt: wire.At(row.CreatedAt), ExpiresAt: wire.AtOrNil(row.ExpiresAt)}
	}
	return answer, nil
}

// refusalDays is for how many days refusals of a key are listed.
const refusalDays = 30

// ListKeyRefusals answers GET /v1/keys/{id}/refusals.
func (s *Server) ListKeyRefusals(ctx context.Context, r ListKeyRefusalsRequestObject) (ListKeyRefusalsResponseObject, error) {
	if _, err := s.Keys.Show(ctx, r.ID); err != nil {
		return nil, err
	}
	rows, err := s.DB.RefusalsOfKey(ctx, db.RefusalsOfKeyParams{KeyID: r.ID, Timezone: s.Reports.Timezone(), Days: refusalDays})
	if err != nil {
		return nil, fmt.Errorf("listing refusals: %w", err)
	}
	answer := ListKeyRefusals200JSONResponse{Data: make([]Refusals, len(rows))}
	for i, row := range rows {
		answer.Data[i] = Refusals{Day: openapi_types.Date{Time: row.Day}, Code: row.Code, LetThrough: row.LetThrough, Refusals: row.Refusals}
	}
	return answer, nil
}

// GetRelay answers GET /v1/relay.
func (s *Server) GetRelay(ctx context.Context, _ GetRelayRequestObject) (GetRelayResponseObject, error) {
	if s.Relay == nil {
		return GetRelay200JSONResponse{Accounts: []RelayAccount{}}, nil
	}
	state := s.Relay()
	if callOf(ctx).identity.Role != access.Admin {
		for i := range state.Accounts {
			state.Accounts[i].Detail = "" // a provider may name in it what is not for all
		}
	}
	return GetRelay200JSONResponse(state), nil
}

// Build is what the binary was built from.
type Build struct{ Version, Commit string }

// GetService answers GET /v1/service.
func (s *Server) GetService(ctx context.Context, _ GetServiceRequestObject) (GetServiceResponseObject, error) {
	server, err := s.DB.ServerVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the database's version: %w", err)
	}
	answer := GetService200JSONResponse{Version: s.Build.Version, Commit: s.Build.Commit, Go: runtime.Version(), Postgresql: server.Version,
		Timezone: s.Reports.Timezone(), StartedAt: wire.At(s.started), Now: wire.At(server.Now), Ready: s.readiness(ctx), Replicas: []Replica{}}
	if answer.Schema.Current, answer.Schema.Needed, err = s.Schema(ctx); err != nil {
		return nil, fmt.Errorf("reading the schema's version: %w", err)
	}
	for _, q := range []struct {
		name  string
		state func() (waiting int, oldest time.Duration)
	}{{"admissions", s.Decider.State}, {"usage", s.Usage.State}} {
		waiting, oldest := q.state()
		answer.Queues = append(answer.Queues, QueueState{Name: q.name, Waiting: waiting, OldestMs: oldest.Milliseconds()})
	}
	for _, pool := range s.pools() {
		open, inUse, most := pool.stat()
		answer.Pools = append(answer.Pools, PoolState{Name: pool.name, Open: int(open), InUse: int(inUse), Most: int(most)})
	}
	replicas, err := s.DB.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		answer.Replicas = append(answer.Replicas, Replica{Address: r.Address, Since: wire.At(r.Since)})
	}
	tail, err := s.Stats.Tail(ctx)
	if err != nil {
		return nil, err
	}
	answer.Rollup.Rows, answer.Rollup.BehindSeconds = tail.RowCount, tail.BehindSeconds
	return answer, nil
}
