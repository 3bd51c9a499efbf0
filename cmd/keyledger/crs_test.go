package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: inside claude-relay-service, as far as modules with its exports and call shapes
// stand for it, keyledger decides every request in the original's own words, keeps leases while
// answers flow, counts everything once across crashes and outages, and follows the pages' changes.
func TestClaudeRelayService(t *testing.T) {
	t.Parallel()
	_, env := serve(t, pgtest.URL(t), "KEYLEDGER_LOG_LEVEL=info")
	file, err := filepath.Abs(filepath.Join("..", "..", "adapters", "claude-relay-service", "test", "keyledger.test.js"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "--test", file)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
