// Package metrics is what the service tells Prometheus. Labels never hold a
// secret, a key or a name that a caller chose freely.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the service's own counters, beside those of Go and the process.
type Metrics struct {
	registry *prometheus.Registry

	Requests    *prometheus.HistogramVec // seconds, by method, route and status
	Verified    *prometheus.CounterVec   // by code
	Recorded    *prometheus.CounterVec   // usage events recorded, by whether they had a price
	Repeated    *prometheus.CounterVec   // duplicate usage events, by whether their content differed
	Decided     *prometheus.CounterVec   // admissions, by code and whether an observing key was let through
	Dearer      prometheus.Counter       // settlements that cost more than was reserved
	KeysExpired prometheus.Counter
}

// PoolStat tells how many connections are open, in use and allowed.
type PoolStat func() (open, inUse, most int32)

// New makes the metrics of one service.
func New(pool PoolStat) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		Requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyledger_http_request_seconds", Help: "Time to answer HTTP requests.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"method", "route", "status"}),
		Verified: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_verifications_total", Help: "Answers of verify, by code."}, []string{"code"}),
		Recorded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_usage_events_total", Help: "Usage events recorded; priced=false had no price and cost 0."}, []string{"priced"}),
		Repeated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_usage_duplicates_total", Help: "Usage events answered as duplicates; conflict=true had other content."}, []string{"conflict"}),
		Decided: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_admissions_total", Help: "Decisions, by code; let_through=true went over a limit that its key only observes."}, []string{"code", "let_through"}),
		Dearer: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyledger_settlements_dearer_total", Help: "Settlements that cost more than was reserved for them: estimates are too low."}),
		KeysExpired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyledger_keys_expired_total", Help: "Keys disabled because their end had passed."}),
	}
	m.registry.MustRegister(m.Requests, m.Verified, m.Recorded, m.Repeated, m.Decided, m.Dearer, m.KeysExpired,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for name, pick := range map[string]func(open, inUse, most int32) int32{
		"open":   func(open, _, _ int32) int32 { return open },
		"in_use": func(_, inUse, _ int32) int32 { return inUse },
		"most":   func(_, _, most int32) int32 { return most },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_db_connections", Help: "Connections to the database.", ConstLabels: prometheus.Labels{"state": name},
		}, func() float64 { return float64(pick(pool())) }))
	}
	return m
}

// Observe notes one HTTP request.
func (m *Metrics) Observe(method, route, status string, took time.Duration) {
	m.Requests.WithLabelValues(method, route, status).Observe(took.Seconds())
}

// Handler serves the metrics in Prometheus's text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
