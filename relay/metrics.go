package relay

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the relay tells Prometheus.
type metrics struct {
	requests  *prometheus.CounterVec   // by service, operation, status and reason
	firstByte *prometheus.HistogramVec // seconds, by service
	settled   *prometheus.CounterVec   // by service and how
	retried   *prometheus.CounterVec   // by service
	journaled *prometheus.CounterVec   // failures, by what was tried
}

// How a request was settled.
const (
	settledExact     = "exact"     // by the provider's own numbers
	settledEstimated = "estimated" // by what was received
	settledReleased  = "released"  // it used nothing
)

func newMetrics(r *Relay, registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_relay_requests_total", Help: "Requests of the relay, by service, operation, status, and keyledger's code where it refused them."}, []string{"service", "operation", "status", "reason"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyledger_relay_first_byte_seconds", Help: "Time from a request's arrival to the first byte of its answer.", Buckets: prometheus.ExponentialBuckets(.005, 2, 15)}, []string{"service"}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_relay_settled_total", Help: "Requests that were settled: exact, by the provider's own numbers; estimated, by what was received; released, since they used nothing."}, []string{"service", "how"}),
		retried: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_relay_retries_total", Help: "Requests that were sent again with another account."}, []string{"service"}),
		journaled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_relay_failures_total", Help: "What failed on the way to the ledger, and is tried again: journal, renew, record."}, []string{"what"}),
	}
	if registry == nil {
		return m
	}
	registry.MustRegister(m.requests, m.firstByte, m.settled, m.retried, m.journaled,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_relay_open", Help: "Requests that are under way."}, func() float64 { return float64(len(r.underWay())) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_relay_unrecorded", Help: "Settlements in the journal that are not in the ledger yet."}, func() float64 { return float64(len(r.journal.left(stateSettle))) }),
	)
	for service := range defaultAddress {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_relay_accounts_resting", Help: "Upstream accounts that rest after errors.", ConstLabels: prometheus.Labels{"service": service}},
			func() float64 { return float64(r.accounts.resting()[service]) }))
	}
	return m
}
