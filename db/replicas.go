package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Replica is a process of the service that hears changes on this database.
type Replica struct {
	Address string // empty: it came by a unix socket
	Since   time.Time
}

// listenerName is the application_name of the connection by which a replica hears changes. Each
// replica has one.
const listenerName = "keyledger listener"

// replicas are the connections that hear changes, longest first. PostgreSQL hides the start of
// those that are under another role than ours: they are left out.
const replicas = `
SELECT coalesce(host(s.client_addr), ''), s.backend_start
  FROM pg_stat_activity AS s
 WHERE s.datname = current_database() AND s.application_name = $1 AND s.backend_start IS NOT NULL
 ORDER BY s.backend_start, s.client_addr`

// Replicas are the processes of the service that hear changes on this database, longest first.
func (d *DB) Replicas(ctx context.Context) ([]Replica, error) {
	rows, err := d.db.Query(ctx, replicas, listenerName)
	if err != nil {
		return nil, fmt.Errorf("listing replicas: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Replica])
	if err != nil {
		return nil, fmt.Errorf("listing replicas: %w", err)
	}
	return all, nil
}
