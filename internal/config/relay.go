package config

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"time"

	"github.com/caarlos0/env/v11"
)

// Relay are the settings of the relay, beside the service and alone.
type Relay struct {
	RelayAddr     string        `env:"RELAY_ADDR" envDefault:"off" desc:"Address of the relay, which forwards requests to the providers; off: none."`
	UpstreamsFile string        `env:"UPSTREAMS_FILE" desc:"YAML file of the upstream accounts that the relay forwards with."`
	SpoolDir      string        `env:"SPOOL_DIR" desc:"Directory of the relay's journal, one for each relay: what is used and not yet in the ledger."`
	OnDisconnect  string        `env:"RELAY_ON_DISCONNECT" envDefault:"drain" desc:"drain or cancel: whether an answer is read to its usage when its client has gone, or ended and estimated."`
	IdleTimeout   time.Duration `env:"RELAY_IDLE_TIMEOUT" envDefault:"10m" desc:"How long a provider may send nothing before the relay gives its answer up."`
}

// Tracing are the settings of traces, of the service and of the relay alone.
type Tracing struct {
	OTLPEndpoint string  `env:"OTLP_ENDPOINT" desc:"Collector that OpenTelemetry traces are sent to over HTTP, like http://127.0.0.1:4318; empty: none."`
	TraceSample  float64 `env:"TRACE_SAMPLE" envDefault:"1" desc:"Share of traces that are kept, 0 to 1, of those that a caller has not decided about."`
}

// checkTracing applies the rules of the settings of traces.
func (t Tracing) checkTracing() (wrong []error) {
	if t.TraceSample < 0 || t.TraceSample > 1 {
		wrong = append(wrong, errors.New(Prefix+"TRACE_SAMPLE must be between 0 and 1"))
	}
	if u, err := url.Parse(t.OTLPEndpoint); t.OTLPEndpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		wrong = append(wrong, errors.New(Prefix+"OTLP_ENDPOINT must be an address like http://127.0.0.1:4318"))
	}
	return wrong
}

// RelayAlone is what keyledger relay is configured by.
type RelayAlone struct {
	URL   string `env:"URL" desc:"Where the service is. Required."`
	Token string `env:"TOKEN" desc:"An access token of the role relay. Required."`
	Relay
	Tracing
	MetricsAddr string `env:"METRICS_ADDR" envDefault:"127.0.0.1:9090" desc:"Address of GET /metrics; off: none."`
	LogLevel    string `env:"LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error."`
	LogFormat   string `env:"LOG_FORMAT" envDefault:"json" desc:"json or text."`
}

// LoadRelay reads the environment of keyledger relay. The error names every bad value, one
// a line.
func LoadRelay(environ []string) (RelayAlone, error) {
	vars := env.ToMap(environ)
	if vars[Prefix+"RELAY_ADDR"] == "" {
		vars[Prefix+"RELAY_ADDR"] = "127.0.0.1:8082"
	}
	var c RelayAlone
	wrong := parse(&c, vars)
	if c.URL == "" || c.Token == "" {
		wrong = append(wrong, fmt.Errorf("%sURL and %sTOKEN are required: where the service is, and an access token of the role relay", Prefix, Prefix))
	}
	wrong = append(wrong, c.checkRelay()...)
	wrong = append(wrong, c.checkTracing()...)
	wrong = append(wrong, checkLog(c.LogLevel, c.LogFormat)...)
	return c, errors.Join(wrong...)
}

// checkRelay applies the rules of the relay's settings.
func (r Relay) checkRelay() (wrong []error) {
	rule := func(ok bool, name, message string) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s%s %s", Prefix, name, message))
		}
	}
	rule(r.OnDisconnect == "drain" || r.OnDisconnect == "cancel", "RELAY_ON_DISCONNECT", "must be drain or cancel")
	rule(r.IdleTimeout >= time.Second && r.IdleTimeout <= time.Hour, "RELAY_IDLE_TIMEOUT", "must be between 1s and 1h")
	if r.RelayAddr != "off" {
		rule(r.UpstreamsFile != "", "UPSTREAMS_FILE", "is required where there is a relay")
		rule(r.SpoolDir != "", "SPOOL_DIR", "is required where there is a relay")
	}
	return wrong
}

// RelayVariables are all settings of keyledger relay, in order.
func RelayVariables() []Variable { return variables(reflect.TypeFor[RelayAlone](), Prefix) }
