package verify

import "unique"

// Shown is a key as answers show it. What it has in common with other keys, its
// limits for the most part, is kept once for all of them: that is two thirds.
type Shown struct {
	own    string // around cut
	cut    int
	common unique.Handle[string]
}

// NewShown keeps a text whose part from one byte to another is likely to be other
// keys' too.
func NewShown(text []byte, from, to int) Shown {
	return Shown{own: string(text[:from]) + string(text[to:]), cut: from, common: unique.Make(string(text[from:to]))}
}

// Append appends the text.
func (s Shown) Append(b []byte) []byte {
	if s.own == "" {
		return b
	}
	b = append(b, s.own[:s.cut]...)
	b = append(b, s.common.Value()...)
	return append(b, s.own[s.cut:]...)
}

// Len is the length of the text in bytes.
func (s Shown) Len() int {
	if s.own == "" {
		return 0
	}
	return len(s.own) + len(s.common.Value())
}
