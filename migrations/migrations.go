// Package migrations is what the database is: the only source of its schema,
// embedded in the binary and applied by goose.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// The wait for another process that is migrating: asked for every second, for
// an hour.
const (
	lockEverySeconds = 1
	lockTries        = 3600
)

// lockTimeout bounds the wait for a table that somebody uses. A migration that waits
// makes all that come after it wait too, so it gives up before anybody notices.
const lockTimeout = "3s"

// Migrator applies migrations to one database.
type Migrator struct {
	provider *goose.Provider
	conn     *sql.DB

	// Notice is told what a migration has to say; may be nil.
	Notice func(text string)
}

// Step is one migration and its state.
type Step struct {
	Version int64
	Name    string
	Applied *time.Time // nil: pending
}

// Open prepares migrations on a PostgreSQL URL. The connection must be a direct
// one (not PgBouncer in transaction mode): the lock belongs to the session.
func Open(url string) (*Migrator, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		// The parser's error repeats the URL.
		return nil, errors.New("DATABASE_URL is not a PostgreSQL URL or keyword string")
	}
	if cfg.RuntimeParams["lock_timeout"] == "" {
		cfg.RuntimeParams["lock_timeout"] = lockTimeout
	}
	m := &Migrator{}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		// Citus says of every view that it does not distribute it; no view of ours is to be.
		if m.Notice != nil && n.Severity != "DEBUG" && !strings.HasSuffix(n.Message, "that is not in Citus' metadata") {
			m.Notice(n.Message)
		}
	}
	conn := stdlib.OpenDB(*cfg)
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(lockEverySeconds, lockTries))
	if err != nil {
		return nil, fmt.Errorf("making the migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, conn, files, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	m.provider, m.conn = provider, conn
	return m, nil
}

// Close closes the connection.
func (m *Migrator) Close() error { return m.conn.Close() }

// Up applies every pending migration, each in a transaction, and returns what it
// applied. Of several at once one applies, the others wait and find nothing.
func (m *Migrator) Up(ctx context.Context) ([]Step, error) {
	results, err := m.provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrating up: %w", inUse(err))
	}
	return steps(results), nil
}

// Down takes the latest migration back.
func (m *Migrator) Down(ctx context.Context) ([]Step, error) {
	result, err := m.provider.Down(ctx)
	if errors.Is(err, goose.ErrNoNextVersion) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("migrating down: %w", inUse(err))
	}
	return steps([]*goose.MigrationResult{result}), nil
}

// inUse says what to do about a migration that gave up on a table in use.
func inUse(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" { // lock_not_available
		return fmt.Errorf("a table is in use by a long transaction, and waiting for it would hold up everybody else. This migration is not applied; end that transaction (pg_stat_activity, pg_blocking_pids) or run this again later: %w", err)
	}
	return err
}

// Status lists every migration and when it was applied.
func (m *Migrator) Status(ctx context.Context) ([]Step, error) {
	states, err := m.provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the schema's version: %w", err)
	}
	all := make([]Step, len(states))
	for i, s := range states {
		all[i] = Step{Version: s.Source.Version, Name: s.Source.Path}
		if s.State == goose.StateApplied {
			all[i].Applied = &s.AppliedAt
		}
	}
	return all, nil
}

// Versions are the schema's version and the one this binary needs. A schema
// ahead of the binary is fine: migrations keep the previous release working.
func (m *Migrator) Versions(ctx context.Context) (current, needed int64, err error) {
	current, needed, err = m.provider.GetVersions(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	return current, needed, nil
}

// Needed is the schema version that this binary needs: the highest number of a file.
func Needed() (version int64) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return 0 // an embedded folder can always be read
	}
	for _, e := range entries {
		if n, err := goose.NumericComponent(e.Name()); err == nil {
			version = max(version, n)
		}
	}
	return version
}

func steps(results []*goose.MigrationResult) []Step {
	done := make([]Step, len(results))
	for i, r := range results {
		now := time.Now()
		done[i] = Step{Version: r.Source.Version, Name: r.Source.Path, Applied: &now}
	}
	return done
}
