package admit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
)

// change ends the lease of an admission, or extends it.
type change struct {
	admission, key uuid.UUID
	seconds        int32 // from now; 0: it ends
}

// Release ends an admission that will not be settled. Doing it again, or after
// settlement, is harmless. NotFound when there is none.
func (d *Decider) Release(ctx context.Context, id uuid.UUID) error {
	c, err := d.change(ctx, id, 0)
	if err == nil {
		_, err = d.leases.Do(ctx, c)
	}
	return err
}

// Renew extends a live lease to so many seconds from now, 1 at least, and returns its end.
// A lease that is over is a Conflict: its slot may be another's by now. now nil is the
// database's clock.
func (d *Decider) Renew(ctx context.Context, id uuid.UUID, seconds int32, now *time.Time) (time.Time, error) {
	c, err := d.change(ctx, id, seconds)
	if err != nil {
		return time.Time{}, err
	}
	var row db.LeasesChangeRow
	if now == nil {
		row, err = d.leases.Do(ctx, c)
	} else {
		var rows []db.LeasesChangeRow
		if rows, err = d.changeLeases(ctx, d.o.Patient, []change{c}, now); err == nil {
			row = rows[0]
		}
	}
	if err == nil && !row.Live {
		err = fault.New(fault.Conflict, "The lease is over: it was settled, released, or not renewed in time. Ask for another admission.")
	}
	return row.LeaseExpiresAt, err
}

// change is a change of an admission, whose key never changes. NotFound when there is none.
func (d *Decider) change(ctx context.Context, id uuid.UUID, seconds int32) (change, error) {
	rows, err := d.o.Fast.AdmissionKeys(ctx, []uuid.UUID{id})
	if err != nil {
		return change{}, fmt.Errorf("reading an admission: %w", err)
	}
	if len(rows) == 0 {
		return change{}, fault.New(fault.NotFound, "No such admission.")
	}
	return change{id, rows[0].KeyID, seconds}, nil
}

// changeLeases changes leases in one transaction, and returns what each is then.
func (d *Decider) changeLeases(ctx context.Context, from *db.DB, changes []change, now *time.Time) (rows []db.LeasesChangeRow, err error) {
	p := db.LeasesChangeParams{ReservationSeconds: int32(d.o.ReservationTTL.Seconds()), Now: now}
	var keys []uuid.UUID
	for _, c := range changes {
		p.IDs, p.LeaseSeconds, keys = append(p.IDs, c.admission), append(p.LeaseSeconds, c.seconds), append(keys, c.key)
	}
	err = from.Pipeline(ctx, func(q *db.Queries) (err error) {
		if err = q.CountersLock(ctx, keys); err == nil {
			rows, err = q.LeasesChange(ctx, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("changing leases: %w", err)
	}
	return rows, nil
}
