package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: the workflow that docs/migrations.md hands out does what it says: on a copy
// of a database with keys and usage whose schema is behind, and then on that database,
// which has its data and the new schema afterwards.
func TestWorkflow(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/workflows/migrate.yml")
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Defaults struct{ Run struct{ Shell string } }
		Jobs     map[string]struct {
			Steps []struct{ Name, Run string }
		}
	}
	if err := yaml.Unmarshal(raw, &workflow); err != nil {
		t.Fatal(err)
	}
	// What GitHub runs a step with. Source: its documentation of jobs.<job_id>.steps[*].shell.
	shells := map[string][]string{"": {"-e", "-c"}, "bash": {"--noprofile", "--norc", "-eo", "pipefail", "-c"}}
	shell, known := shells[workflow.Defaults.Run.Shell]
	if !known {
		t.Fatalf("the shell %q", workflow.Defaults.Run.Shell)
	}
	production, copied := pgtest.URL(t), pgtest.EmptyURL(t)
	p, env := serve(t, production)
	_, key := post(t, env[0][len("KEYLEDGER_URL="):], "/v1/keys", map[string]any{"name": "k", "tags": []string{"a"}})
	post(t, env[0][len("KEYLEDGER_URL="):], "/v1/usage", map[string]any{"keyId": key["id"], "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}})
	p.stop(syscall.SIGTERM)
	if r := execute(t, []string{"DATABASE_URL=" + production}, "migrate", "down"); r.code != 0 {
		t.Fatal(r.errors)
	}
	bin := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(bin, "keyledger")); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	run := func(job, dbURL string) (printed string) {
		for _, step := range workflow.Jobs[job].Steps {
			if step.Run == "" || strings.HasPrefix(step.Name, "Install") {
				continue
			}
			cmd := exec.Command("bash", append(slices.Clone(shell), step.Run)...)
			cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + bin, "DATABASE_URL=" + dbURL, "PRODUCTION_URL=" + production,
				"KEYLEDGER_URL=http://" + addr, "KEYLEDGER_ADDR=" + addr, "KEYLEDGER_METRICS_ADDR=off", "KEYLEDGER_AUTHZ_ADDR=off", "KEYLEDGER_TOKEN=" + bootstrap}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", step.Name, err, out)
			}
			printed += string(out)
		}
		return printed
	}
	if out := run("rehearse", copied); !strings.Contains(out, "every sum is that of the ledger") {
		t.Errorf("the rehearsal printed\n%s", out)
	}
	if r := execute(t, []string{"DATABASE_URL=" + production}, "migrate", "check"); r.code != 1 {
		t.Error("the rehearsal migrated production")
	}
	run("production", production)
	if got := pgtest.Scan[string](t, pgtest.Open(t, production), "SELECT (SELECT count(*) FROM api_keys) || ' ' || (SELECT sum(requests) FROM key_counters)"); got != "1 1" {
		t.Errorf("keys and requests after it: %s", got)
	}
}
