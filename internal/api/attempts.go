package api

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/fault"
)

// attempts slow down guessing at access tokens: each address may present so many wrong ones a
// minute. It is safe for concurrent use.
type attempts struct {
	most   int // a minute; 0: any number
	byAddr *otter.Cache[netip.Addr, *rate.Limiter]
	good   *otter.Cache[[32]byte, struct{}] // hashes of tokens that were live in the last goodFor
}

const (
	// watched is how many addresses are kept, and how many tokens.
	watched = 10_000
	// goodFor is how long a token that was live is never refused unread.
	goodFor = time.Hour
)

func newAttempts(most int) *attempts {
	return &attempts{
		most:   most,
		byAddr: otter.Must(&otter.Options[netip.Addr, *rate.Limiter]{MaximumSize: watched}),
		good: otter.Must(&otter.Options[[32]byte, struct{}]{MaximumSize: watched,
			ExpiryCalculator: otter.ExpiryWriting[[32]byte, struct{}](goodFor)}),
	}
}

// of is what an address has left. Texts that are no address share one.
func (a *attempts) of(ip string) *rate.Limiter {
	addr, _ := netip.ParseAddr(ip)
	client := clientOf(addr)
	limiter, ok := a.byAddr.GetIfPresent(client)
	if !ok {
		limiter, _ = a.byAddr.SetIfAbsent(client, rate.NewLimiter(rate.Limit(float64(a.most)/time.Minute.Seconds()), a.most))
	}
	return limiter
}

// identify is Tokens.Check for a token that came from an address, which is asked for only if
// the token is not in memory. TooMany when the address has presented too many wrong tokens: the
// database is not asked then. A token that was live in the last hour passes all the same.
func (s *Server) identify(ctx context.Context, token string, ip func() string) (access.Identity, error) {
	if known, ok := s.Tokens.Remembered(token); ok {
		return known, nil
	}
	if s.attempts.most == 0 {
		return s.Tokens.Check(ctx, token)
	}
	left, hash := s.attempts.of(ip()), sha256.Sum256([]byte(token))
	if _, good := s.attempts.good.GetIfPresent(hash); !good && left.Tokens() < 1 {
		return access.Identity{}, fault.New(fault.TooMany, "Too many wrong access tokens came from this address. Try again later.")
	}
	found, err := s.Tokens.Check(ctx, token)
	switch {
	case err == nil:
		s.attempts.good.Set(hash, struct{}{})
	case fault.CodeOf(err) == fault.Unauthenticated:
		left.Allow()
	}
	return found, err
}
