package bench

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyledger/keyledger/internal/child"
)

// The secrets of a bench: its database lives as long as it does.
const (
	token  = "kl_bench_0123456789abcdef0123456789abcdef"
	pepper = "the pepper of a database that is thrown away"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// server is a process of the program under test.
type server struct {
	target

	relay   string // address of its relay; empty: it has none
	process *child.Process
}

// settings are those of every service in a bench.
func settings(dbURL string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + dbURL, "KEYLEDGER_ADDR=127.0.0.1:0", "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off",
		"KEYLEDGER_PEPPERS=bench:" + base64.StdEncoding.EncodeToString([]byte(pepper)), "KEYLEDGER_BOOTSTRAP_TOKEN=" + token,
		"KEYLEDGER_LEDGER_RETENTION_DAYS=1000", "KEYLEDGER_LOG_LEVEL=info",
		"KEYLEDGER_MAX_CONNECTIONS_PER_ADDRESS=0", // all clients of the bench have one address
	}, more...)
}

// serve starts the service as anybody would: keyledger serve, set up by the
// environment.
func (b *bench) serve(ctx context.Context, dbURL string, more ...string) (*server, error) {
	return b.start(ctx, []string{"serve"}, settings(dbURL, more...))
}

// bare starts the echo server without anything in it.
func (b *bench) bare(ctx context.Context) (*server, error) {
	return b.start(ctx, []string{"bench", "bare"}, nil)
}

var (
	addrLine  = regexp.MustCompile(`"addr":"([^"]+)"`)
	relayLine = regexp.MustCompile(`"relay":"([^"]+)"`)
)

// start starts this program with other arguments and waits until it tells where it
// listens.
func (b *bench) start(ctx context.Context, args, env []string) (*server, error) {
	b.started++
	file := filepath.Join(b.dir, fmt.Sprintf("server-%d.log", b.started))
	out, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(b.o.Binary, args...) //nolint:gosec,noctx // this very program; ended by stop
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	process, err := child.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", strings.Join(args, " "), err)
	}
	s := &server{process: process}
	b.servers = append(b.servers, s)
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		text, _ := os.ReadFile(file) // an empty one is asked again
		if m := addrLine.FindSubmatch(text); m != nil {
			s.target = target{"http://" + string(m[1]), token}
			if m := relayLine.FindSubmatch(text); m != nil {
				s.relay = "http://" + string(m[1])
			}
			return s, nil
		}
		select {
		case <-process.Done():
			return nil, fmt.Errorf("%s ended at once:\n%s", strings.Join(args, " "), text)
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s did not start in %s:\n%s", strings.Join(args, " "), startTimeout, text)
		}
	}
}

// stop ends a server as an operator would and waits for it.
func (s *server) stop() error {
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.process.Done():
		return nil
	case <-time.After(stopTimeout):
		_ = s.process.Signal(syscall.SIGKILL)
		return errors.New("a server did not stop in time")
	}
}

// kill ends a server in the middle of whatever it does.
func (s *server) kill() {
	_ = s.process.Signal(syscall.SIGKILL)
	<-s.process.Done()
}

// memory is the most memory that a server has had resident so far, in bytes. Source:
// proc(5).
func (s *server) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading the size of the service: %w", err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		return 0, errors.New("the system does not tell the size of a process")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10, err
}
