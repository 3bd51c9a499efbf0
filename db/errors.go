package db

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keyledger/keyledger/internal/fault"
)

// Missing tells whether a :one query found no row.
func Missing(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// The SQLSTATEs that mean something to a caller.
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	stateOutOfRange      = "22003"
	stateBadZone         = "22023"
	stateBadText         = "22021"
	stateUnique          = "23505"
	stateCheck           = "23514"
	stateBadTime         = "22007"
	stateTimeOverflow    = "22008"
	stateBadValue        = "22P02"
	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateLocked          = "55P03"
	stateUndefinedTable  = "42P01"
	stateUndefinedColumn = "42703"
)

// Fault turns an error of PostgreSQL or of the connection into a fault, and is
// the only place that does. An error that is a fault already stays one; what it
// does not know is Internal, with nothing of it in the message.
func Fault(err error) *fault.Error {
	var known *fault.Error
	if errors.As(err, &known) {
		return known
	}
	if Missing(err) {
		return fault.Wrap(err, fault.NotFound, "Not found.")
	}
	if errors.Is(err, errPooler) {
		return fault.Wrap(err, fault.Unavailable, "The database is reached through a pooler that it must not be reached through. The service's log says what to set.")
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return ofState(err, pg)
	}
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.As(err, &netErr) || errors.As(err, &connectErr) || pgconn.Timeout(err) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "unexpected EOF") {
		return fault.Wrap(err, fault.Unavailable, "The database did not answer in time. Try again.")
	}
	return fault.Wrap(err, fault.Internal, "Something went wrong in the service.")
}

func ofState(err error, pg *pgconn.PgError) *fault.Error {
	switch {
	case pg.Code == stateOutOfRange, pg.Code == stateCheck && strings.HasSuffix(pg.ConstraintName, "_countable"):
		return fault.Wrap(err, fault.Invalid, "A sum of tokens would pass 9223372036854775807, more than can be counted.")
	case pg.Code == stateBadTime, pg.Code == stateTimeOverflow, pg.Code == stateBadValue:
		return fault.Wrap(err, fault.Invalid, "A value has the wrong form.")
	case pg.Code == stateBadText:
		return fault.Wrap(err, fault.Invalid, "Text must be valid UTF-8 without U+0000.")
	case pg.Code == stateBadZone:
		return fault.Wrap(err, fault.Invalid, "PostgreSQL does not know this time zone.")
	case pg.Code == stateUnique:
		return fault.Wrap(err, fault.Conflict, "It exists already.")
	case pg.Code == stateUndefinedTable || pg.Code == stateUndefinedColumn:
		return fault.Wrap(err, fault.Unavailable, "The database's schema does not fit this version. Run: keyledger migrate up")
	case retryable(err):
		return fault.Wrap(err, fault.Unavailable, "The database is busy. Try again.")
	case pg.Code == stateLocked:
		return fault.Wrap(err, fault.Unavailable, "Another transaction has held a row or a table that this needs for too long. Try again.")
	case pg.Code[:2] == "08", pg.Code[:2] == "53", pg.Code[:2] == "57", pg.Code[:2] == "55", pg.Code[:2] == "58", pg.Code[:2] == "XX", pg.Code == "25006":
		// connection lost, out of resources, operator intervention, lock not available,
		// the system's or PostgreSQL's own failure, read-only after a failover
		return fault.Wrap(err, fault.Unavailable, "The database is not available. Try again.")
	}
	return fault.Wrap(err, fault.Internal, "Something went wrong in the service.")
}

// OfOneRow tells whether a statement may have failed for one row's sake: tried without it, the
// others may pass.
func OfOneRow(err error) bool {
	code := Fault(err).Code
	return code == fault.Invalid || code == fault.Conflict
}

// Stuck tells whether a statement gave up because another transaction held a row that
// it needs for longer than the pool lets it wait.
func Stuck(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == stateLocked
}

func retryable(err error) bool {
	var pg *pgconn.PgError
	return !Late(err) && errors.As(err, &pg) && (pg.Code == stateSerialization || pg.Code == stateDeadlock)
}
