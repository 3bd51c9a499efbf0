package key

import "time"

// The states of a key, as reported.
const (
	StatusActive   = "active"
	StatusDisabled = "disabled"
	StatusExpired  = "expired"
	StatusDeleted  = "deleted"
)

// Status tells a key's state at an instant. Deleted comes before expired,
// expired before disabled. A key is expired when now is after expiresAt: at that
// very instant it is still valid.
func Status(deletedAt, expiresAt *time.Time, active bool, now time.Time) string {
	switch {
	case deletedAt != nil:
		return StatusDeleted
	case expiresAt != nil && now.After(*expiresAt):
		return StatusExpired
	case !active:
		return StatusDisabled
	default:
		return StatusActive
	}
}

// Window is what can be seen of a key's rate-limit window at an instant.
type Window struct {
	Requests         int64
	Tokens           int64
	Start            *time.Time // nil: none open
	End              *time.Time // nil: none open
	RemainingSeconds *int64     // nil: none was ever started or the key has none; 0: the last one is over
}

// WindowAt tells the state of a window of so many minutes that started at
// start: never started or no window at all shows nothing, an ended one shows
// zeros, an open one its counts and end. Remaining seconds are rounded down, as
// the original service does.
func WindowAt(start *time.Time, minutes int32, requests, tokens int64, now time.Time) Window {
	if start == nil || minutes <= 0 {
		return Window{}
	}
	end := start.Add(time.Duration(minutes) * time.Minute)
	if !now.Before(end) {
		over := int64(0)
		return Window{RemainingSeconds: &over}
	}
	left := int64(end.Sub(now) / time.Second)
	return Window{Requests: requests, Tokens: tokens, Start: start, End: &end, RemainingSeconds: &left}
}
