package pgtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

// Hasher hashes keys in tests: the prefix cr_, one pepper, and the legacy pepper
// of the original service's recorded facts.
func Hasher() *key.Hasher {
	return &key.Hasher{
		Prefixes: []string{"cr_"},
		Peppers:  []key.Pepper{{ID: "test", Secret: []byte("a pepper of thirty-two bytes....")}},
		Legacy:   "oracle-encryption-key-32-chars!!",
	}
}

// KeyRow is a key to be put into the database as it is, past all rules. What is
// left zero is a new, active key without limits.
type KeyRow struct {
	Name      string
	Secret    string // key text; empty: a new one
	Legacy    bool   // stored as the original service hashed it
	Fields    key.Columns
	CreatedAt time.Time // zero: now
}

// Key stores a key and returns its id and key text.
func Key(t testing.TB, d *db.DB, row KeyRow) (uuid.UUID, string) {
	t.Helper()
	ctx := context.Background()
	h := Hasher()
	if row.Name == "" {
		row.Name = "key"
	}
	if row.Secret == "" {
		row.Secret = h.Issue()
	}
	columns, wrong := key.ForCreate(field.Object{}, key.Rules{DefaultTokenLimit: 1000000}, false)
	if wrong != nil {
		t.Fatalf("defaults of a key: %v", wrong)
	}
	for column, value := range row.Fields {
		columns[column] = value
	}
	raw, err := columns.JSON()
	if err != nil {
		t.Fatal(err)
	}
	stored := h.Current(row.Secret)
	if row.Legacy {
		stored = key.Candidate{Hash: key.LegacyHash(row.Secret, h.Legacy), Scheme: key.SchemeLegacy, PepperID: key.LegacyPepperID}
	}
	id := uuid.New()
	err = d.KeyCreate(ctx, db.KeyCreateParams{KeyIDs: []uuid.UUID{id}, Names: []string{row.Name}, Hashes: [][]byte{stored.Hash},
		Hints: []string{h.Hint(row.Secret)}, PepperID: stored.PepperID, CreatedBy: "test", Fields: raw})
	if err != nil {
		t.Fatalf("storing a key: %v", err)
	}
	Exec(t, d, "UPDATE api_key_secrets SET scheme = $2 WHERE key_id = $1", id, stored.Scheme)
	if !row.CreatedAt.IsZero() {
		Exec(t, d, "UPDATE api_keys SET created_at = $2 WHERE id = $1", id, row.CreatedAt)
	}
	return id, row.Secret
}

// Exec runs a statement.
func Exec(t testing.TB, d *db.DB, sql string, args ...any) {
	t.Helper()
	if err := d.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Scan reads one value.
func Scan[T any](t testing.TB, d *db.DB, sql string, args ...any) (value T) {
	t.Helper()
	if err := d.Scan(context.Background(), sql, args, &value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Hold runs a statement in a transaction and keeps its locks, as a forgotten psql
// would, until release is called or the test ends.
func Hold(t testing.TB, url, sql string, args ...any) (release func()) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to hold locks: %v", err)
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, sql, args...)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	release = sync.OnceFunc(func() { _ = conn.Close(ctx) })
	t.Cleanup(release)
	return release
}
