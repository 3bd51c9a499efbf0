//go:build citus

package main_test

import (
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: what TestCrash holds on one PostgreSQL holds on a Citus cluster, with two replicas of the
// service: a replica, the coordinator (also in the middle of a step of the roll-up, before and
// after its workers have committed) and a worker are killed at random, and every acknowledged event
// is in the ledger once, rollups with the tail are the ledger whenever they can be read, and in the
// end no step is missing and none was taken twice.
func TestCrashCitus(t *testing.T) {
	length, keys := soak(t, 30*time.Second)
	c := &crash{T: t, dbURL: pgtest.URL(t)}
	nodes := pgtest.CitusNodes()
	if len(nodes) < 2 {
		t.Fatal("there is no cluster: make test-citus CITUS_URL=... says which")
	}
	var replicas []*process
	var environments [][]string
	for range 2 {
		addr := freePort(t)
		env := []string{"DATABASE_URL=" + c.dbURL, peppers, "KEYLEDGER_ADDR=" + addr, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off",
			"KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap, "KEYLEDGER_ROLLUP_INTERVAL=1s", "KEYLEDGER_MAX_CONNS=4"}
		p := launch(t, nil, env, "serve")
		p.wait(`"msg":"serving"`)
		c.urls, replicas, environments = append(c.urls, "http://"+addr), append(replicas, p), append(environments, env)
	}
	c.makeKeys(keys)

	stop := c.load(length)
	killed := map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end); {
		time.Sleep(time.Second + rand.N(2*time.Second))
		switch what := rand.N(4); what {
		case 0:
			i := rand.N(len(replicas))
			replicas[i].stop(syscall.SIGKILL)
			replicas[i] = launchUntil(t, environments[i])
			killed["a replica"]++
		case 1:
			if pgtest.KillServer(nodes[0], "query LIKE '-- name: Roll%' AND state <> 'idle'") {
				killed["the coordinator in a step"]++
			}
		case 2:
			if pgtest.KillServer(nodes[0], "backend_type = 'checkpointer'") {
				killed["the coordinator"]++
			}
		default:
			if pgtest.KillServer(nodes[1+rand.N(len(nodes)-1)], "backend_type = 'checkpointer'") {
				killed["a worker"]++
			}
		}
	}
	time.Sleep(3 * time.Second) // servers that were killed last recover
	stop()
	c.verdict(length)
	if length >= time.Minute && len(killed) < 4 {
		t.Errorf("only these were killed: %v", killed)
	}
	t.Logf("%d events, %d reconciliations, killed: %v", c.acknowledged.Load(), c.agreed.Load(), killed)
}

// launchUntil starts a replica, again and again until its database is there.
func launchUntil(t *testing.T, env []string) *process {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		p := launch(t, nil, env, "serve")
		for ended := false; !ended; {
			select {
			case <-p.end:
				ended = true
			case <-time.After(20 * time.Millisecond):
				if strings.Contains(p.out.String(), `"msg":"serving"`) {
					return p
				}
			}
		}
	}
	t.Fatal("the service did not start again")
	return nil
}
