// Package bench measures the service the way its users meet it: this very binary,
// over HTTP, with real keys, on a PostgreSQL that waits for the disk. What is compared
// runs side by side in rounds that alternate, so that a busy machine slows both down;
// every answer is checked, and at the end the ledger is held against what clients were
// told.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/internal/pgdev"
)

// Options say how large and how long a bench is.
type Options struct {
	Binary  string // this program
	Version string
	Dir     string // where the database goes; empty: a temporary folder
	URL     string // an empty database on a server to be measured beside a plain PostgreSQL; empty: none
	Keys    int    // of the database of P1 to P8
	Ledger  int    // rows of its ledger
	// BigKeys and BigLedger are those of the database of P9 to P11.
	BigKeys, BigLedger int
	Tail               int           // ledger rows behind the rollups, in the second half of P9 and the first of P18
	LongChunk          int           // ledger rows of P18's second half
	HotKeys            int           // of P10: keys that are used again and again
	Rounds             int           // of each pair; the result is their median
	Round              time.Duration // length of each side of a round
	Only               []string      // names of tests, such as P3; empty: all
	Progress           io.Writer
}

// Result is one line of the table.
type Result struct {
	Name     string            `json:"name"`
	What     string            `json:"what"`
	Against  string            `json:"against"`
	Reach    string            `json:"reach"`
	Measured string            `json:"measured"`
	Reached  bool              `json:"reached"`
	Value    float64           `json:"value"`            // what is held against the bar
	Rounds   []float64         `json:"rounds,omitempty"` // of which Value is the median
	Samples  map[string]sample `json:"samples,omitempty"`
}

// Report is what a bench measured.
type Report struct {
	Version string        `json:"version"`
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
	Machine string        `json:"machine"`
	Method  string        `json:"method"`
	Results []Result      `json:"results"`
	Proofs  []proof       `json:"proofs"`
}

// bench is one run.
type bench struct {
	o       Options
	dir     string
	cluster *pgdev.Cluster
	servers []*server
	stands  []*stand
	acks    map[*stand]*acknowledged
	started int
	report  Report
}

// test is one line of the bar.
type test struct {
	name string
	run  func(*bench, context.Context) ([]Result, error)
}

var tests = []test{
	{"P1", (*bench).verify}, {"P2", (*bench).admission}, {"P3", (*bench).admissionGroups}, {"P4", (*bench).oneHotKey},
	{"P5", (*bench).usage}, {"P6", (*bench).usageBatches}, {"P7", (*bench).revocation}, {"P8", (*bench).lists},
	{"P12", (*bench).firstMinute}, {"P13", (*bench).lockWaits}, {"P14", (*bench).relayed}, {"P15", (*bench).relayedStreams}, {"P16", (*bench).console}, {"P17", (*bench).pace}, {"P18", (*bench).rollUp},
	{"R2", (*bench).durability}, {"R4", (*bench).overload}, {"CSV", (*bench).stream}, {"P9", (*bench).reports}, {"P10", (*bench).memory}, {"P11", (*bench).growth},
}

// Names are those that Options.Only may hold.
func Names() (names []string) {
	for _, t := range tests {
		names = append(names, t.name)
	}
	return names
}

// Run measures. Its error tells of a wrong answer, of lost or doubled usage, or that a
// test could not be run; a number below the bar is none.
func Run(ctx context.Context, o Options) (_ Report, err error) {
	b := &bench{o: o, acks: map[*stand]*acknowledged{}}
	b.report = Report{Version: o.Version, Started: time.Now(), Machine: machine(),
		Method: fmt.Sprintf("medians of %d rounds of %s a side, alternating; %d clients in a closed loop, on the same machine as service and PostgreSQL, fsync on; %d keys, %d ledger rows",
			o.Rounds, o.Round, clients, o.Keys, o.Ledger)}
	if b.dir, err = os.MkdirTemp(o.Dir, "keyledger-bench-"); err != nil {
		return b.report, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL runs as another user where we are root
		return b.report, err
	}
	if b.cluster, err = pgdev.Start(ctx, pgdev.Options{Dir: filepath.Join(b.dir, "pg")}); err != nil {
		return b.report, err
	}
	run := tests
	if o.URL != "" {
		run = []test{{"--url", (*bench).beside}}
	}
	for _, t := range run {
		if len(o.Only) > 0 && !slices.Contains(o.Only, t.name) {
			continue
		}
		results, err := t.run(b, ctx)
		b.stopServers()
		if err != nil {
			return b.report, fmt.Errorf("%s: %w", t.name, err)
		}
		for _, r := range results {
			b.sayf("%s  %s: %s", r.Name, r.What, r.Measured)
		}
		b.report.Results = append(b.report.Results, results...)
	}
	err = b.prove(ctx)
	b.report.Took = time.Since(b.report.Started)
	return b.report, err
}

// prove holds every database's ledger against what clients were told.
func (b *bench) prove(ctx context.Context) error {
	for _, s := range b.stands {
		b.sayf("holding the ledger of %s against what clients were told", s.name)
		p, err := s.prove(ctx, b.acked(s).ids)
		if err != nil {
			return fmt.Errorf("checking the ledger: %w", err)
		}
		b.report.Proofs = append(b.report.Proofs, p)
		if wrong := p.wrong(); wrong != "" {
			return fmt.Errorf("database %s: %s", s.name, wrong)
		}
	}
	return nil
}

func (b *bench) stopServers() {
	for _, s := range b.servers {
		_ = s.stop() // one that hangs is killed
	}
	b.servers = nil
}

func (b *bench) close() error {
	b.stopServers()
	for _, s := range b.stands {
		s.db.Close()
	}
	var err error
	if b.cluster != nil {
		err = b.cluster.Stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b *bench) sayf(format string, args ...any) {
	_, _ = fmt.Fprintf(b.o.Progress, "%7.1fs  %s\n", time.Since(b.report.Started).Seconds(), fmt.Sprintf(format, args...))
}

// stand is the database of P1 to P8, made when it is first needed.
func (b *bench) stand(ctx context.Context) (*stand, error) {
	return b.standCalled(ctx, "bench", b.o.Keys, b.o.Ledger)
}

// realStand is the database of loads of the real shape.
func (b *bench) realStand(ctx context.Context) (*stand, error) {
	s, err := b.standCalled(ctx, "bench_real", realKeys, 0)
	if err == nil {
		s.population = realShape(realKeys)
	}
	return s, err
}

// bigStand is the database of P9 to P11.
func (b *bench) bigStand(ctx context.Context) (*stand, error) {
	return b.standCalled(ctx, "bench_big", b.o.BigKeys, b.o.BigLedger)
}

func (b *bench) standCalled(ctx context.Context, name string, keys, ledger int) (*stand, error) {
	for _, s := range b.stands {
		if s.name == name {
			return s, nil
		}
	}
	return b.fill(ctx, name, keys, ledger)
}

// serving is a database with a service on it.
func (b *bench) serving(ctx context.Context, which func(context.Context) (*stand, error)) (*stand, *server, error) {
	st, err := which(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := b.serve(ctx, st.url)
	return st, s, err
}

// machine tells what this ran on.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	return fmt.Sprintf("%s, %d processors, %s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.Version())
}
