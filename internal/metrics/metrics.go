// Package metrics is what the service tells Prometheus. Labels never hold a
// secret, a key or a name that a caller chose freely.
package metrics

import (
	"net/http"
	"net/http/pprof"
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
	Overloaded  prometheus.Counter     // requests refused for want of capacity
	Delivered   *prometheus.CounterVec // tries to deliver to webhooks, by outcome

	heartbeat  prometheus.Histogram     // seconds
	batchSize  *prometheus.HistogramVec // by what is batched
	batchTime  *prometheus.HistogramVec // seconds, by what is batched
	batchFails *prometheus.CounterVec   // by what is batched
	budgets    *prometheus.GaugeVec     // USD left, by key and limit
	pending    prometheus.Gauge         // deliveries that wait
	oldest     prometheus.Gauge         // seconds that the oldest of them has waited
}

// New makes the metrics of one service.
func New() *Metrics {
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
		Overloaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyledger_overloaded_total", Help: "Requests answered with 503 because too many were under way or waiting."}),
		Delivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_webhook_tries_total", Help: "Tries to deliver to webhooks; failed ones are tried again, dead ones are not."}, []string{"outcome"}),
		heartbeat: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keyledger_heartbeat_seconds", Help: "Time from the sending of a heartbeat to hearing it; past 0.65 memory is distrusted.", Buckets: prometheus.ExponentialBuckets(.0005, 2, 12)}),
		batchSize: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyledger_batch_size", Help: "Admissions or usage events in one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}, []string{"queue"}),
		batchTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyledger_batch_seconds", Help: "Time of one transaction of admissions or usage events.", Buckets: prometheus.ExponentialBuckets(.0005, 2, 16)}, []string{"queue"}),
		batchFails: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_batch_failures_total", Help: "Transactions of admissions or usage events that failed; nothing of them is stored."}, []string{"queue"}),
	}
	m.budgets = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keyledger_key_budget_remaining_usd", Help: "What is left of limits of cost, of those that are used up most; negative: passed."}, []string{"key_id", "limit"})
	m.pending = prometheus.NewGauge(prometheus.GaugeOpts{Name: "keyledger_webhook_pending", Help: "Deliveries to webhooks that are to be sent."})
	m.oldest = prometheus.NewGauge(prometheus.GaugeOpts{Name: "keyledger_webhook_oldest_seconds", Help: "How long the oldest delivery to a webhook has waited."})
	m.registry.MustRegister(m.pending, m.oldest, m.budgets, m.Requests, m.Verified, m.Recorded, m.Repeated, m.Decided, m.Dearer, m.KeysExpired, m.Overloaded, m.Delivered,
		m.heartbeat, m.batchSize, m.batchTime, m.batchFails,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// What alerts ask the increase of begins at 0, so that the first one is seen.
	for _, counted := range []*prometheus.CounterVec{m.Recorded, m.Repeated} {
		counted.WithLabelValues("true")
		counted.WithLabelValues("false")
	}
	for _, outcome := range []string{"delivered", "failed", "dead"} {
		m.Delivered.WithLabelValues(outcome)
	}
	for _, queue := range []string{"admissions", "usage"} {
		m.batchFails.WithLabelValues(queue)
	}
	return m
}

// Registry is where further metrics are registered.
func (m *Metrics) Registry() prometheus.Registerer { return m.registry }

// Beat notes how long a heartbeat of the listener took to be heard.
func (m *Metrics) Beat(took time.Duration) { m.heartbeat.Observe(took.Seconds()) }

// Flushed notes one transaction of a queue: what it held, how long it took, and
// whether it failed.
func (m *Metrics) Flushed(queue string) func(weight int, took time.Duration, err error) {
	size, seconds, fails := m.batchSize.WithLabelValues(queue), m.batchTime.WithLabelValues(queue), m.batchFails.WithLabelValues(queue)
	return func(weight int, took time.Duration, err error) {
		size.Observe(float64(weight))
		seconds.Observe(took.Seconds())
		if err != nil {
			fails.Inc()
		}
	}
}

// Queue watches what waits, and for how long the oldest has.
func (m *Metrics) Queue(queue string, state func() (waiting int, oldest time.Duration)) {
	m.gauge("keyledger_queue_waiting", "Admissions or usage events that wait for their transaction.", prometheus.Labels{"queue": queue},
		func() float64 { waiting, _ := state(); return float64(waiting) })
	m.gauge("keyledger_queue_oldest_seconds", "How long the oldest admission or usage event that is not done has been here.", prometheus.Labels{"queue": queue},
		func() float64 { _, oldest := state(); return oldest.Seconds() })
}

// Pool watches connections to the database: open, in use and allowed.
func (m *Metrics) Pool(pool string, stat func() (open, inUse, most int32)) {
	for name, pick := range map[string]func(open, inUse, most int32) int32{
		"open":   func(open, _, _ int32) int32 { return open },
		"in_use": func(_, inUse, _ int32) int32 { return inUse },
		"most":   func(_, _, most int32) int32 { return most },
	} {
		m.gauge("keyledger_db_connections", "Connections to the database.", prometheus.Labels{"pool": pool, "state": name},
			func() float64 { return float64(pick(stat())) })
	}
}

// Cache watches what is remembered.
func (m *Metrics) Cache(cache string, stat func() (held int, hits, misses uint64)) {
	labels := prometheus.Labels{"cache": cache}
	m.gauge("keyledger_cache_entries", "What is remembered.", labels, func() float64 { held, _, _ := stat(); return float64(held) })
	m.counter("keyledger_cache_hits_total", "Answers from memory.", labels, func() float64 { _, hits, _ := stat(); return float64(hits) })
	m.counter("keyledger_cache_misses_total", "Answers that the database was asked for.", labels, func() float64 { _, _, misses := stat(); return float64(misses) })
}

// Listening watches whether changes are heard: 1 or 0.
func (m *Metrics) Listening(live func() bool) {
	m.gauge("keyledger_listening", "1 while changes are heard and memory may be used; 0: every request asks the database.", nil, func() float64 {
		if live() {
			return 1
		}
		return 0
	})
}

func (m *Metrics) gauge(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

func (m *Metrics) counter(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// Observe notes one HTTP request.
func (m *Metrics) Observe(method, route, status string, took time.Duration) {
	m.Requests.WithLabelValues(method, route, status).Observe(took.Seconds())
}

// Budget is what is left of a limit of cost of a key.
type Budget struct {
	Key, Limit string
	Remaining  float64 // USD
}

// Budgets replaces all that was known of budgets.
func (m *Metrics) Budgets(all []Budget) {
	m.budgets.Reset()
	for _, b := range all {
		m.budgets.WithLabelValues(b.Key, b.Limit).Set(b.Remaining)
	}
}

// Deliveries tells how many deliveries to webhooks wait, and for how long the oldest has.
func (m *Metrics) Deliveries(pending int64, oldestSeconds float64) {
	m.pending.Set(float64(pending))
	m.oldest.Set(oldestSeconds)
}

// Handler is what the private listener serves: the metrics in Prometheus's text format at
// /metrics, and profiles of the process at /debug/pprof/.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
