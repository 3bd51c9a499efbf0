package relay

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyledger/keyledger/internal/field"
)

// State is how a relay is at a moment.
type State struct {
	// UnderWay is how many requests are not settled.
	UnderWay int
	// Unrecorded is how many settlements in the journal are not in the ledger yet.
	Unrecorded int
	Accounts   []AccountState
}

// AccountState is how an upstream account is.
type AccountState struct {
	ID, Service string
	UnderWay    int
	Served      int64 // requests that it was chosen for since the start
	// RestsUntil is when a resting account is tried again; nil: it does not rest.
	RestsUntil *time.Time
	// Reason is why it rests: the provider's status, such as "429 Too Many Requests".
	Reason string
	// Detail is the start of the provider's answer.
	Detail string
	// FirstByte is the time to the first byte of its latest answers.
	FirstByte Quantiles
}

// Quantiles are of the latest durations, as many as Of tells; zero without any.
type Quantiles struct {
	P50, P95 time.Duration
	Of       int
}

const (
	// timesKept is how many answers an account's quantiles are of.
	timesKept = 128
	// maxDetail is how much of a provider's answer a detail has, in bytes.
	maxDetail = 200
)

// State tells how the relay is.
func (r *Relay) State() State {
	return State{UnderWay: len(r.underWay()), Unrecorded: len(r.journal.left(stateSettle)), Accounts: r.accounts.state()}
}

// answered notes how long an account took to the first byte of an answer.
func (a *accounts) answered(one *account, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one.took[one.answers%timesKept] = took
	one.answers++
}

func (a *accounts) state() []AccountState {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]AccountState, len(a.all))
	for i, one := range a.all {
		all[i] = AccountState{ID: one.ID, Service: one.Service, UnderWay: one.underWay, Served: one.served, FirstByte: one.firstByte()}
		if a.now().Before(one.restUntil) {
			until := one.restUntil
			all[i].RestsUntil = &until
			all[i].Reason, all[i].Detail = one.last.reason()
		}
	}
	return all
}

func (a *account) firstByte() Quantiles {
	n := min(a.answers, timesKept)
	if n == 0 {
		return Quantiles{}
	}
	sorted := slices.Clone(a.took[:n])
	slices.Sort(sorted)
	return Quantiles{P50: sorted[(n-1)/2], P95: sorted[(n-1)*95/100], Of: n}
}

// reason is a failure in a line, and the start of the provider's answer; nil: it did not answer.
func (f *failure) reason() (status, detail string) {
	if f == nil {
		return "the provider did not answer", ""
	}
	return strings.TrimSpace(strconv.Itoa(f.status) + " " + http.StatusText(f.status)), field.Clip(strings.Join(strings.Fields(string(f.body)), " "), maxDetail)
}
