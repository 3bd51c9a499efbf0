package admit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
)

// maxWaits is how many renewals and releases may wait at once for keys that are held: each
// has a connection, and others need some too.
const maxWaits = 2

// alone does something that concerns one key: at once where nobody holds it, else with
// patience, unless too many wait so already.
func (d *Decider) alone(fn func(*db.DB) error) error {
	err := fn(d.o.Fast)
	if !db.Stuck(err) {
		return err
	}
	select {
	case d.waits <- struct{}{}:
		defer func() { <-d.waits }()
		return fn(d.o.Patient)
	default:
		return err
	}
}

// Release ends an admission that will not be settled. Doing it again, or after
// settlement, is harmless. NotFound when there is none.
func (d *Decider) Release(ctx context.Context, id uuid.UUID) error {
	n, err := d.release(ctx, []uuid.UUID{id})
	if err == nil && n == 0 {
		return notFound()
	}
	return err
}

func (d *Decider) release(ctx context.Context, ids []uuid.UUID) (n int64, err error) {
	err = d.alone(func(from *db.DB) error {
		return from.InTx(ctx, func(q *db.Queries) (err error) {
			n, err = q.AdmissionRelease(ctx, ids)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("releasing admissions: %w", err)
	}
	return n, nil
}

// Renew extends a live lease to so many seconds from now and returns its end.
// A lease that is over is a Conflict: its slot may be another's by now.
func (d *Decider) Renew(ctx context.Context, id uuid.UUID, seconds int32, now *time.Time) (time.Time, error) {
	var rows []db.AdmissionRenewRow
	params := db.AdmissionRenewParams{ID: id, LeaseSeconds: seconds, ReservationSeconds: int32(d.o.ReservationTTL.Seconds()), Now: now}
	err := d.alone(func(from *db.DB) error {
		return from.Pipeline(ctx, func(q *db.Queries) (err error) {
			if err = q.AdmissionLock(ctx, id); err == nil {
				rows, err = q.AdmissionRenew(ctx, params)
			}
			return err
		})
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("renewing a lease: %w", err)
	}
	if len(rows) == 0 {
		return time.Time{}, notFound()
	}
	if !rows[0].Renewed {
		return time.Time{}, fault.New(fault.Conflict, "The lease is over: it was settled, released, or not renewed in time. Ask for another admission.")
	}
	return rows[0].LeaseExpiresAt, nil
}

func notFound() error { return fault.New(fault.NotFound, "No such admission.") }
