// Package verify finds the key that a secret opens and tells whether it may be
// used. It decides by the database's clock and changes nothing that anybody
// can see.
package verify

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyledger/keyledger/db"
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
	Key  *db.SecretFindRow // the key found; nil when none was
}

// Verifier verifies keys. It is safe for concurrent use.
type Verifier struct {
	DB     *db.DB
	Hasher *key.Hasher
	Log    *slog.Logger
}

// Verify answers for a key text, judged at now (nil: the database's clock). An
// error means that no answer could be had.
func (v *Verifier) Verify(ctx context.Context, text string, now *time.Time) (Result, error) {
	if !v.Hasher.WellFormed(text) {
		return Result{Code: Malformed}, nil
	}
	candidates := v.Hasher.Candidates(text)
	hashes := make([][]byte, len(candidates))
	for i, c := range candidates {
		hashes[i] = c.Hash
	}
	row, err := v.DB.SecretFind(ctx, db.SecretFindParams{Hashes: hashes, Now: now})
	if db.Missing(err) {
		return Result{Code: NotFound}, nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("looking a key up: %w", err)
	}
	if current := candidates[0]; row.Scheme != current.Scheme || row.PepperID != current.PepperID {
		v.rehash(ctx, row, current)
	}
	return Result{Code: judge(row), Key: &row}, nil
}

func judge(row db.SecretFindRow) Code {
	switch k := row.APIKey; {
	case !k.IsActive:
		return Disabled
	case k.ExpiresAt != nil && row.AsOf.After(*k.ExpiresAt):
		return Expired
	default:
		return Valid
	}
}

// rehash moves a secret to the current pepper. The answer does not wait on its
// success: the old hash works as long as its pepper is configured.
func (v *Verifier) rehash(ctx context.Context, row db.SecretFindRow, current key.Candidate) {
	err := v.DB.SecretRehash(ctx, db.SecretRehashParams{NewHash: current.Hash, PepperID: current.PepperID, OldHash: row.Hash})
	if err != nil {
		v.Log.WarnContext(ctx, "a secret could not be rehashed to the current pepper", "keyId", row.APIKey.ID, "error", err)
	}
}
