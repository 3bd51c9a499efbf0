package main_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/report"
)

// wire is a way to PostgreSQL that can be cut and stalled.
type wire struct {
	net.Listener

	to      string
	mu      sync.Mutex
	open    map[net.Conn]bool
	stalled atomic.Bool
	cuts    atomic.Bool // new connections are closed at once
}

// newWire listens in a folder as PostgreSQL does, and passes on to a socket.
func newWire(t *testing.T, to string) (*wire, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyledger-wire-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, to: to, open: map[net.Conn]bool{}}
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		_ = os.RemoveAll(dir)
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(in)
		}
	}()
	return w, dir
}

func (w *wire) serve(in net.Conn) {
	defer func() { _ = in.Close() }()
	if w.cuts.Load() { // before PostgreSQL keeps a place for it
		return
	}
	out, err := net.Dial("unix", w.to)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	w.mu.Lock()
	w.open[in], w.open[out] = true, true
	w.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			w.pass(way[1], way[0])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
	w.mu.Lock()
	delete(w.open, in)
	delete(w.open, out)
	w.mu.Unlock()
}

func (w *wire) pass(to io.Writer, from io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for w.stalled.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut ends all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		_ = c.Close()
	}
}

// team is clients that use a service as relays do: they ask again until they are answered, with the
// same request id, and note what they were told.
type team struct {
	*testing.T

	bases []string // of the replicas
	keys  []teamKey

	work         sync.WaitGroup
	stop         context.CancelFunc
	acknowledged atomic.Int64
	last         atomic.Int64 // when a request was last granted, in nanoseconds
	mu           sync.Mutex
	saw          map[string]int   // since it was last asked: statuses, and "gone" for no answer
	tokens       map[string]int64 // acknowledged, by the key's id
	admitted     map[string]int   // requests, by the key's id
}

type teamKey struct{ id, secret string }

// The limits of the team's keys: of requests in a window, and of cost with estimates that cover.
const (
	teamRequests = 60
	teamBudget   = 0.05
	teamEstimate = 0.001
	teamOutput   = 66 // tokens of sonnet: $0.00099
)

func newTeam(t *testing.T, bases ...string) *team {
	t.Helper()
	m := &team{T: t, bases: bases, saw: map[string]int{}, tokens: map[string]int64{}, admitted: map[string]int{}}
	for _, fields := range []map[string]any{
		{"name": "free", "concurrencyLimit": 1000}, {"name": "busy", "concurrencyLimit": 1000, "rateLimitWindow": 1},
		{"name": "requests", "rateLimitWindow": 600, "rateLimitRequests": teamRequests, "tokenLimit": 0}, {"name": "budget", "totalCostLimit": teamBudget},
	} {
		_, made := post(t, bases[0], "/v1/keys", fields)
		m.keys = append(m.keys, teamKey{made["id"].(string), made["apiKey"].(string)})
	}
	return m
}

// begin lets clients work until end.
func (m *team) begin(clients int) {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	for c := range clients {
		m.work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				m.request(m.keys[rand.N(len(m.keys))], fmt.Sprintf("c%d-%d", c, n))
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		})
	}
}

// end waits until every client has been told about its last request.
func (m *team) end() {
	m.stop()
	m.work.Wait()
}

// request is admitted, and its usage recorded, whatever happens meanwhile.
func (m *team) request(key teamKey, id string) {
	decision := m.ask("/v1/admissions", map[string]any{"apiKey": key.secret, "requestId": id, "leaseSeconds": 300, "model": sonnet, "estimate": map[string]any{"costUsd": teamEstimate}})
	if decision["allowed"] != true {
		return
	}
	m.mu.Lock()
	m.admitted[key.id]++
	m.mu.Unlock()
	m.ask("/v1/usage", map[string]any{"admissionId": decision["admissionId"], "requestId": id, "model": sonnet, "usage": map[string]any{"output_tokens": teamOutput}})
	m.acknowledged.Add(1)
	m.mu.Lock()
	m.tokens[key.id] += teamOutput
	m.mu.Unlock()
}

// ask asks one replica after another until one grants it. A refusal must be 503.
func (m *team) ask(path string, body any) map[string]any {
	for n := rand.N(len(m.bases)); ; n++ {
		status, answer, _ := attempt(m.bases[n%len(m.bases)]+path, body)
		if answer == nil {
			status = 0 // it was cut off
		}
		name := fmt.Sprint(status)
		if status == 0 {
			name = "gone"
		}
		m.mu.Lock()
		m.saw[name]++
		m.mu.Unlock()
		switch status {
		case http.StatusOK:
			m.last.Store(time.Now().UnixNano())
			return answer
		case 0, http.StatusServiceUnavailable:
		default:
			m.Errorf("%s: %d %v", path, status, answer)
			return nil
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// fault injects something, lets it last, takes it back, and waits until requests are granted again.
func (m *team) fault(name string, lasts time.Duration, inject, lift func()) {
	m.mu.Lock()
	m.saw = map[string]int{}
	m.mu.Unlock()
	inject()
	time.Sleep(lasts)
	lift()
	lifted := time.Now()
	const patience = 30 * time.Second
	for m.last.Load() < lifted.UnixNano() {
		if time.Since(lifted) > patience {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.Fatalf("%s: nothing was granted within %s after it; users saw %v", name, patience, m.saw)
		}
		time.Sleep(time.Millisecond)
	}
	back := time.Since(lifted)
	time.Sleep(300 * time.Millisecond)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Logf("fault: %-40s lasted %-6s users saw %-40s normal after %s", name, lasts, fmt.Sprint(m.saw), back.Round(time.Millisecond))
}

// proves holds the database against what clients noted.
func (m *team) proves(dbURL string) {
	m.Helper()
	d := pgtest.Open(m, dbURL)
	if n := pgtest.Scan[int64](m, d, "SELECT count(*) FROM usage_events"); n != m.acknowledged.Load() || n == 0 {
		m.Errorf("the ledger has %d events, clients saw %d acknowledged", n, m.acknowledged.Load())
	}
	for _, key := range m.keys {
		if n := pgtest.Scan[int64](m, d, "SELECT output_tokens FROM key_counters WHERE key_id = $1", key.id); n != m.tokens[key.id] {
			m.Errorf("key %s used %d tokens, clients know of %d", key.id, n, m.tokens[key.id])
		}
	}
	if n := m.admitted[m.keys[2].id]; n > teamRequests {
		m.Errorf("%d requests were admitted of %d", n, teamRequests)
	}
	if !pgtest.Scan[bool](m, d, "SELECT cost <= $2 FROM key_counters WHERE key_id = $1", m.keys[3].id, teamBudget) {
		m.Error("the limit of cost was passed")
	}
	if n := pgtest.Scan[int64](m, d, "SELECT count(*) FROM admissions WHERE is_open"); n != 0 {
		m.Errorf("%d leases are left over", n)
	}
	found, err := report.New(d, "UTC").Reconcile(context.Background(), time.Now().AddDate(0, 0, -2), time.Now().AddDate(0, 0, 2))
	if err != nil || len(found.Differences) > 0 {
		m.Errorf("sums disagree: %+v %v", found.Differences, err)
	}
}

// pair is a PostgreSQL with a standby that follows it, synchronously.
type pair struct {
	primary, standby       *pgdev.Cluster
	primaryDir, standbyDir string
	small                  bool // the primary's disk can be filled
}

func socketOf(t *testing.T, c *pgdev.Cluster) string {
	t.Helper()
	u, err := url.Parse(c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("host")
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ctx := context.Background()
	dir := openDir(t, nil)
	p := &pair{primaryDir: filepath.Join(dir, "a"), standbyDir: filepath.Join(dir, "b")}
	p.small = mount(t, p.primaryDir, "500m")
	var err error
	if p.primary, err = pgdev.Start(ctx, pgdev.Options{Dir: p.primaryDir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.primary.Stop() })
	if err := p.primary.EnsureDatabase(ctx, "keyledger"); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(p.standbyDir, "data")
	if err := os.MkdirAll(p.standbyDir, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(baseBackup(t, p.primary), "-h", socketOf(t, p.primary), "-U", "keyledger", "-D", data, "-R", "-c", "fast").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	owner, err := os.Stat(filepath.Join(p.primaryDir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	ids := owner.Sys().(*syscall.Stat_t)
	err = filepath.Walk(data, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, int(ids.Uid), int(ids.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.standby, err = pgdev.Start(ctx, pgdev.Options{Dir: p.standbyDir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.standby.Stop() })
	p.sql(t, p.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	return p
}

// baseBackup is the program that copies a running PostgreSQL. Debian keeps it off the path, beside
// the server.
func baseBackup(t *testing.T, c *pgdev.Cluster) string {
	t.Helper()
	if server, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid())); err == nil {
		beside := filepath.Join(filepath.Dir(server), "pg_basebackup")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return pgtest.Program(t, c.URL("postgres"), "pg_basebackup")
}

// sql runs statements as the superuser, on a connection that may write.
func (p *pair) sql(t *testing.T, c *pgdev.Cluster, statements ...string) {
	t.Helper()
	d, err := db.Open(context.Background(), c.URL("postgres")+"&options="+url.QueryEscape("-cdefault_transaction_read_only=off"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, sql := range statements {
		if err := d.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// mount makes a folder a small disk of its own; false where that is not permitted.
func mount(t *testing.T, dir string, size string) bool {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0755,size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Logf("no disk is filled here, since none can be mounted: %v %s", err, out)
		return false
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return true
}

// fill takes all the space of a disk, and gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); err != nil {
			return func() { _ = os.Remove(name) }
		}
	}
}

// Guarantee: whatever happens to the way to PostgreSQL, to PostgreSQL itself or to one of two
// replicas, users see 503 or no answer and nothing else, and are served again by themselves when it
// is over: connections that are cut, a network that stalls, a database that is read-only, whose disk
// is full or that is killed, a replica that is killed, a standby that is promoted. No acknowledged
// event is lost and none counts twice, no limit is passed, no lease is left over, every sum is that
// of the ledger. What each fault did is in the log; docs/operations.md has it as a table. make soak
// lets faults come at random, by a seed that it prints, for long.
func TestFaults(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	between, dir := newWire(t, filepath.Join(socketOf(t, p.primary), ".s.PGSQL.5432"))
	// The primary by the way that can be cut, the standby as it is: whichever may be written to.
	dbURL := "postgres:///keyledger?user=keyledger&port=5432,5432&target_session_attrs=read-write&host=" + url.QueryEscape(dir+","+socketOf(t, p.standby))
	if r := execute(t, []string{"DATABASE_URL=" + dbURL}, "migrate", "up"); r.code != 0 {
		t.Fatal(r)
	}
	first, env := serve(t, dbURL)
	_, other := serve(t, dbURL)
	base := strings.TrimPrefix(env[0], "KEYLEDGER_URL=")
	m := newTeam(t, base, strings.TrimPrefix(other[0], "KEYLEDGER_URL="))
	m.begin(8)
	time.Sleep(500 * time.Millisecond)
	none := func() {}
	again := func() { // what PostgreSQL itself does not come back from
		select {
		case <-p.primary.Done():
		default:
			return
		}
		_ = p.primary.Stop()
		var err error
		if p.primary, err = pgdev.Start(context.Background(), pgdev.Options{Dir: p.primaryDir}); err != nil {
			t.Fatal(err)
		}
	}
	kill := func() {
		_ = syscall.Kill(p.primary.Pid(), syscall.SIGKILL)
		<-p.primary.Done()
	}
	readOnly := func(how string) func() {
		return func() {
			p.sql(t, p.primary, "ALTER SYSTEM "+how, "SELECT pg_reload_conf()")
		}
	}
	free := none
	faults := []func(){
		func() { m.fault("every connection to PostgreSQL is cut", 0, between.cut, none) },
		func() {
			m.fault("PostgreSQL cannot be reached", 2*time.Second, func() { between.cuts.Store(true); between.cut() }, func() { between.cuts.Store(false) })
		},
		func() {
			m.fault("the network stalls", 3*time.Second, func() { between.stalled.Store(true) }, func() { between.stalled.Store(false) })
		},
		func() {
			m.fault("the network stalls, then is cut", 2*time.Second, func() { between.stalled.Store(true) }, func() { between.cut(); between.stalled.Store(false) })
		},
		func() {
			m.fault("PostgreSQL is read-only", 2*time.Second, readOnly("SET default_transaction_read_only = on"), readOnly("RESET default_transaction_read_only"))
		},
		func() { m.fault("PostgreSQL is killed and started again", 0, kill, again) },
		func() {
			m.fault("one of two replicas is killed", time.Second,
				func() { first.stop(syscall.SIGKILL) },
				func() {
					first = launch(t, nil, []string{"DATABASE_URL=" + dbURL, peppers, "KEYLEDGER_ADDR=" + strings.TrimPrefix(base, "http://"), "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off"}, "serve")
				})
			first.wait(`msg":"serving"`)
		},
	}
	if p.small {
		faults = append(faults, func() {
			m.fault("PostgreSQL's disk is full", 2*time.Second, func() { free = fill(t, p.primaryDir) }, func() { free(); again() })
		})
	}
	inTurn(t, faults)
	m.fault("PostgreSQL is lost, its standby is promoted", time.Second, kill, func() { p.sql(t, p.standby, "SELECT pg_promote()") })
	time.Sleep(500 * time.Millisecond)
	m.end()
	m.proves(p.standby.URL("keyledger"))
}

// inTurn does each thing once; for long, at random by KEYLEDGER_TEST_SEED, or by a seed that it prints.
func inTurn(t *testing.T, all []func()) {
	t.Helper()
	text := os.Getenv("KEYLEDGER_TEST_SOAK")
	if text == "" {
		for _, do := range all {
			do()
		}
		return
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	if given := os.Getenv("KEYLEDGER_TEST_SEED"); given != "" {
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KEYLEDGER_TEST_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(length); time.Now().Before(end); {
		all[chance.IntN(len(all))]()
		time.Sleep(time.Duration(chance.IntN(1000)) * time.Millisecond)
	}
}

// rolling is the set-up of docs/examples for replicas behind HAProxy.
const rolling = "../../docs/examples/haproxy-replicas.cfg"

// Guarantee: behind HAProxy, with docs/examples/haproxy-replicas.cfg as it stands, two replicas are
// restarted one after the other under load and no request fails, not one of a hundred thousand in
// make soak: what a replica has begun it finishes, and what it has not begun another one gets.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	replicas := make([]*process, 2)
	addrs := make([]string, 2)
	start := func(i int) {
		replicas[i] = launch(t, nil, []string{"DATABASE_URL=" + dbURL, peppers, "KEYLEDGER_ADDR=" + addrs[i], "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off", "KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap}, "serve")
		replicas[i].wait(`msg":"serving"`)
	}
	for i := range replicas {
		addrs[i] = freePort(t)
		start(i)
	}
	raw, err := os.ReadFile(rolling)
	if err != nil {
		t.Fatal(err)
	}
	front, dir := freePort(t), t.TempDir()
	text := strings.NewReplacer("127.0.0.1:8000", front, "10.0.0.1:8080", addrs[0], "10.0.0.2:8080", addrs[1]).Replace(string(raw))
	if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startProxy(t, dir, front, []string{"haproxy", "-db", "-f", "haproxy.cfg"})
	m := newTeam(t, "http://"+front)
	m.keys = m.keys[:2] // without limits: every request is two
	m.begin(8)
	requests, rounds := 0, 0
	least := 0
	if os.Getenv("KEYLEDGER_TEST_SOAK") != "" {
		least = 100_000
	}
	for ; rounds < 2 || requests < least; rounds++ {
		for i := range replicas {
			time.Sleep(500 * time.Millisecond)
			replicas[i].stop(syscall.SIGTERM)
			start(i)
			time.Sleep(1500 * time.Millisecond) // until HAProxy has seen that it is back
		}
		m.mu.Lock()
		requests = m.saw["200"]
		m.mu.Unlock()
	}
	m.end()
	t.Logf("%d rounds of restarts, users saw %v", rounds, m.saw)
	for what, n := range m.saw {
		if what != "200" {
			t.Errorf("%d requests: %s", n, what)
		}
	}
	d := pgtest.Open(t, dbURL)
	if n := pgtest.Scan[int64](t, d, "SELECT count(*) FROM usage_events"); n != m.acknowledged.Load() || n < 100 {
		t.Errorf("the ledger has %d events, clients saw %d acknowledged", n, m.acknowledged.Load())
	}
}
