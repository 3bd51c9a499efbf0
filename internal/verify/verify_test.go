package verify_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/verify"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var clock = time.Date(2025, 8, 17, 3, 0, 0, 0, time.UTC)

// Guarantee: verify answers as measured on the original, at a fixed instant:
// same order, and a key is valid at the very instant of its expiresAt. The keys
// are stored as the original hashed them.
func TestLikeTheOriginal(t *testing.T) {
	t.Parallel()
	var facts []struct {
		Case   string
		Stored *struct {
			IsActive  bool
			ExpiresIn *string
		}
		Presented any
		Code      verify.Code
	}
	raw, err := os.ReadFile("testdata/original_verify.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &facts); err != nil {
		t.Fatal(err)
	}
	d := pgtest.New(t)
	v := verify.New(verify.Options{DB: d, Hasher: pgtest.Hasher(), Log: slog.Default(), Changes: cache.Deaf})
	for _, f := range facts {
		text, _ := f.Presented.(string) // what is no text is no key
		if f.Stored != nil {
			fields := key.Columns{"is_active": f.Stored.IsActive}
			if f.Stored.ExpiresIn != nil {
				in, err := time.ParseDuration(*f.Stored.ExpiresIn)
				if err != nil {
					t.Fatal(err)
				}
				fields["expires_at"] = clock.Add(in)
			}
			pgtest.Key(t, d, pgtest.KeyRow{Name: f.Case, Secret: text, Legacy: true, Fields: fields})
		}
		got, err := v.Verify(context.Background(), text, &clock)
		if err != nil || got.Code != f.Code {
			t.Errorf("%s: %s %v, want %s", f.Case, got.Code, err, f.Code)
		}
	}
}

// Guarantee: a key hashed under an older pepper, or as the original hashed it,
// moves to the current pepper at its first use, also when used many times at
// once, and is valid all along; after that the old pepper is not needed.
func TestRehash(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	old := pgtest.Hasher()
	next := pgtest.Hasher()
	next.Peppers = append([]key.Pepper{{ID: "next", Secret: []byte("the next pepper, 32 bytes long..")}}, old.Peppers...)
	_, plain := pgtest.Key(t, d, pgtest.KeyRow{})
	_, legacy := pgtest.Key(t, d, pgtest.KeyRow{Legacy: true})
	v := verify.New(verify.Options{DB: d, Hasher: next, Log: slog.Default(), Changes: cache.Deaf})
	var group sync.WaitGroup
	for range 12 {
		for _, text := range []string{plain, legacy} {
			group.Go(func() {
				if got, err := v.Verify(context.Background(), text, nil); err != nil || got.Code != verify.Valid {
					t.Errorf("%s %v", got.Code, err)
				}
			})
		}
	}
	group.Wait()
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_key_secrets WHERE pepper_id = 'next' AND scheme = 'hmac-sha256'"); n != 2 {
		t.Errorf("%d secrets are under the current pepper", n)
	}
	alone := verify.New(verify.Options{DB: d, Hasher: &key.Hasher{Prefixes: next.Prefixes, Peppers: next.Peppers[:1]}, Log: slog.Default(), Changes: cache.Deaf})
	for _, text := range []string{plain, legacy} {
		if got, err := alone.Verify(context.Background(), text, nil); err != nil || got.Code != verify.Valid {
			t.Errorf("without the old pepper: %s %v", got.Code, err)
		}
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM audit_log WHERE before IS NOT NULL"); n != 0 {
		t.Errorf("a rehash left %d audit rows: it changes nothing that anybody can see", n)
	}
}

// Guarantee: expiry is judged by the database's clock, not by this process's.
func TestDatabaseClock(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	v := verify.New(verify.Options{DB: d, Hasher: pgtest.Hasher(), Log: slog.Default(), Changes: cache.Deaf})
	_, text := pgtest.Key(t, d, pgtest.KeyRow{Fields: key.Columns{"expires_at": clock}})
	for _, c := range []struct {
		at   time.Time
		want verify.Code
	}{{clock.Add(-time.Millisecond), verify.Valid}, {clock, verify.Valid}, {clock.Add(time.Microsecond), verify.Expired}} {
		if got, err := v.Verify(context.Background(), text, &c.at); err != nil || got.Code != c.want {
			t.Errorf("at %s: %s %v, want %s", c.at, got.Code, err, c.want)
		}
	}
}
