package access

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// Sessions seals access tokens for a time, so that who gets hold of a session has it no longer
// than that, and not the token. It keeps nothing, so every replica with the same secrets knows
// every session. It is safe for concurrent use.
type Sessions struct {
	aeads []cipher.AEAD // the first seals
}

// purpose keeps keys that are derived for sessions apart from others of the same secrets.
const purpose = "keyledger console session 1"

// NewSessions makes Sessions of at least one secret of at least 32 bytes. The first seals; all
// open, so that a session outlives a rotation of secrets.
func NewSessions(secrets ...[]byte) (*Sessions, error) {
	s := &Sessions{}
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, purpose, 32) //nolint:mnd // AES-256
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		s.aeads = append(s.aeads, aead)
	}
	return s, nil
}

// Seal is a text that Open makes the token of until an instant, by seconds.
func (s *Sessions) Seal(token string, until time.Time) string {
	aead := s.aeads[0]
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)                                           // never fails: crypto/rand ends the process instead
	plain := binary.BigEndian.AppendUint64(nil, uint64(until.Unix())) //nolint:gosec // after 1970
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, append(plain, token...), nil))
}

// Open is the token in a sealed text; false: it was not sealed here, or its time is over.
func (s *Sessions) Open(sealed string, now time.Time) (token string, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return "", false
	}
	for _, aead := range s.aeads {
		if len(raw) < aead.NonceSize() {
			return "", false
		}
		plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], nil)
		if err != nil || len(plain) < 8 {
			continue
		}
		until := time.Unix(int64(binary.BigEndian.Uint64(plain)), 0) //nolint:gosec // as it was sealed
		if !now.Before(until) {
			return "", false
		}
		return string(plain[8:]), true
	}
	return "", false
}
