package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/loop"
)

const (
	tryTimeout = 15 * time.Second // of one try, from the lookup of the name to the end of the answer
	claimTime  = 2 * time.Minute  // after which another replica takes up what this one began
	answerSize = 16 << 10         // bytes of an answer that are read, and of its headers
	breath     = 5 * time.Second  // that a webhook is left alone after a failure
	triedFor   = 72 * time.Hour   // from the event, or from when it was asked for again
	maxWait    = 24 * time.Hour   // that a receiver may ask for
)

// Outcome is what became of a try: for metrics.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Failed    Outcome = "failed" // it is tried again
	Dead      Outcome = "dead"   // it is given up
)

// Sender sends what the outbox holds. A webhook is sent one delivery at a time by a replica, so
// that a slow one delays its own alone.
type Sender struct {
	webhooks *Webhooks
	client   *http.Client
	log      *slog.Logger
	tried    func(Outcome)

	mu   sync.Mutex
	busy map[uuid.UUID]bool // webhooks that are being sent to
}

// NewSender makes a Sender. tried is told of each try.
func NewSender(w *Webhooks, log *slog.Logger, tried func(Outcome)) *Sender {
	dialer := net.Dialer{Timeout: tryTimeout, Control: w.guard.control}
	return &Sender{webhooks: w, log: log, tried: tried, busy: map[uuid.UUID]bool{}, client: &http.Client{
		Timeout: tryTimeout,
		// No proxy of the environment: it would connect where the guard does not look.
		Transport:     &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: tryTimeout, MaxResponseHeaderBytes: answerSize},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Run sends what is due, looking every interval, until ctx ends. What has no answer by then is
// sent again later.
func (s *Sender) Run(ctx context.Context, interval time.Duration) {
	var sending sync.WaitGroup
	defer sending.Wait()
	loop.Every(ctx, s.log, "send webhooks", interval, tryTimeout, func(pass context.Context) error {
		due, err := s.webhooks.db.WebhooksDue(pass)
		if err != nil {
			return fmt.Errorf("asking for due deliveries: %w", err)
		}
		for _, id := range due {
			if s.take(id) {
				sending.Go(func() {
					defer s.free(id)
					s.sendAll(ctx, id)
				})
			}
		}
		return nil
	})
}

func (s *Sender) take(id uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] {
		return false
	}
	s.busy[id] = true
	return true
}

func (s *Sender) free(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

// atOnce bounds what one pass sends to a webhook.
const atOnce = 100

// sendAll sends what is due for a webhook until there is nothing, or a try fails.
func (s *Sender) sendAll(ctx context.Context, id uuid.UUID) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "sending to a webhook failed", "webhook", id, "error", fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	for range atOnce {
		claimed, err := s.webhooks.db.DeliveryClaim(ctx, db.DeliveryClaimParams{WebhookID: id, Seconds: int32(claimTime.Seconds())})
		if err == nil && len(claimed) == 1 {
			var went bool
			if went, err = s.deliver(ctx, id, claimed[0]); err == nil && went {
				continue
			}
		}
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "a delivery could not be taken or noted", "webhook", id, "error", err)
		}
		return
	}
}

// deliver tries one delivery and notes what became of it.
func (s *Sender) deliver(ctx context.Context, id uuid.UUID, row db.DeliveryClaimRow) (went bool, err error) {
	said := s.try(ctx, row)
	if ctx.Err() != nil { // the service stops: whether it was taken is not known
		return false, ctx.Err()
	}
	if said.err == nil {
		s.tried(Delivered)
		return true, s.webhooks.db.DeliveryDone(ctx, db.DeliveryDoneParams{WebhookID: id, EventID: row.WebhookEvent.ID, Status: said.status})
	}
	wait := next(row.Attempts, time.Duration(row.AgeSeconds*float64(time.Second)), said.after)
	if said.status == http.StatusGone {
		wait = -1
		err = s.webhooks.db.Audited(ctx, db.Actor{Name: "system"}, "disable", func(q *db.Queries) error {
			return q.WebhookDisable(ctx, db.WebhookDisableParams{ID: id, URL: row.URL, Reason: "the receiver answered 410: it wants no more"})
		})
	} else {
		err = s.webhooks.db.WebhookPause(ctx, db.WebhookPauseParams{ID: id, Seconds: max(said.after, breath).Seconds()})
	}
	if err != nil {
		return false, err
	}
	outcome := Failed
	if wait < 0 {
		outcome = Dead
	}
	s.tried(outcome)
	s.log.WarnContext(ctx, "a delivery failed", "webhook", id, "event", row.WebhookEvent.ID, "type", row.WebhookEvent.Type,
		"attempt", row.Attempts, "status", said.status, "outcome", outcome, "error", said.err)
	return false, s.webhooks.db.DeliveryFailed(ctx, db.DeliveryFailedParams{WebhookID: id, EventID: row.WebhookEvent.ID, Status: said.status,
		Error: field.Clip(said.err.Error(), 500), RetrySeconds: wait.Seconds()})
}

// next is the pause before the next try of a delivery that is so old; negative: there is none,
// since it would come too late. It is never shorter than the receiver has asked for.
func next(attempts int32, age, asked time.Duration) time.Duration {
	pause := retries[min(int(attempts), len(retries))-1]
	jitter := time.Duration(rand.Int64N(int64(pause)/10 + 1)) //nolint:gosec // not a secret
	pause = max(pause+jitter, asked)
	if age+pause > triedFor {
		return -1
	}
	return pause
}

// answer is what came of a try.
type answer struct {
	status int32         // 0: there was none
	after  time.Duration // Retry-After; 0: not said
	err    error         // nil: it was taken
}

// try sends a delivery once.
func (s *Sender) try(ctx context.Context, row db.DeliveryClaimRow) answer {
	secret, _, ok := s.webhooks.box.Open(row.Secret)
	if !ok {
		return answer{err: errors.New("its secret was sealed with a pepper that is not configured: give the webhook a new one")}
	}
	e := event{row.WebhookEvent.ID, row.WebhookEvent.Type, row.WebhookEvent.At, row.WebhookEvent.Data}
	contentType, body, err := e.body(row.Format)
	if err != nil {
		return answer{err: fmt.Errorf("writing the body: %w", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, row.URL, bytes.NewReader(body))
	if err != nil {
		return answer{err: errors.New("the address cannot be used")}
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "keyledger")
	req.Header.Set("Webhook-Id", e.id.String())
	req.Header.Set("Webhook-Timestamp", stamp)
	req.Header.Set("Webhook-Signature", sign(secret, e.id.String(), stamp, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{err: withoutAddress(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, answerSize))
	got := answer{status: int32(resp.StatusCode)} //nolint:gosec // three digits
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		got.after = time.Duration(min(seconds, int(maxWait.Seconds()))) * time.Second
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		got.err = fmt.Errorf("the receiver answered %d: redirects are not followed", resp.StatusCode)
	case resp.StatusCode < 200 || resp.StatusCode >= 300:
		got.err = fmt.Errorf("the receiver answered %d", resp.StatusCode)
	default:
		if why := refused(row.Format, said); why != "" {
			got.err = errors.New(why)
		}
	}
	return got
}

// sign is the signature of a delivery as Standard Webhooks has it.
// Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func sign(secret []byte, id, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// withoutAddress is why a request failed without its address, in which chats keep a secret.
func withoutAddress(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	if errors.Is(err, errClosed) {
		return errClosed
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the receiver did not answer in time")
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New("the name of its host was not found")
	}
	return err
}
