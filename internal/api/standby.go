package api

import (
	"time"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
)

// list reads a list from the standby, where there is one and it is not far behind, and from the
// primary otherwise, or when the standby fails. asOf is what the list is as of; nil: there is no
// standby.
func (s *Server) list(read func(from *db.DB) error) (asOf *wire.Time, err error) {
	if s.Standby == nil {
		return nil, read(s.DB)
	}
	from, behind := s.Standby.Pick(s.DB, s.Copy)
	if err = read(from); err != nil && from != s.DB {
		behind, err = 0, read(s.DB)
	}
	return new(wire.At(time.Now().Add(-behind))), err
}
