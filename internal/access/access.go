// Package access is who may call the REST API: access tokens and their roles.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// Role is what a token may do.
type Role string

// The roles.
const (
	Admin  Role = "admin"  // everything
	Relay  Role = "relay"  // verify, admissions, usage
	Reader Role = "reader" // GET and reports
)

// Roles are all of them.
var Roles = []Role{Admin, Relay, Reader}

// prefix begins every issued token, so that secret scanners can know them.
const prefix = "kl_"

// MinBootstrap is the least length of an operator's own first token, in bytes.
const MinBootstrap = 32

// Identity is the token that a request came with.
type Identity struct {
	ID        uuid.UUID
	Name      string
	Role      Role
	ExpiresAt *time.Time // nil: never
}

// Memory is what Tokens remembers live tokens in, by hash; nil is remembered too,
// of what is none.
type Memory = cache.Cache[[32]byte, *Live]

// Live is a token that was live when it was read.
type Live struct{ Identity }

// over reports whether the token has ended since it was read.
func (l *Live) over(now time.Time) bool { return l.ExpiresAt != nil && now.After(*l.ExpiresAt) }

// remembered is how many tokens are remembered, wrong ones included.
const remembered = 10_000

// Tokens issues and checks access tokens. It is safe for concurrent use.
type Tokens struct {
	db      *db.DB
	changes cache.Changes
	memory  *Memory
}

// New makes Tokens, which remembers them as long as changes are heard.
func New(d *db.DB, changes cache.Changes) *Tokens {
	return &Tokens{db: d, changes: changes, memory: cache.New[[32]byte, *Live](remembered, changes.Live)}
}

// Memory is what is remembered.
func (t *Tokens) Memory() *Memory { return t.memory }

// Remembered is the live token with this text, if it is in memory and changes are heard: it
// asks nobody.
func (t *Tokens) Remembered(text string) (Identity, bool) {
	now, live := t.changes.Clock()
	found, ok := t.memory.Peek(sha256.Sum256([]byte(text)))
	if !ok || !live || found == nil || found.over(now) {
		return Identity{}, false
	}
	return found.Identity, true
}

// Check finds the live token with this text, by the database's clock. Any other
// is Unauthenticated, without a word on why.
func (t *Tokens) Check(ctx context.Context, text string) (Identity, error) {
	// Asked for first: what is remembered was so while changes were heard.
	now, live := t.changes.Clock()
	found, err := t.find(ctx, sha256.Sum256([]byte(text)))
	if err != nil {
		return Identity{}, fmt.Errorf("checking a token: %w", err)
	}
	if live && found != nil && found.over(now) {
		found = nil
	}
	if found == nil {
		return Identity{}, fault.New(fault.Unauthenticated, "A valid access token is required: Authorization: Bearer <token>.")
	}
	return found.Identity, nil
}

func (t *Tokens) find(ctx context.Context, hash [32]byte) (*Live, error) {
	load := func(ctx context.Context) (*Live, uuid.UUID, error) {
		row, err := t.db.TokenCheck(ctx, db.TokenCheckParams{Hash: hash[:]})
		if db.Missing(err) {
			return nil, uuid.Nil, nil
		}
		if err != nil {
			return nil, uuid.Nil, err
		}
		return &Live{Identity{ID: row.ID, Name: row.Name, Role: Role(row.Role), ExpiresAt: row.ExpiresAt}}, row.ID, nil
	}
	return t.memory.Get(ctx, hash, load)
}

// Create issues a token and returns its text, which is stored nowhere. Invalid
// when the name or role is.
func (t *Tokens) Create(ctx context.Context, who db.Actor, name string, role Role, expiresAt *time.Time) (text string, row db.AccessToken, err error) {
	name = strings.TrimSpace(name)
	var wrong []field.Error
	if n := utf8.RuneCountInString(name); n < 1 || n > 100 {
		wrong = append(wrong, field.Error{Field: "name", Message: "must have 1 to 100 characters"})
	}
	if !slices.Contains(Roles, role) {
		wrong = append(wrong, field.Error{Field: "role", Message: "must be admin, relay or reader"})
	}
	if wrong != nil {
		return "", row, fault.Fields(wrong...)
	}
	text = NewText()
	err = t.db.Audited(ctx, who, "create", func(q *db.Queries) (err error) {
		row, err = q.TokenCreate(ctx, db.TokenCreateParams{
			ID: uuid.New(), Name: name, Role: string(role), Hash: hash(text), Hint: hint(text), ExpiresAt: expiresAt})
		return err
	})
	if db.Missing(err) {
		return "", row, fault.Fields(field.Error{Field: "expiresAt", Message: "must be in the future"})
	}
	if err != nil {
		return "", row, fmt.Errorf("creating a token: %w", err)
	}
	return text, row, nil
}

// List reads all tokens ever issued.
func (t *Tokens) List(ctx context.Context) ([]db.AccessToken, error) {
	rows, err := t.db.TokenList(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing tokens: %w", err)
	}
	return rows, nil
}

// Bootstrap makes a text the first admin token, if no token has ever existed,
// and tells whether it did.
func (t *Tokens) Bootstrap(ctx context.Context, text string) (made bool, err error) {
	err = t.db.Audited(ctx, db.Actor{Name: "system"}, "bootstrap", func(q *db.Queries) error {
		n, err := q.TokenBootstrap(ctx, db.TokenBootstrapParams{ID: uuid.New(), Name: "bootstrap", Hash: hash(text), Hint: hint(text)})
		made = n > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("storing the bootstrap token: %w", err)
	}
	return made, nil
}

// Revoke ends a token, by id, or by name where only one live token has it.
// NotFound when there is none, Conflict with the ids when there are several.
func (t *Tokens) Revoke(ctx context.Context, who db.Actor, idOrName string) (row db.TokenRevokeRow, err error) {
	var found []db.TokenRevokeRow
	err = t.db.Audited(ctx, who, "revoke", func(q *db.Queries) (err error) {
		found, err = q.TokenRevoke(ctx, idOrName)
		return err
	})
	switch {
	case err != nil:
		return row, fmt.Errorf("revoking a token: %w", err)
	case len(found) == 0:
		return row, fault.New(fault.NotFound, fmt.Sprintf("No token has the id %q, and no live one that name.", idOrName))
	case len(found) > 1:
		ids := make([]string, len(found))
		for i, one := range found {
			ids[i] = one.ID.String()
		}
		return row, fault.New(fault.Conflict, fmt.Sprintf("%d live tokens are named %q: revoke one by its id: %s.", len(ids), idOrName, strings.Join(ids, ", ")))
	}
	return found[0], nil
}

// End revokes the token with an id. NotFound when there is none, Conflict when it is a live
// admin token and no other one lives as long: without any nobody could issue another.
func (t *Tokens) End(ctx context.Context, who db.Actor, id uuid.UUID) error {
	var found db.TokenEndRow
	err := t.db.Audited(ctx, who, "revoke", func(q *db.Queries) (err error) {
		found, err = q.TokenEnd(ctx, id)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("revoking a token: %w", err)
	case !found.Known:
		return fault.New(fault.NotFound, "There is no such access token.")
	case !found.Ended:
		return fault.New(fault.Conflict, "No other admin token lives as long as this one. Issue one before you revoke it.")
	}
	return nil
}

// NewText makes a token text that Bootstrap can store.
func NewText() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	return prefix + hex.EncodeToString(secret)
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func hint(text string) string {
	secret := strings.TrimPrefix(text, prefix)
	head := text[:len(text)-len(secret)]
	return head + secret[:4] + "..." + secret[len(secret)-4:]
}
