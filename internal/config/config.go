// Package config is the service's configuration: environment variables only,
// every name under KEYLEDGER_ but DATABASE_URL. All that is wrong is named at
// once.
package config

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// Prefix begins every name but DATABASE_URL.
const Prefix = "KEYLEDGER_"

// Config is what serve is configured by. The desc tags are its documentation:
// serve --help prints them.
type Config struct {
	DatabaseURL string `env:"DATABASE_URL" desc:"PostgreSQL to work on, a URL or keyword string. Required."`
	Service
}

// Service are the settings under KEYLEDGER_.
type Service struct {
	Addr        string `env:"ADDR" envDefault:":8080" desc:"Address of the REST API."`
	MetricsAddr string `env:"METRICS_ADDR" envDefault:"127.0.0.1:9090" desc:"Address of GET /metrics, off the public one; off: none."`
	AuthzAddr   string `env:"AUTHZ_ADDR" envDefault:"127.0.0.1:8081" desc:"Address of /v1/authz for reverse proxies; it needs no access token, so only they may reach it; off: none."`
	ListenURL   string `env:"LISTEN_URL" desc:"Connection for migrations and for hearing of changes, where that is to be another one; empty: DATABASE_URL."`
	MaxConns    int32  `env:"MAX_CONNS" envDefault:"10" desc:"Most connections to the database for lists and reports, a third of them for reports. The hot path has three times WRITERS and six of its own; changes of keys have three, and hearing of them two."`

	Writers     int `env:"WRITERS" envDefault:"2" desc:"Batches of admissions, and of usage, that are committed at the same time."`
	MaxBatch    int `env:"MAX_BATCH" envDefault:"500" desc:"Most admissions, or usage events, in one transaction; 1: one transaction each."`
	MaxQueue    int `env:"MAX_QUEUE" envDefault:"5000" desc:"Most admissions, and usage events, that wait for their transaction; past it 503."`
	MaxInFlight int `env:"MAX_IN_FLIGHT" envDefault:"2000" desc:"Most requests under way at once; past it 503."`
	MaxPerAddr  int `env:"MAX_CONNECTIONS_PER_ADDRESS" envDefault:"1000" desc:"Most connections that one client address may have open to the REST API; further ones are closed. TRUSTED_PROXIES are not counted; 0: no bound."`
	CacheKeys   int `env:"CACHE_KEYS" envDefault:"100000" desc:"Most keys remembered in memory, about 1.5 kB each."`

	Peppers      string `env:"PEPPERS" desc:"Secrets that key hashes depend on: id:base64, at least 32 bytes each, by comma or line; the first is current. This or PEPPERS_FILE is required."`
	PeppersFile  string `env:"PEPPERS_FILE" desc:"File that holds PEPPERS."`
	LegacyPepper string `env:"LEGACY_PEPPER" desc:"Encryption key of claude-relay-service, for keys that came from it."`
	Bootstrap    string `env:"BOOTSTRAP_TOKEN" desc:"At least 32 characters: becomes the first admin token if no token has ever existed."`

	KeyFormat         string          `env:"KEY_FORMAT" envDefault:"hex" desc:"hex or checked: whether new keys are 64 hexadecimal digits, as the original's are, or end in a checksum that scanners for leaked secrets know them by. Both are accepted."`
	KeyPrefixes       []string        `env:"KEY_PREFIX" envDefault:"cr_" desc:"What keys begin with: a list, new keys get the first, all are accepted."`
	Services          []string        `env:"SERVICES" envDefault:"claude,gemini,openai,bedrock,droid" desc:"Services that permissions may name."`
	DefaultTokenLimit int64           `env:"DEFAULT_TOKEN_LIMIT" envDefault:"1000000" desc:"tokenLimit of a key that names none."`
	DefaultEstimate   decimal.Decimal `env:"DEFAULT_ESTIMATE_USD" envDefault:"0" desc:"USD reserved by an admission without an estimate on a key without one."`
	ReservationTTL    time.Duration   `env:"RESERVATION_TTL" envDefault:"1h" desc:"How long a reservation waits for its settlement."`
	LeaseTTL          time.Duration   `env:"LEASE_TTL" envDefault:"5m" desc:"How long a lease lasts that asks for no time of its own."`
	WrongTokens       int             `env:"MAX_WRONG_TOKENS_PER_ADDRESS" envDefault:"60" desc:"Wrong access tokens that an address may present a minute before its unknown tokens are refused unread; 0: any number."`
	Console           string          `env:"CONSOLE" envDefault:"on" desc:"on or off: the pages at / beside the API."`
	Unpriced          string          `env:"UNPRICED" envDefault:"refuse" desc:"refuse or allow: admission of a model without a price and without an estimate on a key with a cost limit."`
	ClientsFile       string          `env:"CLIENTS_FILE" desc:"JSON file with further client patterns: [{\"id\", \"name\", \"pattern\"}]."`

	Relay
	Tracing
	GRPC

	ReportsURL string        `env:"REPORTS_URL" desc:"A streaming standby of the database, or the same server under another user, that lists and usage reports are read from; empty: they are read from DATABASE_URL."`
	ReportsLag time.Duration `env:"REPORTS_MAX_LAG" envDefault:"5s" desc:"How far that standby may be behind; past it the primary is asked."`

	OTLPKeys string `env:"OTLP_KEYS" desc:"Keys of traces (POST /otlp/v1/traces) that name none, by their resource's service.name: NAME=KEY-ID, by comma."`

	Timezone       string        `env:"TIMEZONE" envDefault:"UTC" desc:"IANA time zone whose midnights part days, weeks and months. Fixed in the database at the first start."`
	ExpiryInterval time.Duration `env:"EXPIRY_INTERVAL" envDefault:"1m" desc:"How often keys past their end are disabled."`
	RollupInterval time.Duration `env:"ROLLUP_INTERVAL" envDefault:"5s" desc:"How often recorded usage is added to the rollups that reports read. Answers add what is missing, so nobody sees it."`
	RetentionDays  int32         `env:"LEDGER_RETENTION_DAYS" envDefault:"90" desc:"Days that ledger rows are kept; rollups are kept for ever."`
	ArchiveDays    int32         `env:"ARCHIVE_AFTER_DAYS" envDefault:"0" desc:"Days after which months of the ledger move to the archive, each whole; 0: never. They stay part of the ledger."`
	AlertInterval  time.Duration `env:"ALERT_INTERVAL" envDefault:"10s" desc:"How often the service looks for reached limits and keys near their end, while a webhook asks for them."`
	DedupHorizon   time.Duration `env:"DEDUP_HORIZON" envDefault:"168h" desc:"How long a request id is remembered, so that its usage counts once."`

	MetricsKeys     int            `env:"METRICS_KEYS" envDefault:"100" desc:"Most limits of cost whose remaining budget is among the metrics, those that are used up most first; 0: none."`
	LogLevel        string         `env:"LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error."`
	LogFormat       string         `env:"LOG_FORMAT" envDefault:"json" desc:"json or text."`
	WebhookNetworks []netip.Prefix `env:"WEBHOOK_NETWORKS" desc:"Networks (CIDR, by comma) that webhooks may lie in though they are not open to all, such as 10.0.0.0/8."`
	TrustedProxies  []netip.Prefix `env:"TRUSTED_PROXIES" desc:"Networks (CIDR, by comma) whose X-Forwarded-For is believed."`
}

// Pepper is one secret of PEPPERS.
type Pepper struct {
	ID     string
	Secret []byte
}

// Loaded is a configuration with what its files hold.
type Loaded struct {
	Config

	PepperList []Pepper
	Clients    []Client
	// KeysByService is OTLP_KEYS.
	KeysByService map[string]uuid.UUID
	// GRPCTLS are the files of GRPC; nil: none.
	GRPCTLS *tls.Config
	// Unknown are variables under our prefix that mean nothing: most likely a
	// typing error that left a default in force.
	Unknown []string
}

// Client is a client program that keys may be restricted to.
type Client struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Pattern string `json:"pattern"` // regular expression on the User-Agent, in any case

	Regexp *regexp.Regexp `json:"-"`
}

// BuiltinClients are known without CLIENTS_FILE.
func BuiltinClients() []Client {
	return []Client{
		{ID: "claude_code", Name: "Claude Code", Pattern: `^claude-cli/[\d.]+\s+\(`},
		{ID: "gemini_cli", Name: "Gemini CLI", Pattern: `^GeminiCLI(-[\w-]+)?/v?[\d.]+[\w.-]*(/\S+)?\s+\(`},
		{ID: "codex_cli", Name: "Codex CLI", Pattern: `^(codex_vscode|codex_cli_rs|codex_exec)/[\d.]+`},
		{ID: "droid_cli", Name: "Droid CLI", Pattern: `^factory-cli/[\d.]+`},
	}
}

// parsers read the types that env does not know.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[decimal.Decimal](): func(text string) (any, error) { return decimal.NewFromString(text) },
}

// Load reads the environment. The error names every bad value, one a line.
func Load(environ []string) (Loaded, error) {
	vars := env.ToMap(environ)
	var c Loaded
	c.DatabaseURL = vars["DATABASE_URL"]
	wrong := parse(&c.Service, vars)
	wrong = append(wrong, c.check(vars)...)
	return c, errors.Join(wrong...)
}

// parse reads variables into a struct and returns what is wrong with each.
func parse[T any](into *T, vars map[string]string) (wrong []error) {
	err := env.ParseWithOptions(into, env.Options{Prefix: Prefix, Environment: vars, FuncMap: parsers})
	var several env.AggregateError
	switch {
	case errors.As(err, &several):
		for _, e := range several.Errors {
			wrong = append(wrong, byVariable[T](e))
		}
	case err != nil:
		wrong = append(wrong, err)
	}
	return wrong
}

func checkLog(level, format string) (wrong []error) {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		wrong = append(wrong, errors.New(Prefix+"LOG_LEVEL must be debug, info, warn or error"))
	}
	if format != "json" && format != "text" {
		wrong = append(wrong, errors.New(Prefix+"LOG_FORMAT must be json or text"))
	}
	return wrong
}

// LoadForTools is Load for commands that work on the database itself and see no key:
// peppers are not required.
func LoadForTools(environ []string) (Loaded, error) {
	if vars := env.ToMap(environ); vars[Prefix+"PEPPERS"] == "" && vars[Prefix+"PEPPERS_FILE"] == "" {
		environ = append(environ, Prefix+"PEPPERS=none:"+strings.Repeat("A", 44)) // is used for nothing
	}
	return Load(environ)
}

// byVariable names the variable, where env names our Go field.
func byVariable[T any](err error) error {
	var parse env.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	field, _ := reflect.TypeFor[T]().FieldByName(parse.Name)
	return fmt.Errorf("%s%s: %w", Prefix, field.Tag.Get("env"), parse.Err)
}

// check applies the rules that types cannot express, and reads the files.
func (c *Loaded) check(vars map[string]string) (wrong []error) {
	rule := func(ok bool, name, message string) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s %s", name, message))
		}
	}
	rule(c.DatabaseURL != "", "DATABASE_URL", "is required")
	rule(c.MaxConns > 0, Prefix+"MAX_CONNS", "must be at least 1")
	for name, n := range map[string]int{"WRITERS": c.Writers, "MAX_BATCH": c.MaxBatch, "MAX_QUEUE": c.MaxQueue, "MAX_IN_FLIGHT": c.MaxInFlight, "CACHE_KEYS": c.CacheKeys} {
		rule(n >= 1 && n <= 10_000_000, Prefix+name, "must be between 1 and 10000000")
	}
	rule(c.MaxPerAddr >= 0, Prefix+"MAX_CONNECTIONS_PER_ADDRESS", "must not be negative")
	rule(c.Writers <= 100, Prefix+"WRITERS", "must be at most 100: each has a connection")
	rule(c.Bootstrap == "" || regexp.MustCompile(`^[!-~]{32,500}$`).MatchString(c.Bootstrap), Prefix+"BOOTSTRAP_TOKEN", "must have 32 to 500 printable ASCII characters and no space")
	rule(time.Duration(c.RetentionDays)*24*time.Hour >= c.DedupHorizon, Prefix+"LEDGER_RETENTION_DAYS", "must not be shorter than "+Prefix+"DEDUP_HORIZON")
	rule(c.DefaultTokenLimit >= 0, Prefix+"DEFAULT_TOKEN_LIMIT", "must not be negative")
	rule(!c.DefaultEstimate.IsNegative(), Prefix+"DEFAULT_ESTIMATE_USD", "must not be negative")
	rule(c.WrongTokens >= 0 && c.WrongTokens <= 1_000_000, Prefix+"MAX_WRONG_TOKENS_PER_ADDRESS", "must be between 0 and 1000000")
	rule(c.MetricsKeys >= 0 && c.MetricsKeys <= 10_000, Prefix+"METRICS_KEYS", "must be between 0 and 10000")
	rule(c.Console == "on" || c.Console == "off", Prefix+"CONSOLE", "must be on or off")
	rule(c.KeyFormat == "hex" || c.KeyFormat == "checked", Prefix+"KEY_FORMAT", "must be hex or checked")
	rule(c.Unpriced == "allow" || c.Unpriced == "refuse", Prefix+"UNPRICED", "must be allow or refuse")
	wrong = append(wrong, checkLog(c.LogLevel, c.LogFormat)...)
	wrong = append(wrong, c.checkRelay()...)
	wrong = append(wrong, c.checkTracing()...)
	wrong = append(wrong, c.checkGRPC()...)
	rule(c.RetentionDays >= 1 && c.RetentionDays <= 36500, Prefix+"LEDGER_RETENTION_DAYS", "must be 1 to 36500")
	rule(c.ArchiveDays == 0 || c.ArchiveDays >= 2 && c.ArchiveDays+31 < c.RetentionDays, Prefix+"ARCHIVE_AFTER_DAYS", "must be 0, or at least 2 and more than 31 less than "+Prefix+"LEDGER_RETENTION_DAYS: whole months move")
	for name, d := range map[string]time.Duration{"RESERVATION_TTL": c.ReservationTTL, "LEASE_TTL": c.LeaseTTL, "EXPIRY_INTERVAL": c.ExpiryInterval, "ROLLUP_INTERVAL": c.RollupInterval, "ALERT_INTERVAL": c.AlertInterval, "REPORTS_MAX_LAG": c.ReportsLag, "DEDUP_HORIZON": c.DedupHorizon} {
		rule(d >= time.Second && d <= 366*24*time.Hour, Prefix+name, "must be between 1s and 8784h")
	}
	if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" || c.Timezone == "" {
		rule(false, Prefix+"TIMEZONE", fmt.Sprintf("%q is not an IANA time zone such as Europe/Berlin", c.Timezone))
	}
	c.KeysByService = map[string]uuid.UUID{}
	for one := range strings.SplitSeq(c.OTLPKeys, ",") {
		if strings.TrimSpace(one) == "" {
			continue
		}
		name, text, _ := strings.Cut(one, "=")
		id, err := uuid.Parse(strings.TrimSpace(text))
		rule(err == nil && strings.TrimSpace(name) != "", Prefix+"OTLP_KEYS", fmt.Sprintf("%q is not NAME=KEY-ID", one))
		c.KeysByService[strings.TrimSpace(name)] = id
	}
	rule(len(c.KeyPrefixes) > 0, Prefix+"KEY_PREFIX", "must name at least one prefix")
	for _, p := range c.KeyPrefixes {
		rule(regexp.MustCompile(`^[!-~]{1,20}$`).MatchString(p), Prefix+"KEY_PREFIX", "must be 1 to 20 printable characters without space")
	}
	for _, s := range c.Services {
		rule(regexp.MustCompile(`^[a-z0-9_-]{1,50}$`).MatchString(s) && s != "all", Prefix+"SERVICES", "must be names of 1 to 50 lowercase letters, digits, _ and -, and not all")
	}
	var err error
	if c.PepperList, err = c.readPeppers(); err != nil {
		wrong = append(wrong, err)
	}
	if c.Clients, err = readClients(c.ClientsFile); err != nil {
		wrong = append(wrong, fmt.Errorf("%sCLIENTS_FILE %w", Prefix, err))
	}
	c.Unknown = unknown(vars)
	return wrong
}

// elsewhere are names that other commands or the tests read, and those that
// Kubernetes sets in every container beside a service called keyledger.
var elsewhere = regexp.MustCompile(`^(URL|TOKEN|PG_BIN|TEST_SCREENSHOT|TEST_SOAK|SERVICE_HOST|SERVICE_PORT.*|PORT(_.*)?)$`)

func unknown(vars map[string]string) (names []string) {
	var known []string
	for _, v := range Variables() {
		known = append(known, v.Name)
	}
	for name := range vars {
		short, ours := strings.CutPrefix(name, Prefix)
		if ours && !slices.Contains(known, name) && !elsewhere.MatchString(short) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *Loaded) readPeppers() ([]Pepper, error) {
	name, text := Prefix+"PEPPERS", c.Peppers
	if c.PeppersFile != "" {
		if text != "" {
			return nil, fmt.Errorf("%sPEPPERS and %sPEPPERS_FILE must not both be set", Prefix, Prefix)
		}
		raw, err := os.ReadFile(c.PeppersFile)
		if err != nil {
			return nil, fmt.Errorf("%sPEPPERS_FILE: %w", Prefix, err)
		}
		name, text = Prefix+"PEPPERS_FILE", string(raw)
	}
	return ParsePeppers(name, text)
}

// ParsePeppers reads the form of PEPPERS. Errors name the setting and the
// pepper's id, never its secret.
func ParsePeppers(name, text string) (peppers []Pepper, err error) {
	for i, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		id, encoded, ok := strings.Cut(item, ":")
		if !ok || !regexp.MustCompile(`^[A-Za-z0-9._-]{1,50}$`).MatchString(id) || id == "legacy" {
			return nil, fmt.Errorf("%s: entry %d must be id:base64, the id 1 to 50 letters, digits and . _ - (and not legacy)", name, i+1)
		}
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(secret) < 32 {
			return nil, fmt.Errorf("%s: pepper %s must be base64 of at least 32 bytes (try: openssl rand -base64 32)", name, id)
		}
		if slices.ContainsFunc(peppers, func(p Pepper) bool { return p.ID == id }) {
			return nil, fmt.Errorf("%s: two peppers have the id %s", name, id)
		}
		peppers = append(peppers, Pepper{id, secret})
	}
	if len(peppers) == 0 {
		return nil, fmt.Errorf("%s is required: id:base64 of at least 32 bytes (try: echo \"p1:$(openssl rand -base64 32)\")", name)
	}
	return peppers, nil
}

func readClients(file string) ([]Client, error) {
	clients := BuiltinClients()
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var more []Client
		if err := json.Unmarshal(raw, &more); err != nil {
			return nil, fmt.Errorf("is not a JSON list of {id, name, pattern}: %w", err)
		}
		clients = append(clients, more...)
	}
	seen := map[string]bool{}
	for i := range clients {
		c := &clients[i]
		var err error
		if c.Regexp, err = regexp.Compile("(?i)" + c.Pattern); err != nil || c.Pattern == "" {
			return nil, fmt.Errorf("client %q: pattern must be a regular expression", c.ID)
		}
		if c.ID == "" || seen[c.ID] {
			return nil, fmt.Errorf("client %q: every id must be given, and once", c.ID)
		}
		seen[c.ID] = true
	}
	return clients, nil
}

// MigrationURL is the direct connection for migrations: LISTEN_URL where
// DATABASE_URL goes through a pooler.
func MigrationURL(getenv func(string) string) string {
	if url := getenv(Prefix + "LISTEN_URL"); url != "" {
		return url
	}
	return getenv("DATABASE_URL")
}

// MigrationURL is the direct connection for migrations.
func (c Loaded) MigrationURL() string {
	if c.ListenURL != "" {
		return c.ListenURL
	}
	return c.DatabaseURL
}

// Variable is one setting, for help.
type Variable struct {
	Name, Default, Description string
}

// Variables are all settings of serve, in order.
func Variables() []Variable {
	return append(variables(reflect.TypeFor[Config](), "")[:1], variables(reflect.TypeFor[Service](), Prefix)...)
}

// variables are the settings of a struct and of those in it.
func variables(t reflect.Type, prefix string) (all []Variable) {
	for f := range t.NumField() {
		field := t.Field(f)
		if field.Anonymous {
			all = append(all, variables(field.Type, prefix)...)
		} else if name := field.Tag.Get("env"); name != "" {
			all = append(all, Variable{prefix + name, field.Tag.Get("envDefault"), field.Tag.Get("desc")})
		}
	}
	return all
}
