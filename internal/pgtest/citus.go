package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/scaleout"
	"github.com/keyledger/keyledger/migrations"
)

// citusCluster is a cluster of Citus that somebody has brought (make test-citus). Each test has databases of its own on
// every node, cloned from templates there that are migrated and scaled out.
type citusCluster struct {
	nodes []citusNode // the coordinator first
	stem  string      // what its databases' names begin with, so that processes do not meet
}

type citusNode struct {
	url  *url.URL
	host string // as the cluster knows it
	port int
}

// citus is the cluster of KEYLEDGER_TEST_CITUS; nil: tests run on a PostgreSQL of their own.
var citus *citusCluster

// openCitus finds the nodes of a cluster by the URL of a database on its coordinator, and makes the
// templates.
func openCitus(ctx context.Context, coordinator string) (*citusCluster, error) {
	base, err := url.Parse(coordinator)
	if err != nil {
		return nil, fmt.Errorf("KEYLEDGER_TEST_CITUS is not a URL: %w", err)
	}
	c := &citusCluster{stem: fmt.Sprintf("keyledger_%d_", os.Getpid())}
	conn, err := pgx.Connect(ctx, coordinator)
	if err != nil {
		return nil, fmt.Errorf("connecting to the coordinator: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT nodename, nodeport FROM pg_dist_node WHERE isactive AND noderole = 'primary' ORDER BY groupid")
	if err != nil {
		return nil, fmt.Errorf("reading the nodes of the cluster: %w", err)
	}
	for rows.Next() {
		n := citusNode{}
		if err := rows.Scan(&n.host, &n.port); err != nil {
			return nil, err
		}
		u := *base
		if len(c.nodes) > 0 { // the first is the coordinator, which base leads to
			u.Host = net.JoinHostPort(n.host, strconv.Itoa(n.port))
		}
		n.url = &u
		c.nodes = append(c.nodes, n)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(c.nodes) < 2 {
		return nil, errors.New("KEYLEDGER_TEST_CITUS has no worker, or its coordinator is not among its nodes (citus_set_coordinator_host)")
	}
	return c, c.makeTemplate(ctx)
}

// CitusNodes are the URLs of the database postgres on every node of the cluster that tests run on, the
// coordinator's first; none: they run on a PostgreSQL of their own.
func CitusNodes() (urls []string) {
	once.Do(boot)
	if citus != nil {
		for _, n := range citus.nodes {
			urls = append(urls, n.on("postgres"))
		}
	}
	return urls
}

// on is the URL of a database of a node.
func (n citusNode) on(name string) string {
	u := *n.url
	u.Path = "/" + name
	return u.String()
}

func (n citusNode) exec(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, n.on(database))
	if err != nil {
		return fmt.Errorf("connecting to %s of %s:%d: %w", database, n.host, n.port, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// template is the name of the database that those of tests are cloned from.
func (c *citusCluster) template() string { return c.stem + "template" }

func (c *citusCluster) makeTemplate(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := n.exec(ctx, "postgres", "CREATE DATABASE "+c.template()); err != nil {
			return err
		}
		if err := n.exec(ctx, c.template(), "CREATE EXTENSION citus"); err != nil {
			return err
		}
	}
	join := []string{fmt.Sprintf("SELECT citus_set_coordinator_host('%s', %d)", c.nodes[0].host, c.nodes[0].port)}
	for _, n := range c.nodes[1:] {
		join = append(join, fmt.Sprintf("SELECT citus_add_node('%s', %d)", n.host, n.port))
	}
	if err := c.nodes[0].exec(ctx, c.template(), join...); err != nil {
		return err
	}
	m, err := migrations.Open(c.nodes[0].on(c.template()))
	if err != nil {
		return err
	}
	if _, err := m.Up(ctx); err != nil {
		return err
	}
	if err := m.Close(); err != nil {
		return err
	}
	if err := c.scaleOut(ctx, c.template()); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.exec(ctx, "postgres", "ALTER DATABASE "+c.template()+" ALLOW_CONNECTIONS false"); err != nil {
			return err
		}
	}
	return nil
}

// scaleOut scales a database out, with few shards: tests have few rows.
func (c *citusCluster) scaleOut(ctx context.Context, database string) error {
	d, err := db.Open(ctx, c.nodes[0].on(database), 2)
	if err != nil {
		return err
	}
	defer d.Close()
	password, _ := c.nodes[0].url.User.Password()
	return scaleout.New(d, scaleout.Options{Shards: 4, Password: password}).Apply(ctx, func(scaleout.Step, time.Duration) {})
}

// clone makes a test's databases, and returns the URL of the coordinator's.
func (c *citusCluster) clone(t testing.TB, name string) string {
	t.Helper()
	ctx := context.Background()
	name = c.stem + name
	for _, n := range c.nodes {
		// The template has a daemon of Citus in it, which comes again.
		if err := n.exec(ctx, "postgres",
			"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+c.template()+"'",
			"CREATE DATABASE "+name+" TEMPLATE "+c.template()+" STRATEGY file_copy"); err != nil {
			t.Fatalf("making the database of a test: %v", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the database of this test: %s", c.nodes[0].on(name))
			return
		}
		c.drop(t, name)
	})
	if err := c.scaleOut(ctx, name); err != nil { // its connection leads back to the template
		t.Fatalf("scaling the database of a test out: %v", err)
	}
	return c.nodes[0].on(name)
}

func (c *citusCluster) drop(t testing.TB, name string) {
	t.Helper()
	for _, n := range c.nodes {
		for try := 1; ; try++ { // the daemon of Citus comes again
			err := n.exec(context.Background(), "postgres", "DROP DATABASE "+name+" WITH (FORCE)")
			if err == nil {
				break
			}
			if try == 5 {
				t.Logf("dropping the database of a test: %v", err) // stop does, or tells of it
				break
			}
			time.Sleep(time.Second)
		}
	}
}

// stop drops what this process has made.
func (c *citusCluster) stop() error {
	for _, n := range c.nodes {
		const drop = `SELECT format('DROP DATABASE %I WITH (FORCE)', d.datname) FROM pg_database AS d WHERE starts_with(d.datname, $1)`
		conn, err := pgx.Connect(context.Background(), n.on("postgres"))
		if err != nil {
			return fmt.Errorf("dropping databases: %w", err)
		}
		rows, _ := conn.Query(context.Background(), drop, c.stem) // its error comes out of CollectRows
		drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
		_ = conn.Close(context.Background())
		if err := errors.Join(err, n.exec(context.Background(), "postgres", drops...)); err != nil {
			return fmt.Errorf("dropping databases: %w", err)
		}
	}
	return nil
}

// KillServer kills a process of a PostgreSQL with SIGKILL, from inside: all others end with it, and it
// recovers from its log, as when the machine stops. It waits a moment for a process that answers to the
// condition on pg_stat_activity, and tells whether there was one.
func KillServer(url, which string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for ctx.Err() == nil {
		var pid int
		if err := conn.QueryRow(ctx, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE "+which).Scan(&pid); err != nil {
			return false
		}
		if pid != 0 {
			_, _ = conn.Exec(ctx, fmt.Sprintf("COPY (SELECT 1) TO PROGRAM 'kill -9 %d'", pid)) // it does not live to tell
			return true
		}
	}
	return false
}
