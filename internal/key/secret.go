package key

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"math/big"
	"strings"
	"sync"
)

// The schemes by which secrets are hashed.
const (
	// SchemeHMAC is HMAC-SHA-256 (RFC 2104) of the key text under a pepper.
	SchemeHMAC = "hmac-sha256"
	// SchemeLegacy is SHA-256 of the key text followed by the original
	// service's encryption key.
	SchemeLegacy = "sha256"
)

// LegacyPepperID is the pepper id of secrets that came from the original service.
const LegacyPepperID = "legacy"

// Bounds of a key text, its prefix included, in bytes: those of the original
// service, whose keys go on working.
const (
	minText      = 10
	maxText      = 512
	issuedSecret = 32 // random bytes of an issued key: 64 hex digits
	hintEnds     = 4
)

// Pepper is a secret that hashes of keys depend on and that the database never
// sees: a stolen database alone opens no key.
type Pepper struct {
	ID     string
	Secret []byte
}

// Hasher knows how key texts look and how they are hashed. It is safe for
// concurrent use.
type Hasher struct {
	// Prefixes that keys may begin with; new keys get the first.
	Prefixes []string
	// Peppers in use; new hashes are made under the first.
	Peppers []Pepper
	// Legacy is the original service's encryption key; empty: none.
	Legacy string
	// Checked: new keys end in a checksum, so that scanners for leaked secrets can tell them from
	// other text without asking.
	Checked bool

	// macs are hashes under the first pepper, made ready: making one takes longer than
	// hashing a key.
	macs sync.Pool
}

// Candidate is one hash that a presented key may be stored under.
type Candidate struct {
	Hash     []byte
	Scheme   string
	PepperID string
}

// Issue makes a new key text: the first prefix and 64 lowercase hex digits of
// 32 random bytes; or, where keys are checked, the same number in 43 base62 digits and the 6
// of their checksum.
func (h *Hasher) Issue() string {
	secret := make([]byte, issuedSecret)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	if !h.Checked {
		return h.Prefixes[0] + hex.EncodeToString(secret)
	}
	text := base62(new(big.Int).SetBytes(secret), checkedDigits)
	return h.Prefixes[0] + text + Checksum(text)
}

// Lengths of the two parts of a checked secret, in base62 digits.
const (
	checkedDigits  = 43
	checksumDigits = 6
)

// Checksum is that of the first 43 characters of a checked key's secret: their CRC-32 (IEEE) in
// six base62 digits, 0-9A-Za-z.
func Checksum(text string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(text)))), checksumDigits)
}

// base62 writes a number in so many digits, the greatest first.
func base62(n *big.Int, digits int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	text, base, digit := make([]byte, digits), big.NewInt(int64(len(alphabet))), new(big.Int)
	for i := digits - 1; i >= 0; i-- {
		n.QuoRem(n, base, digit)
		text[i] = alphabet[digit.Int64()]
	}
	return string(text)
}

// WellFormed tells whether a text can be a key at all: 10 to 512 printable ASCII
// characters, no space, beginning with a known prefix.
func (h *Hasher) WellFormed(text string) bool {
	secret, ok := h.cutPrefix(text)
	if !ok || secret == "" || len(text) < minText || len(text) > maxText {
		return false
	}
	for i := range len(secret) {
		if secret[i] <= ' ' || secret[i] > '~' {
			return false
		}
	}
	return true
}

// Current hashes a key text under the pepper in use now.
func (h *Hasher) Current(text string) Candidate {
	mac, ready := h.macs.Get().(hash.Hash)
	if !ready {
		mac = hmac.New(sha256.New, h.Peppers[0].Secret)
	}
	defer h.macs.Put(mac)
	mac.Reset()
	mac.Write([]byte(text))
	return Candidate{Hash: mac.Sum(nil), Scheme: SchemeHMAC, PepperID: h.Peppers[0].ID}
}

// Candidates are all hashes that a key text may be stored under, the current
// one first.
func (h *Hasher) Candidates(text string) []Candidate {
	found := []Candidate{h.Current(text)}
	for _, p := range h.Peppers[1:] {
		found = append(found, Candidate{Hash: hmacSHA256(p.Secret, text), Scheme: SchemeHMAC, PepperID: p.ID})
	}
	if h.Legacy != "" {
		found = append(found, Candidate{Hash: LegacyHash(text, h.Legacy), Scheme: SchemeLegacy, PepperID: LegacyPepperID})
	}
	return found
}

// Hint is what may be shown of a key: its prefix and the first and last four
// characters of its secret.
func (h *Hasher) Hint(text string) string {
	secret, ok := h.cutPrefix(text)
	if !ok || len(secret) < 2*hintEnds {
		return "..."
	}
	prefix := text[:len(text)-len(secret)]
	return prefix + secret[:hintEnds] + "..." + secret[len(secret)-hintEnds:]
}

// LegacyHash is the original service's hash: SHA-256 of the key text and its
// encryption key, one after the other.
func LegacyHash(text, pepper string) []byte {
	sum := sha256.Sum256([]byte(text + pepper))
	return sum[:]
}

// CheckValue tells two peppers apart without revealing either: the first eight
// bytes, in hex, of an HMAC under the pepper.
func (p Pepper) CheckValue() string {
	return hex.EncodeToString(hmacSHA256(p.Secret, "keyledger pepper check")[:8])
}

// cutPrefix takes the longest known prefix off a key text.
func (h *Hasher) cutPrefix(text string) (secret string, ok bool) {
	best := -1
	for _, prefix := range h.Prefixes {
		if strings.HasPrefix(text, prefix) && len(prefix) > best {
			best = len(prefix)
		}
	}
	if best < 0 {
		return "", false
	}
	return text[best:], true
}

func hmacSHA256(secret []byte, text string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
