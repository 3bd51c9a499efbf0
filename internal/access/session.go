package access

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/keyledger/keyledger/internal/seal"
)

// Sessions seals access tokens for a time, so that who gets hold of a session has it no longer
// than that, and not the token. Every replica with the same secrets knows every session. It is
// safe for concurrent use.
type Sessions struct {
	box *seal.Box
}

// NewSessions makes Sessions of at least one secret of at least 32 bytes. The first seals; all
// open, so that a session outlives a rotation of secrets.
func NewSessions(secrets ...[]byte) (*Sessions, error) {
	box, err := seal.New("keyledger console session 1", secrets...)
	return &Sessions{box}, err
}

// Seal is a text that Open makes the token of until an instant, by seconds.
func (s *Sessions) Seal(token string, until time.Time) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(until.Unix())) //nolint:gosec // after 1970
	return base64.RawURLEncoding.EncodeToString(s.box.Seal(append(plain, token...)))
}

// Open is the token in a sealed text; false: it was not sealed here, or its time is over.
func (s *Sessions) Open(sealed string, now time.Time) (token string, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return "", false
	}
	plain, _, ok := s.box.Open(raw)
	if !ok || len(plain) < 8 {
		return "", false
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(plain)), 0) //nolint:gosec // as it was sealed
	if !now.Before(until) {
		return "", false
	}
	return string(plain[8:]), true
}
