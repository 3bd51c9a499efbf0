package db

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pipeline runs fn's statements in one READ COMMITTED transaction and one round trip,
// begin and commit included. fn may call any number of :exec queries, whose outcome it
// cannot see, and then one query that returns rows. Each statement has a snapshot of its
// own, so the last sees what its predecessors waited for. Deadlocks are retried as
// in InTx. A nil error means that the transaction is committed.
func (d *DB) Pipeline(ctx context.Context, fn func(*Queries) error) error {
	return retry(ctx, func() error {
		p := &pipeline{pool: d.pool}
		err := fn(New(p))
		if p.results == nil {
			return errors.Join(err, errors.New("a pipeline ends with a query that returns rows"))
		}
		// Close reads to the end of the transaction: the outcome of its commit.
		if closed := p.results.Close(); err == nil {
			err = closed
		}
		return err
	})
}

// pipeline is a connection that sends nothing before the first query that returns rows.
type pipeline struct {
	pool    *pgxpool.Pool
	batch   pgx.Batch
	results pgx.BatchResults
}

// Exec queues a statement.
func (p *pipeline) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query sends what is queued, and this statement last.
func (p *pipeline) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if p.results != nil {
		return nil, errors.New("a pipeline has one query that returns rows")
	}
	before := p.batch.Len()
	p.batch.Queue(sql, args...)
	p.results = p.pool.SendBatch(ctx, &p.batch)
	for range before {
		if _, err := p.results.Exec(); err != nil {
			return nil, err
		}
	}
	return p.results.Query()
}

// QueryRow is Query for one row.
func (p *pipeline) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return pipelineRow{rows, err}
}

// pipelineRow is the first row of a query, or why there is none.
type pipelineRow struct {
	rows pgx.Rows
	err  error
}

// Scan reads the row.
func (r pipelineRow) Scan(into ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	return r.rows.Scan(into...)
}
