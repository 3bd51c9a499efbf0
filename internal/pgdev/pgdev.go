// Package pgdev runs a private PostgreSQL: one cluster in a directory of its
// own, on a unix socket only, as a child of this process. keyledger dev and the
// tests stand on it.
//
// The cluster ends with its parent, also when that is killed: PostgreSQL then
// gets SIGQUIT, and the next start recovers from the write-ahead log.
package pgdev

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keyledger/keyledger/internal/child"
)

// Options say where and how a cluster runs.
type Options struct {
	// Dir holds everything: data, socket, log and lock. It is made if missing.
	Dir string
	// Volatile trades durability for speed: for tests.
	Volatile bool
	// Env is added to what PostgreSQL's environment has of this process: for tests.
	Env []string
}

// Cluster is a running PostgreSQL.
type Cluster struct {
	socket    string
	temporary bool // the socket's directory goes with the cluster
	child     *child.Process
	lock      *os.File
}

const (
	superuser = "keyledger"
	port      = "5432"
	// maxSocketPath is the longest unix socket path on Linux and macOS, less one.
	maxSocketPath = 103
	startTimeout  = 60 * time.Second
	stopTimeout   = 30 * time.Second
	leftoverWait  = 15 * time.Second
)

// Start makes the cluster if the directory is new, and runs it. Errors say what
// to do: PostgreSQL missing or too old, the directory in use, not enterable, or
// made by another version.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	owner, err := serverUser()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's own folder below is 0700
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{lock: lock}
	if err := c.start(ctx, dir, owner, o); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, dir string, owner *user, o Options) error {
	if err := owner.canEnter(ctx, dir); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	in, err := find(ctx, dataMajor(data))
	if err != nil {
		return err
	}
	if err := waitForLeftover(ctx, data); err != nil {
		return err
	}
	if dataMajor(data) == 0 {
		if err := initialise(ctx, in, owner, dir, data); err != nil {
			return err
		}
	}
	if c.socket, err = socketDir(dir, owner); err != nil {
		return err
	}
	c.temporary = filepath.Dir(c.socket) != dir
	logFile, err := os.OpenFile(filepath.Join(dir, "postgres.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	defer func() { _ = logFile.Close() }()
	args := []string{
		"-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + c.socket, "-c", "port=" + port,
		"-c", "unix_socket_permissions=0700", "-c", "max_connections=200", "-c", "logging_collector=off",
	}
	if o.Volatile {
		args = append(args, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	} else {
		args = append(args, durableSettings...)
	}
	for deadline := time.Now().Add(leftoverWait); ; {
		cmd := exec.Command(filepath.Join(in.bin, "postgres"), args...) //nolint:gosec,noctx // a program we have just found; it outlives ctx and is ended by Stop
		cmd.Stdout, cmd.Stderr, cmd.Dir = logFile, logFile, dir
		cmd.Env = append(os.Environ(), o.Env...)
		cmd.SysProcAttr = owner.attributes()
		err := c.run(ctx, cmd, logFile)
		// Where a postmaster was killed, one of its processes may live on for a moment.
		if err == nil || !strings.Contains(err.Error(), "pre-existing shared memory block") || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// run starts PostgreSQL and waits until it is ready.
func (c *Cluster) run(ctx context.Context, cmd *exec.Cmd, logFile *os.File) (err error) {
	logStart, _ := logFile.Seek(0, 2)
	if c.child, err = child.Start(cmd); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	if err := c.waitReady(ctx); err != nil {
		_ = c.child.Signal(syscall.SIGQUIT)
		<-c.child.Done()
		return fmt.Errorf("%w; its log (%s) says:\n%s", err, logFile.Name(), tail(logFile.Name(), logStart))
	}
	return nil
}

// URL is a connection URL for a database of the cluster.
func (c *Cluster) URL(database string) string {
	return "postgres:///" + url.PathEscape(database) + "?host=" + url.QueryEscape(c.socket) + "&port=" + port + "&user=" + superuser
}

// durableSettings are those of docs/operations.md, for a machine of some GB:
// PostgreSQL's own defaults are for one of the size of a telephone.
var durableSettings = []string{
	"-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "checkpoint_timeout=15min",
}

// Done is closed when PostgreSQL has ended, wanted or not.
func (c *Cluster) Done() <-chan struct{} { return c.child.Done() }

// Pid is the process id of PostgreSQL's postmaster.
func (c *Cluster) Pid() int { return c.child.PID() }

// EnsureDatabase makes a database if it is missing.
func (c *Cluster) EnsureDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	return err
}

// Stop ends PostgreSQL cleanly and waits for it.
func (c *Cluster) Stop() error {
	defer func() {
		if c.temporary {
			_ = os.RemoveAll(c.socket)
		}
		_ = c.lock.Close()
	}()
	_ = c.child.Signal(syscall.SIGINT) // fast shutdown
	select {
	case <-c.child.Done():
		return nil
	case <-time.After(stopTimeout):
		_ = c.child.Signal(syscall.SIGQUIT)
		<-c.child.Done()
		return errors.New("PostgreSQL did not stop in time and was ended at once; the next start recovers")
	}
}

func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const pause = 20 * time.Millisecond
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.child.Done():
			return errors.New("PostgreSQL ended while starting")
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL did not become ready: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// takeLock makes this process the only one that works on the directory.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(f.Name())
		_ = f.Close()
		return nil, fmt.Errorf("the data directory %s is in use by another keyledger (process %s): stop that one, or name another with --data-dir", dir, strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, err
}

// dataMajor is the major version that made a data directory; 0: there is none.
func dataMajor(data string) int {
	raw, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return major
}

// waitForLeftover waits until a PostgreSQL whose parent was killed is gone.
func waitForLeftover(ctx context.Context, data string) error {
	deadline := time.Now().Add(leftoverWait)
	for {
		pid := leftover(data)
		if pid == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a PostgreSQL (process %d) that keyledger did not start is running on %s: stop it with kill -INT %d, or name another directory with --data-dir", pid, data, pid)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// leftover is the process that runs on a data directory; 0: none does.
func leftover(data string) int {
	raw, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return 0
	}
	// After a reboot another program may have the number. PostgreSQL would take it
	// for itself and refuse to start, so its file goes.
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && !strings.Contains(string(line), data) {
		_ = os.Remove(filepath.Join(data, "postmaster.pid"))
		return 0
	}
	return pid
}

// initialise makes the data directory beside its final place and moves it there
// when it is whole, so that a start that was cut off leaves nothing half made.
func initialise(ctx context.Context, in install, owner *user, dir, data string) error {
	half := data + ".new"
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("removing a half-made data directory: %w", err)
	}
	if err := owner.makeDir(half); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(in.bin, "initdb"), //nolint:gosec // a program we have just found
		"-D", half, "-U", superuser, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions")
	cmd.Dir = dir
	cmd.SysProcAttr = owner.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb failed: %w\n%s", err, out)
	}
	if err := os.Rename(half, data); err != nil {
		return fmt.Errorf("putting the data directory in place: %w", err)
	}
	return nil
}

// socketDir is where the socket lies: in the directory, or, where that path is
// too long for a socket, in a temporary one.
func socketDir(dir string, owner *user) (string, error) {
	run := filepath.Join(dir, "run")
	if len(filepath.Join(run, ".s.PGSQL."+port)) > maxSocketPath {
		short, err := os.MkdirTemp("", "keyledger-")
		if err != nil {
			return "", fmt.Errorf("making a socket directory: %w", err)
		}
		return short, owner.own(short)
	}
	return run, owner.makeDir(run)
}

func tail(file string, from int64) string {
	raw, err := os.ReadFile(file)
	if err != nil || from > int64(len(raw)) {
		return ""
	}
	const most = 2000
	raw = raw[from:]
	return strings.TrimSpace(string(raw[max(0, len(raw)-most):]))
}
