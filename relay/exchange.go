package relay

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// exchange is one request on its way, from its arrival to its settlement.
type exchange struct {
	relay     *Relay
	arrived   time.Time
	id        string // the relay's own, for answers and logs
	op        *operation
	service   string
	path      string // at the provider
	model     string
	body      *body
	asked     asked
	hideUsage bool // the client did not ask for the chunk that tells the usage
	decision  Decision
	renewed   time.Time   // when its lease was taken; only keepLeases touches it later
	unwatch   func() bool // nil: it has not been forwarded
	sent      atomic.Bool // the provider has had some of it

	ending sync.Mutex
	end    context.CancelCauseFunc // ends the provider's side of the present try
	why    func() error

	mu      sync.Mutex
	account *account
	meter   meter
	news    bool      // something has come since the journal was told
	told    time.Time // when the journal was told
	settled bool
	drains  bool        // it has one of the places of answers that are read on
	over    *time.Timer // ends that
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange) //nolint:forcetypeassert // ServeHTTP has put it there
}

// see lets something look at the answer with the meter.
func (x *exchange) see(look func(meter)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	look(x.meter)
	x.news = true
}

// read is what is known of the answer.
func (x *exchange) read() reading {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.meter.reading()
}

// ended tells whether the provider has said that its answer, and its usage, are complete.
func (x *exchange) ended() bool {
	read := x.read()
	return read.ended && read.final
}

// done tells whether the request is settled.
func (x *exchange) done() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.settled
}

// broken tells whether an answer ended for the provider's sake, not for the client's.
func broken(err error) bool {
	return !errors.Is(err, errGone) && !errors.Is(err, errDrained) && !errors.Is(err, io.EOF)
}

// estimate is what the request would be settled by if no more of its answer came.
func (x *exchange) estimate() Usage {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.usage(true)
}

// usage is what the answer has used, by the provider's numbers or by an estimate of what was
// received, which never passes the request's bound.
func (x *exchange) usage(estimated bool) Usage {
	read := x.meter.reading()
	object := read.usage
	if estimated {
		most := int64(maxBound)
		if x.asked.bound != nil {
			most = *x.asked.bound
		}
		object = x.meter.estimated(x.asked.estimate, min(max(read.output, read.received.tokens()), most))
	}
	raw, err := jsonv2.Marshal(object, jsonv2.Deterministic(true))
	if err != nil { // of a provider that sends what is no JSON: the meter has read it, so it is
		raw = jsontext.Value("{}")
	}
	u := Usage{AdmissionID: x.decision.AdmissionID, KeyID: x.decision.KeyID, RequestID: shortID(read.requestID), Model: x.model, Usage: json.RawMessage(raw), Estimated: estimated, OccurredAt: time.Now().UTC().Truncate(time.Millisecond)}
	if x.account != nil {
		u.AccountID = x.account.ID
	}
	if !estimated {
		u.Fallback = x.usage(true).Usage
	}
	return u
}

// maxID is how long an id may be in the ledger, in characters.
const maxID = 200

// shortID is an id, or none if it is too long for the ledger: a part of it would be another's.
func shortID(id string) string {
	if len(id) > maxID {
		return ""
	}
	return id
}

// finish settles the request, once. It returns when that is done, or after settleWait: then
// the journal has it.
func (x *exchange) finish(how string) {
	if x.op.format == nil {
		x.giveBack()
		return
	}
	x.mu.Lock()
	if x.settled {
		x.mu.Unlock()
		return
	}
	x.settled = true
	if x.drains {
		x.over.Stop()
		<-x.relay.drains
	}
	var u Usage
	if how != settledReleased {
		u = x.usage(how == settledEstimated)
	}
	x.mu.Unlock()
	r := x.relay
	defer func() { // last, so that Close waits for it
		r.mu.Lock()
		delete(r.open, x)
		r.mu.Unlock()
	}()
	r.metrics.settled.WithLabelValues(x.service, how).Inc()
	x.giveBack()
	if how == settledReleased {
		r.release(x)
		return
	}
	r.settle(u)
}

// giveBack gives the account back.
func (x *exchange) giveBack() {
	x.mu.Lock()
	one := x.account
	x.mu.Unlock()
	if one != nil {
		x.relay.accounts.done(one)
	}
	if x.unwatch != nil {
		x.unwatch()
	}
}

// unmarshal reads what a provider sent, of which only some members matter.
func unmarshal(data []byte, into any) error { return jsonv2.Unmarshal(data, into) }
