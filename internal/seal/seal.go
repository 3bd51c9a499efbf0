// Package seal keeps small secrets where others may read: what is sealed can be neither read nor
// altered without the secrets of the configuration.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
)

// Box seals with the first of its secrets, and opens what any of them has sealed. It keeps
// nothing, so every replica with the same secrets opens what another has sealed. It is safe
// for concurrent use.
type Box struct {
	aeads []cipher.AEAD
}

// New makes a Box of at least one secret of at least 32 bytes. Purpose keeps what is sealed for
// one use from being opened for another of the same secrets.
func New(purpose string, secrets ...[]byte) (*Box, error) {
	if len(secrets) == 0 {
		return nil, errors.New("nothing can be sealed without a secret")
	}
	b := &Box{}
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, purpose, 32) // AES-256
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
		b.aeads = append(b.aeads, aead)
	}
	return b, nil
}

// Seal is what Open makes plain of again. No two calls return the same.
func (b *Box) Seal(plain []byte) []byte {
	nonce := make([]byte, b.aeads[0].NonceSize())
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the process instead
	return b.aeads[0].Seal(nonce, nonce, plain, nil)
}

// Open is what was sealed; false: not by these secrets, or it was altered. Old reports that it
// was not sealed by the first.
func (b *Box) Open(sealed []byte) (plain []byte, old, ok bool) {
	for i, aead := range b.aeads {
		size := aead.NonceSize()
		if len(sealed) < size {
			return nil, false, false
		}
		if plain, err := aead.Open(nil, sealed[:size], sealed[size:], nil); err == nil {
			return plain, i > 0, true
		}
	}
	return nil, false, false
}
