package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// previous builds the release that came before, whose commit migrations/previous names.
func previous(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../migrations/previous")
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(string(raw))
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) ([]byte, error) {
		return exec.Command("git", append([]string{"-C", root}, args...)...).CombinedOutput()
	}
	if _, err := git("cat-file", "-e", commit); err != nil {
		if out, err := git("fetch", "--quiet", "--depth=1", "origin", commit); err != nil {
			t.Skipf("this clone does not have %s and cannot fetch it, so the release before cannot be built: %s", commit, out)
		}
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	if out, err := git("archive", "--output="+archive, commit); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range [][]string{{"tar", "-xf", archive, "-C", source}, {"go", "build", "-o", filepath.Join(dir, "keyledger"), "./cmd/keyledger"}} {
		cmd := exec.Command(step[0], step[1:]...)
		cmd.Dir = source
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", step, err, out)
		}
	}
	return filepath.Join(dir, "keyledger")
}

// Guarantee: the release before works on the schema of this one, alone and beside this
// one, on the same keys: it makes and changes keys, verifies, admits, records, takes back,
// lists and reports, and in the end every sum is that of the ledger. So replicas can be
// replaced one by one after the migration.
func TestReleaseBefore(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.URL(t)
	_, env := serve(t, dbURL)
	addr := freePort(t)
	old := launchOther(t, previous(t), nil, []string{"DATABASE_URL=" + dbURL, peppers, "KEYLEDGER_ADDR=" + addr, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off", "KEYLEDGER_BOOTSTRAP_TOKEN=" + bootstrap}, "serve")
	old.wait(`msg":"serving"`)
	bases := []string{"http://" + addr, env[0][len("KEYLEDGER_URL="):]}
	var all sync.WaitGroup
	for i, base := range bases {
		all.Go(func() {
			status, key := post(t, base, "/v1/keys", map[string]any{"name": fmt.Sprintf("made by %d", i), "tags": []string{"a", "b"}, "concurrencyLimit": 1000, "dailyCostLimit": 100, "rateLimitWindow": 60, "rateLimitRequests": 100000})
			if status != 201 {
				t.Errorf("%s: %d %v", base, status, key)
				return
			}
			for n := range 40 {
				at := bases[n%2] // each of them serves the other's key too
				if _, a := post(t, at, "/v1/keys/verify", map[string]any{"apiKey": key["apiKey"]}); a["valid"] != true {
					t.Errorf("%s: %v", at, a)
				}
				_, admitted := post(t, at, "/v1/admissions", map[string]any{"apiKey": key["apiKey"], "leaseSeconds": 60, "estimate": map[string]any{"costUsd": 0.01}})
				if admitted["allowed"] != true {
					t.Errorf("%s: %v", at, admitted)
				}
				status, recorded := post(t, bases[(n+1)%2], "/v1/usage", map[string]any{"admissionId": admitted["admissionId"], "accountId": "acct", "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}})
				if status != 200 {
					t.Errorf("%s: %d %v", at, status, recorded)
					continue
				}
				event := recorded["results"].([]any)[0].(map[string]any)
				if n%10 == 0 {
					if status, a := post(t, at, "/v1/events/"+event["eventId"].(string)+"/void", map[string]any{"reason": "test"}); status != 200 {
						t.Errorf("%s: %d %v", at, status, a)
					}
				}
			}
			if status, a := post(t, base, "/v1/keys/"+key["id"].(string)+"/rotate", map[string]any{"graceSeconds": 60}); status != 200 {
				t.Errorf("%s: %d %v", base, status, a)
			}
		})
	}
	all.Wait()
	oldEnv := []string{"KEYLEDGER_URL=" + bases[0], "KEYLEDGER_TOKEN=" + bootstrap}
	for _, args := range [][]string{{"keys", "list"}, {"usage", "accounts"}, {"usage", "events"}, {"keys", "update", "made by 0", "--tags", "c"}, {"reports", "reconcile"}} {
		for _, e := range [][]string{oldEnv, env} {
			if args[1] == "update" && len(e) == 3 {
				continue
			}
			if r := execute(t, e, args...); r.code != 0 {
				t.Errorf("%v against %s: %s%s", args, e[0], r.out, r.errors)
			}
		}
	}
	if r := execute(t, env, "reports", "usage", "--per", "total", "--by", "key"); r.code != 0 || !strings.Contains(r.out, "in all: 72 requests, 7200 tokens, $0.018") {
		t.Errorf("%s%s", r.out, r.errors)
	}
}

// Guarantee: a database of the release before, in use, comes to the same schema as a new
// one, and no index of it is left unusable.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	used, fresh := pgtest.EmptyURL(t), pgtest.URL(t)
	if out, err := migrate(previous(t), used); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r := execute(t, []string{"DATABASE_URL=" + used}, "migrate", "up"); r.code != 0 {
		t.Fatal(r.errors)
	}
	const schema = `SELECT string_agg(x, E'\n' ORDER BY x) FROM (
		SELECT indexdef AS x FROM pg_indexes WHERE schemaname = 'public' AND tablename !~ '\d{8}$'
		UNION ALL SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '') FROM information_schema.columns WHERE table_schema IN ('public', 'reporting') AND table_name !~ '\d{8}$'
		UNION ALL SELECT p.proname || ' ' || md5(p.prosrc) FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
		UNION ALL SELECT 'unusable: ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid) AS s`
	got, want := pgtest.Scan[string](t, pgtest.Open(t, used), schema), pgtest.Scan[string](t, pgtest.Open(t, fresh), schema)
	if got != want {
		t.Errorf("the upgraded schema has\n%s", firstDifference(got, want))
	}
}

func migrate(binary, dbURL string) ([]byte, error) {
	cmd := exec.Command(binary, "migrate", "up")
	cmd.Env = []string{"DATABASE_URL=" + dbURL}
	return cmd.CombinedOutput()
}

// firstDifference are the first lines of two texts that differ.
func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + "\nand should have\n" + b[i]
		}
	}
	return fmt.Sprintf("%d lines and should have %d", len(a), len(b))
}
