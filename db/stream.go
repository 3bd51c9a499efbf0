package db

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ReportRow is one row of a usage report: all its queries have the same columns.
type ReportRow = ReportSumsRow

// FocusRow is one row of ReportFocus.
type FocusRow struct{ Cells []string }

// Stream runs a query that returns many rows and hands on each as it comes, so that an
// answer of any size takes no memory. ask calls the query; T has its columns in order. It
// ends with each's error, or with ctx's, at the row that it has come to.
func Stream[T any](ctx context.Context, r *Reader, ask func(*Queries) error, each func(T) error) error {
	var noted note
	if err := ask(New(&noted)); !errors.Is(err, errNoted) {
		return fmt.Errorf("a query was to be noted: %w", err)
	}
	rows, err := r.from.Query(ctx, noted.sql, noted.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		row, err := pgx.RowToStructByPos[T](rows)
		if err != nil {
			return err
		}
		r.handed = true
		if err := each(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// lateError is an error after rows were handed on: what it ended is not run again.
type lateError struct{ error }

func (e *lateError) Unwrap() error { return e.error }

// Late tells whether rows were handed on before an error, so that what it ended must not run again.
func Late(err error) bool {
	var late *lateError
	return errors.As(err, &late)
}

var errNoted = errors.New("noted")

// note is a connection that notes what it is asked, since generated code reads all
// rows of an answer before it returns.
type note struct {
	DBTX

	sql  string
	args []any
}

// Query notes a query.
func (n *note) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	n.sql, n.args = sql, args
	return nil, errNoted
}

// Exec notes a statement without rows.
func (n *note) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	n.sql, n.args = sql, args
	return pgconn.CommandTag{}, errNoted
}

// QueryRow notes a query for one row.
func (n *note) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	n.sql, n.args = sql, args
	return pipelineRow{nil, errNoted}
}
