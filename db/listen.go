package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The kinds of things whose changes are announced: see tell_change in migrations.
const (
	KindKey    = "key"    // a key or one of its secrets; by the key's id
	KindToken  = "token"  // an access token; by its id
	KindPrices = "prices" // the price catalogue
)

const (
	channel   = "keyledger"
	kindNonce = "nonce"

	// heartbeat is how often a listener sends a nonce.
	heartbeat = 250 * time.Millisecond
	// trust is how long after it sent the last nonce that it heard a listener still
	// counts as live: what it has not heard by then, it may never hear.
	trust = 900 * time.Millisecond
	// answerTimeout bounds the wait for a nonce.
	answerTimeout = 2 * time.Second
	// longestPause bounds the pause before the next try to connect.
	longestPause = 5 * time.Second
)

// Listener hears which rows have changed, on a connection of its own. It knows
// whether it can hear: it is live only as long as it hears the nonces that it sends,
// on a second connection of its own, to the server that the pool has. A pool that is
// busy delays neither; one that opens a connection may have another server since, so the
// second connection is then made anew. Behind PgBouncer in transaction mode LISTEN succeeds and hears
// nothing; a half-open connection is silent, not broken; and after a failover the two
// may have different servers.
type Listener struct {
	url  string
	pool *DB
	log  *slog.Logger
	took func(time.Duration)

	changed func(kind, id string)
	reset   func()

	asked  atomic.Int64 // when the last nonce that was heard was sent, in ns since began
	offset atomic.Int64 // the database's clock minus ours, in ns
}

// NewListener makes a listener. url is a direct connection to the database; nonces go to the
// server that pool has, whose answers are remembered; took is told how long each nonce took from
// its sending until it was heard.
func NewListener(url string, pool *DB, log *slog.Logger, took func(time.Duration)) *Listener {
	return &Listener{url: url, pool: pool, log: log, took: took}
}

// began is what monotonic times are counted from.
var began = time.Now()

// Live tells whether every change that was committed some 900 ms ago has been heard.
func (l *Listener) Live() bool {
	asked := l.asked.Load()
	return asked != 0 && time.Since(began)-time.Duration(asked) < trust
}

// Clock is the database's clock as the last nonce told it, right to within
// half the time that one took, and whether the listener is live.
func (l *Listener) Clock() (now time.Time, live bool) {
	return time.Now().Add(time.Duration(l.offset.Load())), l.Live()
}

// Run listens until ctx ends, and connects again whenever the connection is lost,
// after a pause that grows from a tenth of a second to five. It calls changed with the kind and
// the id of each change, and reset when changes may have been missed, before it counts as live
// again. It is run once.
func (l *Listener) Run(ctx context.Context, changed func(kind, id string), reset func()) {
	l.changed, l.reset = changed, reset
	pause, deaf := time.Duration(0), false
	for ctx.Err() == nil {
		err := l.listen(ctx, func() {
			if deaf {
				l.log.InfoContext(ctx, "changes are heard again")
			}
			pause, deaf = 0, false
		})
		l.asked.Store(0)
		if ctx.Err() != nil {
			return
		}
		if !deaf {
			l.log.WarnContext(ctx, "changes are not heard: every request asks the database until they are", "error", err)
		}
		deaf = true
		pause = min(max(2*pause, 100*time.Millisecond), longestPause)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // jitter, not a secret
		}
	}
}

// listen listens on one connection until it fails. It calls ready once it hears.
func (l *Listener) listen(ctx context.Context, ready func()) error {
	starting, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	cfg, err := pgx.ParseConfig(l.url)
	if err != nil {
		return errors.New("the URL to listen on is not a PostgreSQL URL or keyword string")
	}
	setDefault(cfg, "application_name", listenerName)
	conn, err := pgx.ConnectConfig(starting, cfg)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(starting, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	l.reset()
	out := &sender{pool: l.pool}
	defer out.close(ctx)
	if err := l.beat(ctx, conn, out); err != nil {
		return err
	}
	ready()
	return l.hear(ctx, conn, out)
}

// sender is a connection to the server that a pool has.
type sender struct {
	pool   *DB
	conn   *pgx.Conn
	opened int64 // connections that the pool had opened when this one was made
}

// get is the connection, made anew when the pool has opened one since.
func (s *sender) get(ctx context.Context) (*pgx.Conn, error) {
	opened := s.pool.pool.Stat().NewConnsCount()
	if s.conn != nil && s.opened == opened {
		return s.conn, nil
	}
	s.close(ctx)
	cfg := s.pool.pool.Config().ConnConfig
	cfg.RuntimeParams["application_name"] = "keyledger heartbeat"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to send: %w", err)
	}
	s.conn, s.opened = conn, opened
	return conn, nil
}

func (s *sender) close(ctx context.Context) {
	if s.conn != nil {
		closeConn(ctx, s.conn)
		s.conn = nil
	}
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(closing)
}

// beat sends a nonce to where the pool's statements go and waits until it is heard here: proof that
// what is committed there is told here, and that all that was told before has been
// passed on. With it comes the database's clock.
func (l *Listener) beat(ctx context.Context, conn *pgx.Conn, out *sender) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	nonce := kindNonce + " " + uuid.NewString()
	var now time.Time
	// The simple protocol prepares nothing: it works through any pooler.
	const sql = "SELECT clock_timestamp() FROM pg_notify($1, $2)"
	to, err := out.get(ctx)
	if err != nil {
		return err
	}
	sent := time.Now()
	if err := to.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol, channel, nonce).Scan(&now); err != nil {
		return fmt.Errorf("sending the nonce: %w", err)
	}
	answered := time.Since(sent)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("the nonce was not heard (is there a pooler between, or do KEYLEDGER_LISTEN_URL and DATABASE_URL lead to different servers?): %w", err)
		}
		if n.Payload == nonce {
			break
		}
		l.tell(n)
	}
	l.offset.Store(int64(now.Sub(sent.Add(answered / 2))))
	l.asked.Store(int64(sent.Sub(began)))
	l.took(time.Since(sent))
	return nil
}

// hear tells of changes as they come, and sends a nonce in between.
func (l *Listener) hear(ctx context.Context, conn *pgx.Conn, out *sender) error {
	next := time.Now().Add(heartbeat)
	for {
		waiting, cancel := context.WithDeadline(ctx, next)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			l.tell(n)
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return fmt.Errorf("waiting for changes: %w", err)
		}
		if !time.Now().Before(next) {
			if err := l.beat(ctx, conn, out); err != nil {
				return err
			}
			next = time.Now().Add(heartbeat)
		}
	}
}

func (l *Listener) tell(n *pgconn.Notification) {
	if kind, id, _ := strings.Cut(n.Payload, " "); kind != kindNonce {
		l.changed(kind, id)
	}
}
