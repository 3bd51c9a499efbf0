package access_test

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/access"
)

// Guarantee: a session opens until its end and not a second longer, under any of the secrets
// in use, and not when a bit of it was changed; the token cannot be read from it.
func TestSessions(t *testing.T) {
	t.Parallel()
	old, next := []byte("an old secret of thirty-two bytes"), []byte("the next secret of thirty-two bts")
	seal := func(secrets ...[]byte) *access.Sessions {
		s, err := access.NewSessions(secrets...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	now := time.Unix(1_800_000_000, 0)
	sealed := seal(old).Seal("kl_token", now.Add(time.Hour))
	rotated := seal(next, old)
	if token, ok := rotated.Open(sealed, now.Add(time.Hour-time.Second)); !ok || token != "kl_token" {
		t.Errorf("after a rotation: %q %v", token, ok)
	}
	if _, ok := rotated.Open(sealed, now.Add(time.Hour)); ok {
		t.Error("it opened at its end")
	}
	if _, ok := seal(next).Open(sealed, now); ok {
		t.Error("it opened under another secret")
	}
	for i := range len(sealed) {
		changed := []byte(sealed)
		changed[i] ^= 1
		if _, ok := rotated.Open(string(changed), now); ok && string(changed) != sealed {
			// The last character of base64 has bits that mean nothing.
			if i != len(sealed)-1 {
				t.Errorf("it opened with character %d changed", i)
			}
		}
	}
	for _, bad := range []string{"", "!", "AAAA", "kl_token"} {
		if _, ok := rotated.Open(bad, now); ok {
			t.Errorf("%q opened", bad)
		}
	}
	if again := seal(old).Seal("kl_token", now.Add(time.Hour)); again == sealed {
		t.Error("two sessions are alike")
	}
}
