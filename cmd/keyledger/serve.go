package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/alert"
	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/loop"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/internal/report"
	"github.com/keyledger/keyledger/internal/rollup"
	"github.com/keyledger/keyledger/internal/standby"
	"github.com/keyledger/keyledger/internal/tracing"
	"github.com/keyledger/keyledger/internal/upkeep"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
	"github.com/keyledger/keyledger/migrations"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the service against DATABASE_URL", Args: cobra.NoArgs,
		Long: "Runs the service. It is configured by environment variables only:\n\n" + helpOf(config.Variables()),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(os.Environ())
			if err != nil {
				return fmt.Errorf("the configuration is wrong:\n%w", err)
			}
			log := newLogger(cfg, c.ErrOrStderr())
			boundMemory(cfg.CacheKeys, log)
			stop, err := trace(c.Context(), cfg.Tracing, "keyledger")
			if err != nil {
				return err
			}
			defer stop()
			s, err := start(c.Context(), cfg, log)
			if err != nil {
				return err
			}
			return s.run(c.Context())
		},
	}
}

// trace begins to send traces, where that is asked for. stop sends what is left.
func trace(ctx context.Context, cfg config.Tracing, service string) (stop func(), err error) {
	end, err := tracing.Start(ctx, tracing.Options{Endpoint: strings.TrimSuffix(cfg.OTLPEndpoint, "/"), Sample: cfg.TraceSample, Service: service, Version: version})
	if err != nil {
		return nil, err
	}
	if cfg.OTLPEndpoint != "" {
		db.Trace()
	}
	return func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceGrace)
		defer cancel()
		_ = end(last) // what a collector does not take is lost: traces are no ledger
	}, nil
}

// traceGrace is how long the last traces may take.
const traceGrace = 5 * time.Second

// gcPercent is how much garbage is let gather, in percent of what is in use, before it is
// collected: memory is spent to save the processor.
const gcPercent = 200

// What the process is to stay within, in bytes, beyond which garbage is collected more often:
// 250 MB with the default of keys in memory.
const (
	memoryBase  = 180 << 20
	memoryOfKey = 700
)

// boundMemory keeps the process within what it needs for so many keys in memory, and within
// what its container allows. Go's own GOMEMLIMIT and GOGC overrule it.
func boundMemory(keys int, log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	need := memoryBase + memoryOfKey*uint64(keys) //nolint:gosec // at least 1, as the configuration checks
	limit, err := memlimit.Set(memlimit.WithProvider(func() (uint64, error) {
		if allowed, err := memlimit.FromCgroup(); err == nil && allowed > 0 {
			return min(need, allowed/10*9), nil // the rest is for what Go does not count
		}
		return need, nil
	}), memlimit.WithRatio(1))
	if err == nil && limit > 0 {
		log.Debug("memory is bounded", "bytes", limit)
	}
}

func newLogger(cfg config.Loaded, w io.Writer) *slog.Logger {
	return logger(cfg.LogLevel, cfg.LogFormat, w)
}

// logger writes logs of a level in a format, as config has checked them.
func logger(levelName, format string, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(levelName)) // checked
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// service is everything that runs, wired together.
type service struct {
	cfg       config.Loaded
	log       *slog.Logger
	db        *db.DB // for lists and all else
	migrator  *migrations.Migrator
	passes    *upkeep.Passes
	public    listener
	metrics   *listener      // nil: none wanted
	authz     *listener      // nil: none wanted
	grpc      *listener      // nil: none wanted
	relay     *relayListener // nil: none wanted
	refusals  *admit.Refusals
	hot       *db.DB           // for what others wait behind
	patient   *db.DB           // for what may wait for a row
	changing  *db.DB           // for changes of keys and background passes: they wait behind no reader
	reporting *db.DB           // for reports
	standby   *standby.Standby // nil: there is none
	listsOf   *db.DB           // on the standby
	reportsOf *db.DB           // on the standby
	changes   *db.Listener
	memories  memories // follow what changes hears
	verifier  *verify.Verifier
	decider   *admit.Decider
	recorder  *usage.Recorder
	reports   *report.Reports
	rollup    *rollup.Rollup
	alerts    *alert.Passes
	sender    *alert.Sender
	measures  *metrics.Metrics
}

// shutdownGrace is how long requests under way may take when the service stops.
const shutdownGrace = 15 * time.Second

const (
	// reportShare: one in so many of MAX_CONNS is for reports, which may take long.
	reportShare = 3
	// standbyEvery is how often it is asked how far the standby is behind.
	standbyEvery = 500 * time.Millisecond
	// changeConns is for changes of keys, each of which takes milliseconds.
	changeConns = 3
)

// start opens everything in order, and fails with what to do about it.
func start(ctx context.Context, cfg config.Loaded, log *slog.Logger) (_ *service, err error) {
	for _, name := range cfg.Unknown {
		log.Warn("this variable is not a setting of keyledger: a typing error?", "name", name)
	}
	s := &service{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	public, err := listen(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s.public.Listener = api.PerAddress(public, cfg.MaxPerAddr, cfg.TrustedProxies)
	reports := max(1, cfg.MaxConns/reportShare)
	lists := max(1, cfg.MaxConns-reports)
	if s.db, err = db.Open(ctx, cfg.DatabaseURL, lists); err != nil {
		return nil, err
	}
	if s.reporting, err = db.Open(ctx, cfg.DatabaseURL, reports); err != nil {
		return nil, err
	}
	if cfg.ReportsURL != "" {
		var failed error
		s.listsOf, err = db.OpenLater(ctx, cfg.ReportsURL, lists)
		s.reportsOf, failed = db.OpenLater(ctx, cfg.ReportsURL, reports)
		if err = errors.Join(err, failed); err != nil {
			return nil, fmt.Errorf("KEYLEDGER_REPORTS_URL: %w", err)
		}
		s.standby = standby.New(s.db, s.listsOf, cfg.ReportsLag)
	}
	if s.changing, err = db.Open(ctx, cfg.DatabaseURL, changeConns); err != nil {
		return nil, err
	}
	writers := int32(cfg.Writers) //nolint:gosec // at most 100
	if s.hot, err = db.OpenHot(ctx, cfg.DatabaseURL, 2*writers+4, db.ShortPatience); err != nil {
		return nil, err
	}
	if s.patient, err = db.OpenHot(ctx, cfg.DatabaseURL, writers+2, db.Patience); err != nil {
		return nil, err
	}
	if s.migrator, err = migrations.Open(cfg.MigrationURL()); err != nil {
		return nil, err
	}
	if behind, err := s.schemaBehind(ctx); err != nil || behind {
		return nil, errors.Join(err, errors.New("the database's schema is behind this version. Run: keyledger migrate up"))
	}
	if err := s.agree(ctx); err != nil {
		return nil, err
	}
	return s, s.wire(ctx)
}

func (s *service) schemaBehind(ctx context.Context) (bool, error) {
	current, needed, err := s.migrator.Versions(ctx)
	return current < needed, err
}

// agree compares this configuration with what the database was first used with.
func (s *service) agree(ctx context.Context) error {
	if _, err := s.db.ZoneCheck(ctx, s.cfg.Timezone); err != nil {
		return fmt.Errorf("KEYLEDGER_TIMEZONE: %w", db.Fault(err))
	}
	zone, err := s.db.SettingAgree(ctx, db.SettingAgreeParams{Name: "timezone", Value: s.cfg.Timezone})
	if err != nil {
		return fmt.Errorf("reading the database's settings: %w", err)
	}
	if zone != s.cfg.Timezone {
		return fmt.Errorf("this database parts its days in %s, but KEYLEDGER_TIMEZONE says %s. Set it to %s; or, to part days in %s from now on and leave past ones as they are, run:\n  psql \"$DATABASE_URL\" -c \"UPDATE service_settings SET value = '%s' WHERE name = 'timezone'\"\nand let whoever reads in SQL connect anew",
			zone, s.cfg.Timezone, zone, s.cfg.Timezone, s.cfg.Timezone)
	}
	for _, p := range s.cfg.PepperList {
		check := key.Pepper(p).CheckValue()
		known, err := s.db.SettingAgree(ctx, db.SettingAgreeParams{Name: "pepper:" + p.ID, Value: check})
		if err != nil {
			return fmt.Errorf("reading the database's settings: %w", err)
		}
		if known != check {
			return fmt.Errorf("pepper %s is not the one that this database was used with: keys hashed under it would not be found. Restore it, or add the new one under another id before it", p.ID)
		}
	}
	return s.warnOfLostPeppers(ctx)
}

func (s *service) warnOfLostPeppers(ctx context.Context) error {
	used, err := s.db.PepperUse(ctx)
	if err != nil {
		return fmt.Errorf("reading which peppers are in use: %w", err)
	}
	for _, u := range used {
		configured := slices.ContainsFunc(s.cfg.PepperList, func(p config.Pepper) bool { return p.ID == u.PepperID })
		if u.PepperID == key.LegacyPepperID {
			configured = s.cfg.LegacyPepper != ""
		}
		if !configured {
			s.log.Warn("keys hashed under a pepper that is not configured verify as NOT_FOUND", "pepper", u.PepperID, "secrets", u.Secrets)
		}
	}
	return nil
}

// run serves until ctx ends or something breaks, then stops in order: HTTP
// intake, what waits for its transaction, background loops, the pools.
func (s *service) run(ctx context.Context) error {
	defer s.close()
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() {
		loop.Every(loops, s.log, "expire keys", s.cfg.ExpiryInterval, time.Minute, func(ctx context.Context) error {
			_, err := s.passes.Keys(ctx, db.Actor{Name: "system"}, nil)
			return err
		})
	})
	background.Go(func() { s.changes.Run(loops, s.memories.forget, s.memories.forgetAll) })
	background.Go(func() { loop.Every(loops, s.log, "tidy", 10*time.Minute, 10*time.Minute, s.passes.Tidy) })
	background.Go(func() {
		loop.Every(loops, s.log, "archive", 10*time.Minute, 6*time.Hour, func(ctx context.Context) error {
			_, err := s.passes.Archive(ctx)
			return err
		})
	})
	background.Go(func() { loop.Every(loops, s.log, "close admissions", time.Minute, time.Minute, s.passes.Admissions) })
	background.Go(func() { loop.Every(loops, s.log, "statistics", time.Second, time.Minute, s.refreshStatistics) })
	background.Go(func() { loop.Every(loops, s.log, "roll-up", s.cfg.RollupInterval, time.Hour, s.rollUp) })
	background.Go(func() {
		loop.Every(loops, s.log, "look for alerts", s.cfg.AlertInterval, 10*time.Minute, func(ctx context.Context) error {
			_, err := s.alerts.Look(ctx, nil)
			return err
		})
	})
	if s.standby != nil {
		background.Go(func() {
			loop.Every(loops, s.log, "measure the standby", standbyEvery, 5*time.Second, s.standby.Measure)
		})
	}
	background.Go(func() { loop.Every(loops, s.log, "show state", 20*time.Second, 20*time.Second, s.showState) })
	background.Go(func() { s.sender.Run(loops, time.Second) })
	background.Go(func() { loop.Every(loops, s.log, "count refusals", 2*time.Second, 10*time.Second, s.refusals.Flush) })
	failed := make(chan error, len(s.listeners()))
	for _, l := range s.listeners() {
		go func() { failed <- l.server.Serve(l.Listener) }()
	}
	addrs := []any{"addr", s.public.Addr().String(), "version", version}
	if s.relay != nil {
		addrs = append(addrs, "relay", s.relay.Addr().String())
	}
	s.log.Info("serving", addrs...)
	var err error
	select {
	case <-ctx.Done():
		s.log.Info("stopping: requests under way are finished first")
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	err = errors.Join(err, s.shutListeners(ctx))
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if s.relay != nil { // what it settles needs those that are closed next
		err = errors.Join(err, s.relay.relay.Close(closing))
	}
	err = errors.Join(err, s.verifier.Close(closing), s.decider.Close(closing), s.recorder.Close(closing))
	stopLoops()
	background.Wait()
	return errors.Join(err, s.refusals.Flush(closing))
}

// refreshStatistics keeps plans right for tables that have grown.
func (s *service) refreshStatistics(ctx context.Context) error {
	tables, err := s.changing.RefreshStatistics(ctx)
	if len(tables) > 0 {
		s.log.InfoContext(ctx, "tables that had outgrown their statistics were analysed", "tables", tables)
	}
	return err
}

// rollUp adds what was recorded to the rollups.
func (s *service) rollUp(ctx context.Context) error {
	rows, err := s.rollup.Roll(ctx)
	if rows > 0 {
		s.log.DebugContext(ctx, "ledger rows were added to the rollups", "rows", rows)
	}
	return err
}

// close releases what start opened.
func (s *service) close() {
	for _, l := range s.listeners() {
		_ = l.Close()
	}
	if s.migrator != nil {
		_ = s.migrator.Close()
	}
	for _, pool := range []*db.DB{s.hot, s.patient, s.changing, s.reporting, s.listsOf, s.reportsOf, s.db} {
		if pool != nil {
			pool.Close()
		}
	}
}
