package relay

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// How long an account rests when the provider does not say: doubled each time, up to the
// most, and from the start again after an answer.
const (
	restLeast = 5 * time.Second
	restMost  = 10 * time.Minute
	// restAsked bounds what a provider may ask for.
	restAsked = time.Hour
	// breaksToRest is after how many 5xx in a row an account rests.
	breaksToRest = 3
)

// accounts are the accounts with what is known of their health. It is safe for concurrent use.
type accounts struct {
	now func() time.Time

	mu  sync.Mutex
	all []*account
}

type account struct {
	Account

	underWay  int
	served    int64 // requests that it was chosen for
	breaks    int   // 5xx and broken connections in a row
	rests     int   // in a row
	restUntil time.Time
	took      [timesKept]time.Duration // to the first byte of its latest answers, a ring
	answers   int
	last      *failure // what it rests for
}

// failure is an answer of the provider that an account rests for: keys bound to the account
// get it meanwhile.
type failure struct {
	status int
	kind   string // Content-Type
	body   []byte
	wait   time.Duration // that it asks for; 0: it does not say
}

// Errors of choosing an account.
type (
	// noAccountError: the upstreams have none for a service, or none of a name.
	noAccountError struct{ service, id string }
	// restingError: all that could serve rest.
	restingError struct {
		last *failure // of a bound account; nil: of several
		wait time.Duration
	}
)

func (e noAccountError) Error() string {
	if e.id != "" {
		return fmt.Sprintf("the key is bound to the account %q, which this relay does not have", e.id)
	}
	return "this relay has no account for " + e.service
}

func (e restingError) Error() string {
	return fmt.Sprintf("the upstream accounts rest for %s", e.wait.Round(time.Second))
}

func newAccounts(u Upstreams) *accounts {
	a := &accounts{now: time.Now}
	for _, one := range u.Accounts {
		a.all = append(a.all, &account{Account: one})
	}
	return a
}

// choose takes the account for a request: one that the key is bound to, else the least busy
// of the service's that does not rest, and of those the one that served least. not is an
// account that has just failed; nil: none. Whoever takes one gives it back with done.
func (a *accounts) choose(service string, bound []string, not *account) (*account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var best *account
	var wait time.Duration
	var last *failure
	known := false
	for _, one := range a.all {
		if one.Service != service || len(bound) > 0 && one.ID != bound[0] {
			continue
		}
		known = true
		if left := one.restUntil.Sub(a.now()); left > 0 {
			if wait == 0 || left < wait {
				wait, last = left, one.last
			}
			continue
		}
		if one != not && (best == nil || one.underWay < best.underWay || one.underWay == best.underWay && one.served < best.served) {
			best = one
		}
	}
	switch {
	case best != nil:
		best.underWay++
		best.served++
		return best, nil
	case !known && len(bound) > 0:
		return nil, noAccountError{service, bound[0]}
	case !known:
		return nil, noAccountError{service: service}
	case len(bound) == 0:
		last = nil
	}
	return nil, restingError{last, wait}
}

// done gives an account back.
func (a *accounts) done(one *account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one.underWay--
}

// judge notes what a provider answered, or that it did not (nil), and tells whether another
// account may do better. A 403 rests nobody: a request may provoke it at will.
func (a *accounts) judge(one *account, resp *http.Response) (retry bool) {
	broken := resp == nil || resp.StatusCode >= http.StatusInternalServerError
	refused := resp != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusTooManyRequests)
	var last *failure
	if resp != nil && (broken || refused) { // read before the lock: it may take its time
		last = &failure{resp.StatusCode, resp.Header.Get("Content-Type"), one.redact(plainly(resp, peek(resp))), retryAfter(resp.Header, a.now())}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case broken:
		if one.breaks++; one.breaks >= breaksToRest {
			a.rest(one, last)
		}
	case refused:
		a.rest(one, last)
	default:
		one.breaks, one.rests = 0, 0
	}
	return broken || refused
}

// rest sends an account to rest for as long as the provider says, else for twice as long as
// the last time.
func (a *accounts) rest(one *account, last *failure) {
	wait := min(restMost, restLeast<<min(one.rests, 10))
	if last != nil && last.wait > 0 {
		wait = min(last.wait, restAsked)
	}
	one.last = last
	one.rests++
	one.restUntil = a.now().Add(wait)
}

// retryAfter is what a provider asks to wait; 0: it does not say.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 {
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}

// maxFailure is as much of a provider's error as is kept, in bytes.
const maxFailure = 64 << 10

// peek reads the beginning of an answer and leaves it there.
func peek(resp *http.Response) []byte {
	start, err := io.ReadAll(io.LimitReader(resp.Body, maxFailure))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = io.MultiReader() // what has come is all there is
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), rest), resp.Body}
	return slices.Clone(start)
}

// plainly is the beginning of an answer as text; empty: it cannot be read.
func plainly(resp *http.Response, start []byte) []byte {
	open := decoders[resp.Header.Get("Content-Encoding")]
	if open == nil {
		return start
	}
	r, err := open(bytes.NewReader(start))
	if err != nil {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(r, maxFailure)) // what was cut ends early
	return text
}

// masked is a secret as providers show a part of it in their errors.
var masked = regexp.MustCompile(`[A-Za-z0-9_.-]*\*{3,}[A-Za-z0-9_.-]*`)

// redact takes the account's secret out of a text, and what a provider shows of it.
func (a *Account) redact(text []byte) []byte {
	return masked.ReplaceAll(bytes.ReplaceAll(text, []byte(a.secret), []byte("[redacted]")), []byte("[redacted]"))
}

// resting counts the accounts of each service that rest.
func (a *accounts) resting() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := map[string]int{}
	for _, one := range a.all {
		if a.now().Before(one.restUntil) {
			counts[one.Service]++
		}
	}
	return counts
}
