// Package verify finds the key that a secret opens and tells whether it may be
// used. It decides by the database's clock and changes nothing that anybody
// can see. What it found it remembers, as long as it would hear of a change.
package verify

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/key"
)

// Code is the answer to "is this key valid". A refusal is an answer, not an error.
type Code string

// The codes, in the order in which they are tried.
const (
	Malformed Code = "MALFORMED"
	NotFound  Code = "NOT_FOUND"
	Disabled  Code = "DISABLED"
	Expired   Code = "EXPIRED"
	Valid     Code = "VALID"
)

// Message is the code in words.
func (c Code) Message() string {
	switch c {
	case Malformed:
		return "Invalid API key format"
	case NotFound:
		return "API key not found"
	case Disabled:
		return "API key is disabled"
	case Expired:
		return "API key has expired"
	case Valid:
		return "API key is valid"
	}
	return string(c)
}

// Result is an answer.
type Result struct {
	Code Code
	Key  *Key // the key found; nil when none was
}

// Key is what is remembered of the key that a secret opens: what is needed at each
// request, and no more, since there may be a hundred thousand of them.
type Key struct {
	ID              uuid.UUID
	Active          bool
	ExpiresAt       *time.Time // nil: never
	SecretEnds      *time.Time // end of the secret's grace; nil: it is the current one
	RateLimitWindow int32      // minutes; 0: none
	Bindings        []Binding  // nil: none
	Shown           Shown      // what Verifier.Show made of it
	readAt          time.Time  // by the database's clock
}

// Binding is the account that a key is bound to at a provider.
type Binding struct{ Provider, AccountID string }

// Memory is what Verifier remembers keys in: by the hash under the current pepper;
// nil is remembered too, of what opens nothing.
type Memory = cache.Cache[[32]byte, *Key]

// Options make a Verifier. All must be set, but Show, and Limits have defaults.
type Options struct {
	DB      *db.DB
	Hasher  *key.Hasher
	Log     *slog.Logger
	Changes cache.Changes
	Keys    int // the most keys that are remembered
	Limits  coalesce.Limits
	// Show makes what callers want to remember of a key beside it; nil: nothing.
	Show func(k db.APIKey, hint string, at time.Time) Shown
}

// Verifier verifies keys. It is safe for concurrent use.
type Verifier struct {
	o       Options
	memory  *Memory
	lookups *coalesce.Group[[]key.Candidate, *db.SecretFindRow]
}

// New makes a Verifier. Lookups that come at the same time are one statement. It has
// goroutines only while there is work.
func New(o Options) *Verifier {
	v := &Verifier{o: o, memory: cache.New[[32]byte, *Key](max(1, o.Keys), o.Changes.Live)}
	v.lookups = coalesce.New(coalesce.Options[[]key.Candidate, *db.SecretFindRow]{
		Limits: o.Limits,
		Flush: func(ctx context.Context, questions [][]key.Candidate) ([]*db.SecretFindRow, error) {
			return v.ask(ctx, questions, nil)
		},
	})
	return v
}

// Memory is what is remembered.
func (v *Verifier) Memory() *Memory { return v.memory }

// Close answers what waits and refuses what comes later.
func (v *Verifier) Close(ctx context.Context) error { return v.lookups.Close(ctx) }

// Verify answers for a key text, judged at now (nil: the database's clock). An
// error means that no answer could be had.
func (v *Verifier) Verify(ctx context.Context, text string, now *time.Time) (Result, error) {
	if !v.o.Hasher.WellFormed(text) {
		return Result{Code: Malformed}, nil
	}
	// The time is asked for first: what is remembered was so while changes were heard.
	clock, live := time.Time{}, false
	if now == nil {
		clock, live = v.o.Changes.Clock()
	}
	k, err := v.find(ctx, text, now)
	if err != nil {
		return Result{}, fmt.Errorf("looking a key up: %w", err)
	}
	if k == nil {
		return Result{Code: NotFound}, nil
	}
	if now == nil && !live {
		clock, live = v.o.Changes.Clock() // it may have come back since, and memory have been used
	}
	at := k.readAt
	if live && clock.After(at) {
		at = clock
	}
	if code := k.judge(at); code != NotFound {
		return Result{Code: code, Key: k}, nil
	}
	return Result{Code: NotFound}, nil
}

func (v *Verifier) find(ctx context.Context, text string, now *time.Time) (*Key, error) {
	if now != nil {
		return v.load(ctx, text, now)
	}
	return v.memory.Get(ctx, [32]byte(v.o.Hasher.Current(text).Hash), func(ctx context.Context) (*Key, uuid.UUID, error) {
		k, err := v.load(ctx, text, nil)
		if k == nil {
			return nil, uuid.Nil, err
		}
		return k, k.ID, err
	})
}

// load asks the database; nil when the text opens nothing.
func (v *Verifier) load(ctx context.Context, text string, now *time.Time) (*Key, error) {
	candidates := v.o.Hasher.Candidates(text)
	row, err := v.lookUp(ctx, candidates, now)
	if err != nil || row == nil || row.APIKey.DeletedAt != nil {
		return nil, err
	}
	if current := candidates[0]; row.Scheme != current.Scheme || row.PepperID != current.PepperID {
		v.rehash(ctx, text, *row, current)
	}
	a := row.APIKey
	k := &Key{ID: a.ID, Active: a.IsActive, ExpiresAt: a.ExpiresAt, SecretEnds: row.SecretEnds, RateLimitWindow: a.RateLimitWindow, readAt: row.AsOf}
	for _, b := range []struct {
		provider string
		id       *string
	}{{"Claude", a.ClaudeAccountID}, {"Claude-Console", a.ClaudeConsoleAccountID}, {"Gemini", a.GeminiAccountID}, {"Openai", a.OpenaiAccountID}, {"Bedrock", a.BedrockAccountID}} {
		if b.id != nil {
			k.Bindings = append(k.Bindings, Binding{b.provider, *b.id})
		}
	}
	if v.o.Show != nil {
		k.Shown = v.o.Show(a, row.Hint, row.AsOf)
	}
	return k, nil
}

// lookUp finds the secret that one of these hashes is of; nil: there is none.
func (v *Verifier) lookUp(ctx context.Context, candidates []key.Candidate, now *time.Time) (*db.SecretFindRow, error) {
	if now == nil {
		return v.lookups.Do(ctx, candidates)
	}
	rows, err := v.ask(ctx, [][]key.Candidate{candidates}, now)
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// ask asks the database several questions at once.
func (v *Verifier) ask(ctx context.Context, questions [][]key.Candidate, now *time.Time) ([]*db.SecretFindRow, error) {
	p := db.SecretFindParams{Now: now}
	for i, candidates := range questions {
		for _, c := range candidates {
			p.Hashes, p.Questions = append(p.Hashes, c.Hash), append(p.Questions, int64(i))
		}
	}
	p.RowLimit = int32(len(p.Hashes)) //nolint:gosec // a batch
	rows, err := v.o.DB.SecretFind(ctx, p)
	if err != nil {
		return nil, err
	}
	found := make([]*db.SecretFindRow, len(questions))
	for i, row := range rows {
		found[row.Question] = &rows[i]
	}
	return found, nil
}

func (k *Key) judge(at time.Time) Code {
	switch {
	case k.SecretEnds != nil && !k.SecretEnds.After(at):
		return NotFound
	case !k.Active:
		return Disabled
	case k.ExpiresAt != nil && at.After(*k.ExpiresAt):
		return Expired
	default:
		return Valid
	}
}

// rehash moves a secret to the current pepper. The answer does not wait on its
// success: the old hash works as long as its pepper is configured.
func (v *Verifier) rehash(ctx context.Context, text string, row db.SecretFindRow, current key.Candidate) {
	err := v.o.DB.SecretRehash(ctx, db.SecretRehashParams{NewHash: current.Hash, PepperID: current.PepperID, OldHash: row.Hash, Hint: v.o.Hasher.Hint(text)})
	if err != nil {
		v.o.Log.WarnContext(ctx, "a secret could not be rehashed to the current pepper", "keyId", row.APIKey.ID, "error", err)
	}
}
