package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
)

const monitoring = "../../docs/monitoring"

// Guarantee: Prometheus takes the alert rules, and a live service has every metric that the rules and
// the dashboard's panels ask for; each query is one that Prometheus answers. Every metric of ours is
// explained in docs/operations.md or docs/relay.md. Profiles are on the private listener alone.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	relayEnv, relayAddr := mockUpstreams(t)
	private := freePort(t)
	c := &console{t: t, dbURL: pgtest.URL(t)}
	_, c.env = serve(t, c.dbURL, append(relayEnv, "KEYLEDGER_METRICS_ADDR="+private)...)
	c.base, c.admin = strings.TrimPrefix(c.env[0], "KEYLEDGER_URL="), strings.TrimPrefix(c.env[1], "KEYLEDGER_TOKEN=")
	c.demo()
	c.relayed(relayAddr)
	if status, _ := get(t, "http://"+private+"/debug/pprof/heap?debug=1"); status != http.StatusOK {
		t.Errorf("profiles: %d", status)
	}
	if status, _ := get(t, c.base+"/debug/pprof/heap?debug=1"); status == http.StatusOK {
		t.Error("profiles are on the public listener")
	}

	if out, err := exec.Command("promtool", "check", "rules", filepath.Join(monitoring, "alerts.yaml")).CombinedOutput(); err != nil {
		t.Fatalf("%v (make test installs it)\n%s", err, out)
	}
	dir, front := t.TempDir(), freePort(t)
	rules, err := filepath.Abs(filepath.Join(monitoring, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [%q]\nscrape_configs:\n  - job_name: keyledger\n    static_configs: [{ targets: [%q] }]\n", rules, private)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	startProxy(t, dir, front, []string{"prometheus", "--config.file=DIR/prometheus.yml", "--storage.tsdb.path=DIR/data", "--web.listen-address=" + front})

	ask := func(path string) (answer struct {
		Status, Error string
		Data          struct {
			Result []any
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}) {
		t.Helper()
		_, text := get(t, "http://"+front+path)
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatalf("%s: %s", path, text)
		}
		return answer
	}
	query := func(expr string) (series int, wrong string) {
		answer := ask("/api/v1/query?query=" + url.QueryEscape(expr))
		return len(answer.Data.Result), answer.Error
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if status, _ := get(t, "http://"+front+"/-/ready"); status == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("Prometheus does not get ready")
		}
	}
	// The gauges of budgets come some seconds after the keys.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		if n, _ := query("keyledger_key_budget_remaining_usd"); n > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no budget among the metrics")
		}
	}
	for name, expr := range monitored(t) {
		for _, metric := range regexp.MustCompile(`(keyledger|process)_\w+`).FindAllString(expr, -1) {
			if n, wrong := query(metric); n == 0 && !rare[metric] {
				t.Errorf("%s: there is no %s %s", name, metric, wrong)
			}
		}
		if _, wrong := query(expr); wrong != "" {
			t.Errorf("%s: %s: %s", name, expr, wrong)
		}
	}
	for _, group := range ask("/api/v1/rules").Data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" {
				t.Errorf("rule %s: %s %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}

	explained := ""
	for _, file := range []string{"operations.md", "relay.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", file))
		if err != nil {
			t.Fatal(err)
		}
		explained += string(text)
	}
	_, text := get(t, "http://"+private+"/metrics")
	for _, found := range regexp.MustCompile(`# TYPE (keyledger_\w+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(explained, found[1]) {
			t.Errorf("no document explains %s", found[1])
		}
	}
	if strings.Contains(text, bootstrap) || strings.Contains(text, "alice") {
		t.Error("metrics hold a secret, or a name that somebody chose")
	}
}

// rare are metrics that have no sample before something went wrong.
var rare = map[string]bool{"keyledger_relay_retries_total": true, "keyledger_relay_failures_total": true}

// monitored are the queries of the dashboard's panels and of the rules, by their names.
func monitored(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(monitoring, "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	given := strings.NewReplacer("$job", "keyledger", "$__rate_interval", "1m")
	for _, p := range board.Panels {
		for i, target := range p.Targets {
			all[fmt.Sprint("panel ", p.Title, " ", i)] = given.Replace(target.Expr)
		}
	}
	if len(all) < 20 {
		t.Errorf("%d queries in the dashboard", len(all))
	}
	rules, err := os.ReadFile(filepath.Join(monitoring, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range regexp.MustCompile(`keyledger_\w+`).FindAllString(string(rules), -1) {
		all["alerts "+metric] = metric
	}
	return all
}
