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
// whether it can hear: it is live only as long as it hears the nonces that it sends
// through the pool. Behind PgBouncer in transaction mode LISTEN succeeds and hears
// nothing; a half-open connection is silent, not broken; and after a failover the two
// may have different servers.
type Listener struct {
	// URL is a direct connection to the database.
	URL string
	// DB is the pool that the nonce is sent through.
	DB  *DB
	Log *slog.Logger
	// Changed is told of each change: a kind and an id. Called by one goroutine.
	Changed func(kind, id string)
	// Reset is called when changes may have been missed, before the listener counts
	// as live again.
	Reset func()

	asked  atomic.Int64 // when the last nonce that was heard was sent, in ns since began
	offset atomic.Int64 // the database's clock minus ours, in ns
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
// after a pause that grows from a tenth of a second to five.
func (l *Listener) Run(ctx context.Context) {
	pause, deaf := time.Duration(0), false
	for ctx.Err() == nil {
		err := l.listen(ctx, func() {
			if deaf {
				l.Log.InfoContext(ctx, "changes are heard again")
			}
			pause, deaf = 0, false
		})
		l.asked.Store(0)
		if ctx.Err() != nil {
			return
		}
		if !deaf {
			l.Log.WarnContext(ctx, "changes are not heard: every request asks the database until they are", "error", err)
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
	cfg, err := pgx.ParseConfig(l.URL)
	if err != nil {
		return errors.New("the URL to listen on is not a PostgreSQL URL or keyword string")
	}
	setDefault(cfg, "application_name", "keyledger listener")
	starting, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(starting, cfg)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(starting, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	l.Reset()
	if err := l.beat(ctx, conn); err != nil {
		return err
	}
	ready()
	return l.hear(ctx, conn)
}

// beat sends a nonce through the pool and waits until it is heard here: proof that
// what is committed there is told here, and that all that was told before has been
// passed on. With it comes the database's clock.
func (l *Listener) beat(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	nonce := kindNonce + " " + uuid.NewString()
	sent := time.Now()
	var now time.Time
	if err := l.DB.Scan(ctx, "SELECT clock_timestamp() FROM pg_notify($1, $2)", []any{channel, nonce}, &now); err != nil {
		return fmt.Errorf("sending the nonce: %w", err)
	}
	answered := time.Since(sent)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("the nonce was not heard (behind PgBouncer, set KEYLEDGER_LISTEN_URL to a direct connection): %w", err)
		}
		if n.Payload == nonce {
			break
		}
		l.tell(n)
	}
	l.offset.Store(int64(now.Sub(sent.Add(answered / 2))))
	l.asked.Store(int64(sent.Sub(began)))
	return nil
}

// hear tells of changes as they come, and sends a nonce in between.
func (l *Listener) hear(ctx context.Context, conn *pgx.Conn) error {
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
			if err := l.beat(ctx, conn); err != nil {
				return err
			}
			next = time.Now().Add(heartbeat)
		}
	}
}

func (l *Listener) tell(n *pgconn.Notification) {
	if kind, id, _ := strings.Cut(n.Payload, " "); kind != kindNonce {
		l.Changed(kind, id)
	}
}
