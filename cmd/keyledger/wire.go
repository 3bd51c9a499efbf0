package main

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/internal/plug/envoy"
	"github.com/keyledger/keyledger/internal/plug/inprocess"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
	"github.com/keyledger/keyledger/web"
)

// wire puts the concepts together: the only place that does.
func (s *service) wire(ctx context.Context) (err error) {
	cfg := s.cfg
	m := metrics.New()
	s.measures = m
	hasher := &key.Hasher{Prefixes: cfg.KeyPrefixes, Legacy: cfg.LegacyPepper, Checked: cfg.KeyFormat == "checked"}
	for _, p := range cfg.PepperList {
		hasher.Peppers = append(hasher.Peppers, key.Pepper(p))
	}
	s.changes = db.NewListener(cfg.MigrationURL(), s.hot, s.log, m.Beat)
	heard := cache.Changes{Live: s.changes.Live, Clock: s.changes.Clock}
	tokens, prices := access.New(s.hot, heard), price.New(s.hot, heard)
	var secrets [][]byte
	for _, p := range cfg.PepperList {
		secrets = append(secrets, p.Secret)
	}
	sessions, err := access.NewSessions(secrets...)
	if err != nil {
		return fmt.Errorf("deriving the key of sessions: %w", err)
	}
	box, err := alert.NewBox(secrets...)
	if err != nil {
		return fmt.Errorf("deriving the key of webhooks: %w", err)
	}
	webhooks := alert.NewWebhooks(s.db, box, cfg.WebhookNetworks)
	s.alerts = alert.NewPasses(s.changing, cfg.Timezone)
	s.sender = alert.NewSender(webhooks, s.log, func(o alert.Outcome) { m.Delivered.WithLabelValues(string(o)).Inc() })
	limits := coalesce.Limits{Writers: cfg.Writers, MaxBatch: cfg.MaxBatch, MaxQueue: cfg.MaxQueue}
	s.verifier = verify.New(verify.Options{DB: s.hot, Hasher: hasher, Log: s.log, Show: api.ShowKey, Changes: heard, Keys: cfg.CacheKeys, Limits: limits})
	s.memories = memories{s.verifier.Memory(), tokens.Memory(), prices.Memory()}
	s.passes = upkeep.New(upkeep.Options{DB: s.changing, Slow: s.db, Log: s.log, RetentionDays: cfg.RetentionDays, ArchiveDays: cfg.ArchiveDays, DedupHorizon: cfg.DedupHorizon, Expired: m.KeysExpired.Inc})
	if err := s.prepare(ctx, prices, tokens, webhooks); err != nil {
		return err
	}
	s.refusals = admit.NewRefusals(s.db, cfg.Timezone, func(code string, letThrough bool) {
		m.Decided.WithLabelValues(code, strconv.FormatBool(letThrough)).Inc()
	})
	s.hotPath(m, prices, limits)
	s.rollup = rollup.New(s.changing, cfg.Timezone)
	s.reports = report.NewWithStandby(s.reporting, s.reportsOf, s.standby, cfg.Timezone)
	m.Cache("keys", s.verifier.Memory().Stat)
	m.Cache("tokens", tokens.Memory().Stat)
	server := api.New(api.Options{
		DB: s.db, Standby: s.standby, Copy: s.listsOf, Hot: s.hot, Listening: s.changes.Live, Log: s.log, Metrics: m, Tokens: tokens, Sessions: sessions, MaxInFlight: int64(cfg.MaxInFlight),
		Keys: keys.New(keys.Options{Changes: s.changing, Reads: s.db, Hasher: hasher, Rules: rulesOf(cfg)}), Verifier: s.verifier, Decider: s.decider, LeaseTTL: cfg.LeaseTTL,
		Usage: s.recorder, Stats: usage.NewStats(s.db, cfg.Timezone), Reports: s.reports, Rollup: s.rollup,
		Prices: prices, Passes: s.passes, Webhooks: webhooks, Clients: cfg.Clients, Schema: s.migrator.Versions, TrustedProxies: cfg.TrustedProxies,
		Build: api.Build{Version: version, Commit: commitHash()}, WrongTokens: cfg.WrongTokens, Tracing: cfg.OTLPEndpoint != "", OTLPKeys: cfg.KeysByService, Relay: s.relayState, Console: pages(cfg),
	})
	s.public.server = api.HTTPServer(server.Handler(), s.log)
	if s.metrics, err = beside(ctx, cfg.MetricsAddr, api.HTTPServer(m.Handler(), s.log)); err != nil {
		return err
	}
	if s.authz, err = beside(ctx, cfg.AuthzAddr, api.HTTPServer(server.AuthzHandler(), s.log)); err != nil {
		return err
	}
	if s.grpc, err = beside(ctx, cfg.GRPCAddr, envoy.New(envoy.Options{
		Verifier: s.verifier, Decider: s.decider, Recorder: s.recorder, Log: s.log, LeaseTTL: cfg.LeaseTTL, MaxInFlight: int64(cfg.MaxInFlight), TLS: cfg.GRPCTLS,
	})); err != nil || cfg.RelayAddr == "off" {
		return err
	}
	s.relay, err = openRelay(ctx, cfg.Relay, inprocess.New(s.verifier, s.decider, s.recorder), m.Registry(), s.log)
	return err
}

// showState puts among the metrics what the database is asked for: deliveries that wait, and what
// is left of limits of cost.
func (s *service) showState(ctx context.Context) error {
	if s.metrics == nil {
		return nil
	}
	waiting, err := s.db.DeliveriesPending(ctx)
	if err != nil {
		return fmt.Errorf("counting deliveries: %w", err)
	}
	s.measures.Deliveries(waiting.Pending, waiting.OldestSeconds)
	if s.cfg.MetricsKeys == 0 {
		return nil
	}
	rows, err := s.db.BudgetsLeft(ctx, db.BudgetsLeftParams{Timezone: s.cfg.Timezone, RowLimit: int32(s.cfg.MetricsKeys)}) //nolint:gosec // at most 10 000
	if err != nil {
		return fmt.Errorf("reading budgets: %w", err)
	}
	all := make([]metrics.Budget, len(rows))
	for i, row := range rows {
		all[i] = metrics.Budget{Key: row.KeyID.String(), Limit: row.LimitName, Remaining: row.Remaining}
	}
	s.measures.Budgets(all)
	return nil
}

// pages are the files of the console; nil where it is off.
func pages(cfg config.Loaded) fs.FS {
	if cfg.Console == "off" {
		return nil
	}
	return web.Files()
}

// memories are what is remembered of the database.
type memories struct {
	keys   *verify.Memory
	tokens *access.Memory
	prices *price.Memory
}

// forget drops what a change concerns.
func (m memories) forget(kind, text string) {
	id, err := uuid.Parse(text)
	switch {
	case kind == db.KindPrices:
		m.prices.DropAll()
	case err != nil:
		m.forgetAll() // of a newer version: whatever it means, nothing is trusted
	case kind == db.KindKey:
		m.keys.Drop(id)
	case kind == db.KindToken:
		m.tokens.Drop(id)
	default:
		m.forgetAll()
	}
}

func (m memories) forgetAll() {
	m.keys.DropAll()
	m.tokens.DropAll()
	m.prices.DropAll()
}

// prepare makes the database fit for work.
func (s *service) prepare(ctx context.Context, prices *price.Store, tokens *access.Tokens, webhooks *alert.Webhooks) error {
	if _, err := prices.PutBuiltin(ctx); err != nil {
		return err
	}
	if err := s.passes.Tidy(ctx); err != nil {
		return err
	}
	lost, err := webhooks.Reseal(ctx)
	if err != nil {
		return err
	}
	for _, id := range lost {
		s.log.Warn("a webhook's secret was sealed with a pepper that is not configured: nothing is sent to it until it has a new one", "webhook", id)
	}
	if s.cfg.Bootstrap == "" {
		return nil
	}
	made, err := tokens.Bootstrap(ctx, s.cfg.Bootstrap)
	if err != nil {
		return err
	}
	s.log.Info("bootstrap token", "stored", made)
	return nil
}

// rulesOf are the rules that fields of keys are held to.
func rulesOf(cfg config.Loaded) key.Rules {
	rules := key.Rules{DefaultTokenLimit: cfg.DefaultTokenLimit, Services: cfg.Services, Comparable: price.Comparable, Denied: price.Denied}
	for _, c := range cfg.Clients {
		rules.Clients = append(rules.Clients, c.ID)
	}
	return rules
}

// hotPath makes what every request of a relay waits on. Admissions and usage share their
// writers, so that what is committed at the same time never shares a key.
func (s *service) hotPath(m *metrics.Metrics, prices *price.Store, limits coalesce.Limits) {
	cfg := s.cfg
	writers := coalesce.NewWriters(cfg.Writers)
	limits.Name, limits.Flushed = "admissions", m.Flushed("admissions")
	s.decider = admit.New(admit.Options{
		Fast: s.hot, Patient: s.patient, Prices: prices, Clients: cfg.Clients, Timezone: cfg.Timezone, DefaultEstimate: cfg.DefaultEstimate,
		ReservationTTL: cfg.ReservationTTL, RefuseUnpriced: cfg.Unpriced == "refuse", Refusals: s.refusals, Limits: limits, Writers: writers, Log: s.log,
	})
	limits.Name, limits.Flushed = "usage", m.Flushed("usage")
	s.recorder = usage.New(usage.Options{
		Fast: s.hot, Patient: s.patient, Prices: prices, Timezone: cfg.Timezone, Limits: limits, Writers: writers,
		Observe: usage.Observer{
			Recorded: func(_ string, priced bool) { m.Recorded.WithLabelValues(strconv.FormatBool(priced)).Inc() },
			Dearer:   m.Dearer.Inc,
			Repeated: func(conflict bool) { m.Repeated.WithLabelValues(strconv.FormatBool(conflict)).Inc() },
		},
	})
	m.Queue("admissions", s.decider.State)
	m.Queue("usage", s.recorder.State)
	m.Pool("hot", s.hot.PoolStat)
	m.Pool("patient", s.patient.PoolStat)
	m.Pool("changes", s.changing.PoolStat)
	m.Pool("reports", s.reporting.PoolStat)
	m.Pool("reads", s.db.PoolStat)
	m.Listening(s.changes.Live)
}
