package db

import (
	"errors"

	"github.com/jackc/pgx/v5"
)

// Noted is the statement and the arguments that a query would be sent with.
func Noted(ask func(*Queries) error) (sql string, args []any, err error) {
	var n note
	if err := ask(New(&n)); !errors.Is(err, errNoted) {
		return "", nil, err
	}
	return n.sql, n.args, nil
}

// ConnConfig is how the pool connects.
func (d *DB) ConnConfig() *pgx.ConnConfig { return d.pool.Config().ConnConfig }
