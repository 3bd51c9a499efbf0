package config_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/config"
)

var pepper = "p1:" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 32)))

func environ(pairs ...string) []string {
	return append([]string{"DATABASE_URL=postgres://x", "KEYLEDGER_PEPPERS=" + pepper}, pairs...)
}

// Guarantee: what is not set has the documented default.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := config.Load(environ())
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != ":8080" || c.Timezone != "UTC" || c.DefaultTokenLimit != 1000000 || c.LeaseTTL != 5*time.Minute || c.RetentionDays != 90 || len(c.Services) != 5 || c.KeyPrefixes[0] != "cr_" || len(c.Clients) != 4 || c.Unpriced != "refuse" || len(c.PepperList) != 1 {
		t.Errorf("%+v", c.Service)
	}
}

// Guarantee: every bad value is named at once, and no secret is in the error.
func TestAllBadValuesAtOnce(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"DEFAULT_TOKEN_LIMIT": "many", "LEASE_TTL": "0s", "UNPRICED": "maybe", "TIMEZONE": "Mars/Olympus", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml",
		"BOOTSTRAP_TOKEN": "too-short-secret", "LEDGER_RETENTION_DAYS": "0", "ARCHIVE_AFTER_DAYS": "1", "MAX_CONNS": "0", "TRUSTED_PROXIES": "10.0.0.0", "DEFAULT_ESTIMATE_USD": "x",
		"SERVICES": "all", "KEY_PREFIX": "a b", "CLIENTS_FILE": "/no/such/file", "PEPPERS": "p1:c2hvcnRzZWNyZXQ=", "EXPIRY_INTERVAL": "soon",
	}
	var vars []string
	for name, value := range bad {
		vars = append(vars, "KEYLEDGER_"+name+"="+value)
	}
	_, err := config.Load(vars)
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	text := err.Error()
	for name := range bad {
		if !strings.Contains(text, "KEYLEDGER_"+name) {
			t.Errorf("%s is not named in:\n%s", name, text)
		}
	}
	if !strings.Contains(text, "DATABASE_URL") {
		t.Errorf("DATABASE_URL is not named in:\n%s", text)
	}
	for _, secret := range []string{"too-short-secret", "c2hvcnRzZWNyZXQ"} {
		if strings.Contains(text, secret) {
			t.Errorf("the error shows %q", secret)
		}
	}
}

// Guarantee: peppers are read from either place, in order, and refused when
// short, doubled or nameless.
func TestPeppers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "peppers")
	second := "p2:" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("t", 40)))
	if err := os.WriteFile(file, []byte(second+"\n"+pepper+"\r\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load([]string{"DATABASE_URL=x", "KEYLEDGER_PEPPERS_FILE=" + file})
	if err != nil || len(c.PepperList) != 2 || c.PepperList[0].ID != "p2" || len(c.PepperList[0].Secret) != 40 {
		t.Errorf("%+v %v", c.PepperList, err)
	}
	for _, bad := range []string{"", "p1", "p1:", ":" + pepper[3:], "p1:!!!", pepper + "," + pepper, "legacy:" + pepper[3:], "a b:" + pepper[3:]} {
		if _, err := config.ParsePeppers("PEPPERS", bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := config.Load(environ("KEYLEDGER_PEPPERS_FILE=" + file)); err == nil {
		t.Error("PEPPERS and PEPPERS_FILE together were accepted")
	}
}

// Guarantee: a misspelt setting is told of; what Kubernetes sets is not.
func TestUnknown(t *testing.T) {
	t.Parallel()
	c, err := config.Load(environ("KEYLEDGER_TIMEZNE=UTC", "KEYLEDGER_PORT=tcp://10.0.0.1:80", "KEYLEDGER_PORT_80_TCP_ADDR=x", "KEYLEDGER_SERVICE_HOST=x", "KEYLEDGER_TOKEN=x"))
	if err != nil || len(c.Unknown) != 1 || c.Unknown[0] != "KEYLEDGER_TIMEZNE" {
		t.Errorf("%v %v", c.Unknown, err)
	}
}

// Guarantee: further clients come from a file, and a bad file stops the start.
func TestClientsFile(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "clients.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "KEYLEDGER_CLIENTS_FILE=" + file
	}
	c, err := config.Load(environ(write(`[{"id":"mine","name":"Mine","pattern":"^mine/"}]`)))
	if err != nil || len(c.Clients) != 5 || !c.Clients[4].Regexp.MatchString("MINE/1") {
		t.Errorf("%+v %v", c.Clients, err)
	}
	for _, bad := range []string{`{}`, `[{"id":"","pattern":"x"}]`, `[{"id":"x","pattern":"("}]`, `[{"id":"x"}]`, `[{"id":"claude_code","pattern":"x"}]`} {
		if _, err := config.Load(environ(write(bad))); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	for agent, want := range map[string]bool{"claude-cli/1.0.58 (external, cli)": true, "Claude-CLI/1.0 (x": true, "claude-cli/1.0.58": false, "x claude-cli/1.0.58 (external)": false, "curl/8": false} {
		if got := c.Clients[0].Regexp.MatchString(agent); got != want {
			t.Errorf("%q is Claude Code: %v", agent, got)
		}
	}
}
