package db_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/pgtest"
)

// Guarantee: what is read on a snapshot is read again after a serialization failure, once, and not at all
// when rows were handed on: whoever got them would get them twice.
func TestSnapshotAgain(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	pgtest.Key(t, d, pgtest.KeyRow{})
	refused := &pgconn.PgError{Code: "40001"}
	handOn := func(r *db.Reader) error {
		return db.Stream(ctx, r, func(q *db.Queries) error {
			_, err := q.ServerVersion(ctx)
			return err
		}, func(db.ServerVersionRow) error { return nil })
	}
	for _, c := range []struct {
		name  string
		first func(*db.Reader) error
		tries int
	}{
		{"nothing was handed on", func(*db.Reader) error { return nil }, 3},
		{"rows were", handOn, 1},
	} {
		tries := 0
		err := d.Snapshot(ctx, func(r *db.Reader) error {
			tries++
			if err := c.first(r); err != nil {
				t.Fatal(err)
			}
			return refused
		})
		if !errors.Is(err, refused) || tries != c.tries {
			t.Errorf("%s: %d tries, want %d, %v", c.name, tries, c.tries, err)
		}
	}
}
