// Package scaleout moves what grows without end, rollups by key and the archive of the ledger, to the
// workers of a Citus cluster whose coordinator is the service's database, and back. What the service
// asks stays the same: its passes write distributed tables as they wrote plain ones, and
// its readers name views, which lead to those tables by a connection back to this server. So
// PostgreSQL hands each query's conditions on to them, and no query mixes local with distributed
// tables, which Citus would read whole.
package scaleout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/db"
)

// Options say how this server reaches itself, and over how many shards rows are spread.
type Options struct {
	Host     string // as it reaches itself; empty: as Citus knows the coordinator
	Port     int    // 0: as Citus knows the coordinator
	Password string // empty: none is asked for, which needs a superuser
	Shards   int    // shards a table, 1 to 1024; 0: 32
}

// ScaleOut is one database that may be scaled out.
type ScaleOut struct {
	db      *db.DB
	options Options
}

// New makes the ScaleOut of a database, whose user owns the service's tables.
func New(d *db.DB, o Options) *ScaleOut {
	if o.Shards == 0 {
		o.Shards = 32
	}
	return &ScaleOut{db: d, options: o}
}

// ErrNoCitus says that the database is a plain PostgreSQL.
var ErrNoCitus = errors.New("this PostgreSQL has no Citus, so there is nowhere to move anything (docs/scale-out.md says how to set a cluster up)")

// Table is a table that goes to the workers, as it is stored now.
type Table struct {
	Name        string
	Distributed bool   // by ledger_id, over all workers; otherwise it is on this server
	Bytes       int64  // with its indexes
	Size        string // the same, as PostgreSQL writes it
	Shards      int64  // 0: it is not distributed
	Least, Most string // the smallest and the largest shard; empty: it is not distributed
}

// Status is how the database is stored.
type Status struct {
	Citus   string // version; empty: there is none
	Workers int64  // that take shards, besides this server
	Tables  []Table
	Whole   bool // every step of Apply is done
}

// Status tells how the database is stored.
func (s *ScaleOut) Status(ctx context.Context) (Status, error) {
	var st Status
	if err := s.migrated(ctx); err != nil {
		return st, err
	}
	err := s.db.Scan(ctx, `SELECT coalesce((SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'citus'), '')`, nil, &st.Citus)
	if err != nil {
		return st, fmt.Errorf("looking for Citus: %w", err)
	}
	if st.Citus != "" {
		const workers = `SELECT count(*) FROM pg_dist_node AS n WHERE n.groupid > 0 AND n.isactive AND n.shouldhaveshards AND n.noderole = 'primary'`
		if err := s.db.Scan(ctx, workers, nil, &st.Workers); err != nil {
			return st, fmt.Errorf("counting workers: %w", err)
		}
	}
	for _, t := range tables {
		stored, err := s.stored(ctx, t.name, st.Citus != "")
		if err != nil {
			return st, fmt.Errorf("measuring %s: %w", t.name, err)
		}
		st.Tables = append(st.Tables, stored)
	}
	if st.Citus == "" {
		return st, nil
	}
	plan, err := s.Plan(ctx)
	st.Whole = err == nil
	for _, step := range plan {
		st.Whole = st.Whole && step.Done
	}
	if errors.Is(err, errNotReady) {
		err = nil
	}
	return st, err
}

// stored measures one table with its partitions.
func (s *ScaleOut) stored(ctx context.Context, name string, citus bool) (Table, error) {
	t := Table{Name: name}
	const parts = `SELECT $1::text::regclass AS relid UNION SELECT x.relid FROM pg_partition_tree($1::text::regclass) AS x`
	const here = `SELECT x.size, pg_size_pretty(x.size)
		FROM (SELECT coalesce(sum(pg_total_relation_size(p.relid)), 0)::bigint AS size FROM (` + parts + `) AS p) AS x`
	if !citus {
		err := s.db.Scan(ctx, here, []any{name}, &t.Bytes, &t.Size)
		return t, err
	}
	const there = `SELECT EXISTS (SELECT 1 FROM pg_dist_partition AS d WHERE d.logicalrelid = $1::text::regclass)`
	if err := s.db.Scan(ctx, there, []any{name}, &t.Distributed); err != nil {
		return t, err
	}
	if !t.Distributed {
		err := s.db.Scan(ctx, here, []any{name}, &t.Bytes, &t.Size)
		return t, err
	}
	const shards = `SELECT coalesce(sum(x.size), 0)::bigint, pg_size_pretty(coalesce(sum(x.size), 0)::bigint), count(*),
		       pg_size_pretty(coalesce(min(x.size), 0)::bigint), pg_size_pretty(coalesce(max(x.size), 0)::bigint)
		FROM (SELECT sum(c.shard_size) AS size
		        FROM citus_shards AS c
		        JOIN pg_dist_shard AS d ON d.shardid = c.shardid
		       WHERE c.table_name IN (SELECT p.relid FROM (` + parts + `) AS p)
		       GROUP BY d.shardminvalue) AS x`
	err := s.db.Scan(ctx, shards, []any{name}, &t.Bytes, &t.Size, &t.Shards, &t.Least, &t.Most)
	return t, err
}

// Step is one of the steps of Apply and Undo.
type Step struct {
	Name  string
	What  string        // what it does
	Size  string        // of the table that it moves, with its indexes; empty: it moves none
	Locks string        // what waits while it runs; empty: nothing
	Takes time.Duration // about how long moving it would take, at copiesPerSecond
	Done  bool
}

// copiesPerSecond is how many bytes of a table with its indexes are copied a second: as measured on two
// processors with both workers on them (docs/scale-out.md).
const copiesPerSecond = 50 << 20

// errNotReady says what a database lacks before anything can be distributed.
var errNotReady = errors.New("this database cannot be scaled out yet")

// Plan is what Apply does, in order. ErrNoCitus for a plain PostgreSQL.
func (s *ScaleOut) Plan(ctx context.Context) ([]Step, error) {
	all, err := s.steps(ctx)
	if err != nil {
		return nil, err
	}
	plan := make([]Step, len(all))
	for i, one := range all {
		plan[i] = Step{Name: one.name, What: one.what, Locks: one.locks}
		if err := s.db.Scan(ctx, one.done, nil, &plan[i].Done); err != nil {
			return nil, fmt.Errorf("%s: finding out whether it is done: %w", one.name, err)
		}
		if !one.moves {
			continue
		}
		stored, err := s.stored(ctx, one.name, true)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", one.name, err)
		}
		plan[i].Size = stored.Size
		plan[i].Takes = time.Duration(float64(stored.Bytes) / copiesPerSecond * float64(time.Second))
	}
	return plan, nil
}

// Apply does what is not done yet, each step in a transaction of its own, and tells of each as it ends.
// Broken off, it goes on where it stopped. The service may run meanwhile: no request writes
// these tables.
func (s *ScaleOut) Apply(ctx context.Context, tell func(Step, time.Duration)) error {
	all, err := s.steps(ctx)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := s.run(ctx, one, one.done, one.apply, tell); err != nil {
			return err
		}
	}
	// Readers of the archive are refused where this is wrong, as when somebody has dropped a partition by hand.
	const recount = `SELECT pg_advisory_xact_lock(hashtext('make_ledger_partitions'));
		SELECT archive_partitions(count(*)) FROM pg_inherits AS i WHERE i.inhparent = 'usage_archive'::regclass`
	if err := s.db.Script(ctx, recount); err != nil {
		return fmt.Errorf("counting the archive's partitions: %w", err)
	}
	return nil
}

// Undo brings everything back to this server, in the opposite order. It must have room for it.
func (s *ScaleOut) Undo(ctx context.Context, tell func(Step, time.Duration)) error {
	all, err := s.steps(ctx)
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		// Not in the step's transaction, which would keep others from it for as long as rows are copied.
		if err := s.db.RollupSettle(ctx); err != nil {
			return fmt.Errorf("ending what a crash has left half committed: %w", err)
		}
		if err := s.run(ctx, all[i], all[i].undone, all[i].undo, tell); err != nil {
			return err
		}
	}
	return nil
}

// run runs a step's SQL, unless the step is already as it is to be.
func (s *ScaleOut) run(ctx context.Context, one step, already, sql string, tell func(Step, time.Duration)) error {
	var done bool
	if err := s.db.Scan(ctx, already, nil, &done); err != nil {
		return fmt.Errorf("%s: finding out whether it is done: %w", one.name, err)
	}
	if done {
		return nil
	}
	begun := time.Now()
	// Readers and passes hold what it needs for as long as a statement takes.
	if err := s.db.Script(ctx, "SET LOCAL lock_timeout = '60s';\n"+sql); err != nil {
		return fmt.Errorf("%s: %w", one.name, err)
	}
	tell(Step{Name: one.name, What: one.what, Locks: one.locks}, time.Since(begun))
	return nil
}

// migrated is an error where the schema is not that of this version.
func (s *ScaleOut) migrated(ctx context.Context) error {
	var there bool
	if err := s.db.Scan(ctx, "SELECT to_regclass('stored_usage_daily') IS NOT NULL", nil, &there); err != nil {
		return fmt.Errorf("looking for the schema: %w", err)
	}
	if !there {
		return errors.New("the database has not the schema of this version. Run: keyledger migrate up")
	}
	return nil
}

// steps are those of this database, which must be ready for them.
func (s *ScaleOut) steps(ctx context.Context) ([]step, error) {
	if err := s.migrated(ctx); err != nil {
		return nil, err
	}
	var citus bool
	if err := s.db.Scan(ctx, `SELECT EXISTS (SELECT 1 FROM pg_extension AS e WHERE e.extname = 'citus')`, nil, &citus); err != nil {
		return nil, fmt.Errorf("looking for Citus: %w", err)
	}
	if !citus {
		return nil, ErrNoCitus
	}
	o := s.options
	var host, user, owner string
	var port, workers int
	var holds bool
	const cluster = `SELECT coalesce(max(n.nodename) FILTER (WHERE n.groupid = 0), ''),
		       coalesce(max(n.nodeport) FILTER (WHERE n.groupid = 0), 0),
		       count(*) FILTER (WHERE n.groupid > 0 AND n.isactive AND n.shouldhaveshards AND n.noderole = 'primary'),
		       coalesce(bool_or(n.shouldhaveshards) FILTER (WHERE n.groupid = 0), false),
		       current_user,
		       (SELECT coalesce(max(pg_get_userbyid(c.relowner)) FILTER (WHERE pg_get_userbyid(c.relowner) <> current_user), current_user)
		          FROM pg_class AS c
		         WHERE c.oid IN ('usage_daily'::regclass, 'daily_cost'::regclass, 'usage_archive'::regclass, 'usage_archiving'::regclass))
		  FROM pg_dist_node AS n`
	if err := s.db.Scan(ctx, cluster, nil, &host, &port, &workers, &holds, &user, &owner); err != nil {
		return nil, fmt.Errorf("reading the nodes of Citus: %w", err)
	}
	switch {
	case user != owner: // readers' views connect as their owner, and what comes back belongs to whoever brings it
		return nil, fmt.Errorf("%w: its tables belong to %s, and this connection is %s's: connect as %[2]s", errNotReady, owner, user)
	case host == "":
		return nil, fmt.Errorf("%w: Citus does not know the coordinator's own address: SELECT citus_set_coordinator_host(...)", errNotReady)
	case holds: // a reader's snapshot of them would be older than the lock that he takes
		return nil, fmt.Errorf("%w: the coordinator takes shards: SELECT citus_set_node_property(..., 'shouldhaveshards', false), and move those that it has", errNotReady)
	case workers == 0:
		return nil, fmt.Errorf("%w: there is no worker that takes shards: SELECT citus_add_node(...)", errNotReady)
	}
	if o.Host == "" {
		o.Host = host
	}
	if o.Port == 0 {
		o.Port = port
	}
	return steps(o, user), nil
}
