// Package keys makes keys and changes them: create, update, rotate, delete,
// restore, purge. Each change is one transaction with its audit rows.
package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
)

// Options make a Store. All must be set.
type Options struct {
	Changes *db.DB // a pool for changes
	Reads   *db.DB // a pool for Show, so that no change waits behind those who look
	Hasher  *key.Hasher
	Rules   key.Rules
}

// Store makes and changes keys. It is safe for concurrent use.
type Store struct{ o Options }

// New makes a Store.
func New(o Options) *Store { return &Store{o: o} }

// PoolStat tells how many connections changes have: open, in use and allowed.
func (k *Store) PoolStat() (open, inUse, most int32) { return k.o.Changes.PoolStat() }

// Rules are the rules that fields of keys are held to.
func (k *Store) Rules() key.Rules { return k.o.Rules }

// MaxBatch is the largest number of keys in one request.
const MaxBatch = 500

// Idempotency is an Idempotency-Key header with a hash of what came with it;
// an empty Key: none was sent.
type Idempotency struct {
	Key         string
	Fingerprint []byte
}

// Issued is a key with its secret, which is to be found nowhere else.
type Issued struct {
	Row db.KeyShowRow
	// Secret is the key text; empty when Replayed.
	Secret string
	// Replayed tells that an earlier request with the same Idempotency-Key made
	// it, and that this one changed nothing.
	Replayed bool
}

// Create makes one key of validated fields.
func (k *Store) Create(ctx context.Context, who db.Actor, fields key.Columns, idem Idempotency) (Issued, error) {
	name, _ := fields["name"].(string)
	issued, err := k.create(ctx, who, []string{name}, fields, idem)
	if err != nil {
		return Issued{}, err
	}
	return issued[0], nil
}

// CreateBatch makes count keys of the same fields, named base_1 to base_count:
// all or none.
func (k *Store) CreateBatch(ctx context.Context, who db.Actor, base string, count int, fields key.Columns) ([]Issued, error) {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s_%d", base, i+1)
	}
	return k.create(ctx, who, names, fields, Idempotency{})
}

func (k *Store) create(ctx context.Context, who db.Actor, names []string, fields key.Columns, idem Idempotency) ([]Issued, error) {
	raw, err := fields.JSON()
	if err != nil {
		return nil, err
	}
	params := db.KeyCreateParams{Names: names, Fields: raw, CreatedBy: who.Name, PepperID: k.o.Hasher.Peppers[0].ID}
	secrets := make([]string, len(names))
	for i := range names {
		secrets[i] = k.o.Hasher.Issue()
		params.KeyIDs = append(params.KeyIDs, uuid.Must(uuid.NewV7()))
		params.Hashes = append(params.Hashes, k.o.Hasher.Current(secrets[i]).Hash)
		params.Hints = append(params.Hints, k.o.Hasher.Hint(secrets[i]))
	}
	var rows []db.KeyShowRow
	replayed := false
	err = k.o.Changes.Audited(ctx, who, "create", func(q *db.Queries) error {
		earlier, err := claim(ctx, q, who, "create", idem, params.KeyIDs[0])
		if err != nil {
			return err
		}
		ids := params.KeyIDs
		if replayed = earlier != uuid.Nil; replayed {
			ids = []uuid.UUID{earlier}
		} else if err := q.KeyCreate(ctx, params); err != nil {
			return fmt.Errorf("creating keys: %w", err)
		}
		rows, err = q.KeyShow(ctx, db.KeyShowParams{KeyIDs: ids})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(rows) != len(names) {
		return nil, fault.New(fault.Conflict, "This Idempotency-Key made a key that has been purged since.")
	}
	issued := make([]Issued, len(rows))
	for i, row := range rows {
		issued[i] = Issued{Row: row, Secret: secrets[i], Replayed: replayed}
		if replayed {
			issued[i].Secret = ""
		}
	}
	return issued, nil
}

// claim takes an Idempotency-Key for this request. It returns the id of the key
// that an earlier request with the same header made, or zero.
func claim(ctx context.Context, q *db.Queries, who db.Actor, operation string, idem Idempotency, id uuid.UUID) (uuid.UUID, error) {
	if idem.Key == "" {
		return uuid.Nil, nil
	}
	_, err := q.IdempotencyClaim(ctx, db.IdempotencyClaimParams{
		ActorID: who.ID, Operation: operation, IdemKey: idem.Key, Fingerprint: idem.Fingerprint, KeyID: id})
	if err == nil {
		return uuid.Nil, nil
	}
	if !db.Missing(err) {
		return uuid.Nil, fmt.Errorf("claiming the Idempotency-Key: %w", err)
	}
	earlier, err := q.IdempotencyFind(ctx, db.IdempotencyFindParams{ActorID: who.ID, Operation: operation, IdemKey: idem.Key})
	if err != nil {
		return uuid.Nil, fmt.Errorf("reading the Idempotency-Key: %w", err)
	}
	if !bytes.Equal(earlier.Fingerprint, idem.Fingerprint) {
		return uuid.Nil, fault.Fields(field.Error{Field: "Idempotency-Key", Message: "was used within 24 hours for a request with another body"})
	}
	return earlier.KeyID, nil
}

// Show reads one key, deleted or not; NotFound when there is none.
func (k *Store) Show(ctx context.Context, id uuid.UUID) (db.KeyShowRow, error) {
	return show(ctx, k.o.Reads.Queries, id)
}

func show(ctx context.Context, q *db.Queries, id uuid.UUID) (db.KeyShowRow, error) {
	rows, err := q.KeyShow(ctx, db.KeyShowParams{KeyIDs: []uuid.UUID{id}})
	if err != nil {
		return db.KeyShowRow{}, fmt.Errorf("reading a key: %w", err)
	}
	if len(rows) == 0 {
		return db.KeyShowRow{}, notFound()
	}
	return rows[0], nil
}

func notFound() error { return fault.New(fault.NotFound, "No such key.") }

// Update changes the named fields of one live key. ifVersion, when not nil, must
// be its version. Faults: NotFound for a missing or deleted key, Conflict for
// another version.
func (k *Store) Update(ctx context.Context, who db.Actor, id uuid.UUID, fields key.Columns, ifVersion *int64) (row db.KeyShowRow, err error) {
	if len(fields) == 0 { // nothing is named, so nothing changes, not even the version
		row, err = k.Show(ctx, id)
		if err == nil && (row.APIKey.DeletedAt != nil || ifVersion != nil && row.APIKey.Version != *ifVersion) {
			err = notChanged(row, ifVersion)
		}
		return row, err
	}
	raw, err := fields.JSON()
	if err != nil {
		return row, err
	}
	err = k.o.Changes.Audited(ctx, who, "update", func(q *db.Queries) error {
		changed, err := q.KeyUpdate(ctx, db.KeyUpdateParams{KeyIDs: []uuid.UUID{id}, Fields: raw, IfVersion: ifVersion})
		if err != nil {
			return fmt.Errorf("updating a key: %w", err)
		}
		row, err = show(ctx, q, id)
		if err != nil {
			return err
		}
		if len(changed) == 0 {
			return notChanged(row, ifVersion)
		}
		return nil
	})
	return row, err
}

// Leaked disables a live key whose secret was found where it should not be, and notes where in
// the audit trail. disabled: it was active until now. NotFound for a missing or deleted key.
func (k *Store) Leaked(ctx context.Context, who db.Actor, id uuid.UUID, foundAt string) (disabled bool, err error) {
	fields, err := key.Columns{"is_active": false}.JSON()
	if err != nil {
		return false, err
	}
	after, err := json.Marshal(map[string]string{"foundAt": foundAt})
	if err != nil {
		return false, fmt.Errorf("encoding the audit row: %w", err)
	}
	err = k.o.Changes.Audited(ctx, who, "leaked", func(q *db.Queries) error {
		disabled = false
		row, err := show(ctx, q, id)
		if err != nil {
			return err
		}
		if row.APIKey.DeletedAt != nil {
			return notFound()
		}
		if !row.APIKey.IsActive {
			return nil
		}
		changed, err := q.KeyUpdate(ctx, db.KeyUpdateParams{KeyIDs: []uuid.UUID{id}, Fields: fields})
		if err != nil {
			return fmt.Errorf("disabling a key: %w", err)
		}
		disabled = len(changed) > 0
		return q.AuditAppend(ctx, db.AuditAppendParams{TargetType: "key", TargetID: id.String(), After: after})
	})
	return disabled, err
}

// notChanged says why KeyUpdate passed a key over.
func notChanged(row db.KeyShowRow, ifVersion *int64) error {
	if row.APIKey.DeletedAt != nil {
		return fault.New(fault.NotFound, "No such key: it is deleted. Restore it first.")
	}
	if ifVersion != nil && row.APIKey.Version != *ifVersion {
		return fault.New(fault.Conflict, fmt.Sprintf("The key is at version %d, not %d: somebody else changed it.", row.APIKey.Version, *ifVersion))
	}
	return fault.New(fault.Conflict, "The key was changed at the same moment. Try again.")
}

// UpdateBatch changes the named fields of live keys, all or none. NotFound names
// the keys that are missing or deleted.
func (k *Store) UpdateBatch(ctx context.Context, who db.Actor, ids []uuid.UUID, fields key.Columns) error {
	raw, err := fields.JSON()
	if err != nil {
		return err
	}
	return k.o.Changes.Audited(ctx, who, "update", func(q *db.Queries) error {
		changed, err := q.KeyUpdate(ctx, db.KeyUpdateParams{KeyIDs: ids, Fields: raw})
		if err != nil {
			return fmt.Errorf("updating keys: %w", err)
		}
		return allOf(ids, changed)
	})
}

// Delete marks keys as deleted, all or none. NotFound names those that do not
// exist; one deleted before is left as it is.
func (k *Store) Delete(ctx context.Context, who db.Actor, ids []uuid.UUID) error {
	return k.o.Changes.Audited(ctx, who, "delete", func(q *db.Queries) error {
		gone, err := q.KeyDelete(ctx, ids)
		if err != nil {
			return fmt.Errorf("deleting keys: %w", err)
		}
		return allOf(ids, gone)
	})
}

// allOf is a NotFound that names every id asked for and not done.
func allOf(asked, done []uuid.UUID) error {
	var missing []string
	for _, id := range asked {
		if !slices.Contains(done, id) {
			missing = append(missing, id.String())
		}
	}
	if missing == nil {
		return nil
	}
	return fault.New(fault.NotFound, "Nothing was changed. No such keys: "+strings.Join(missing, ", "))
}

// Restore brings a deleted key back. Conflict when it is live.
func (k *Store) Restore(ctx context.Context, who db.Actor, id uuid.UUID) (row db.KeyShowRow, err error) {
	err = k.o.Changes.Audited(ctx, who, "restore", func(q *db.Queries) error {
		restored, err := q.KeyRestore(ctx, id)
		if err != nil {
			return fmt.Errorf("restoring a key: %w", err)
		}
		if row, err = show(ctx, q, id); err == nil && restored == 0 {
			err = fault.New(fault.Conflict, "The key is not deleted.")
		}
		return err
	})
	return row, err
}

// Rotate gives a live key a new secret. The old one works for grace seconds
// more (0: no longer); both draw on the same limits and ledger.
func (k *Store) Rotate(ctx context.Context, who db.Actor, id uuid.UUID, graceSeconds int32, idem Idempotency) (Issued, error) {
	secret := k.o.Hasher.Issue()
	issued := Issued{Secret: secret}
	err := k.o.Changes.Audited(ctx, who, "rotate", func(q *db.Queries) error {
		earlier, err := claim(ctx, q, who, "rotate "+id.String(), idem, id)
		if err != nil {
			return err
		}
		if issued.Replayed = earlier != uuid.Nil; issued.Replayed {
			issued.Secret = ""
		} else if err := k.replaceSecret(ctx, q, id, graceSeconds, secret); err != nil {
			return err
		}
		issued.Row, err = show(ctx, q, id)
		return err
	})
	return issued, err
}

func (k *Store) replaceSecret(ctx context.Context, q *db.Queries, id uuid.UUID, graceSeconds int32, secret string) error {
	touched, err := q.KeyTouch(ctx, id)
	if err != nil {
		return fmt.Errorf("locking a key: %w", err)
	}
	if touched == 0 {
		return notFound()
	}
	if err := q.SecretRetire(ctx, db.SecretRetireParams{KeyID: id, GraceSeconds: graceSeconds}); err != nil {
		return fmt.Errorf("retiring the old secret: %w", err)
	}
	current := k.o.Hasher.Current(secret)
	err = q.SecretAdd(ctx, db.SecretAddParams{Hash: current.Hash, KeyID: id, PepperID: current.PepperID, Hint: k.o.Hasher.Hint(secret)})
	if err != nil {
		return fmt.Errorf("adding the new secret: %w", err)
	}
	return nil
}

// Purge erases a key and all that names it. Its ledger rows and rollups stay where they are,
// under an id that nothing connects with the key any more.
func (k *Store) Purge(ctx context.Context, who db.Actor, id uuid.UUID) error {
	return k.o.Changes.Audited(ctx, who, "purge", func(q *db.Queries) error {
		ledgerID, err := q.KeyPurgeLock(ctx, id)
		if err != nil {
			if db.Missing(err) {
				return notFound()
			}
			return fmt.Errorf("locking a key: %w", err)
		}
		if err := q.KeyPurge(ctx, db.KeyPurgeParams{KeyID: id, LedgerID: ledgerID}); err != nil {
			return fmt.Errorf("purging a key: %w", err)
		}
		if err := errors.Join(q.KeyPurgeArchive(ctx, ledgerID), q.KeyPurgeArchiving(ctx, ledgerID)); err != nil {
			return fmt.Errorf("purging a key from the archive: %w", err)
		}
		// The audit trigger has just written the erased row down: take it out.
		err = q.AuditForget(ctx, db.AuditForgetParams{KeyID: id.String(), LedgerID: ledgerID.String()})
		if err != nil {
			return fmt.Errorf("clearing the audit trail: %w", err)
		}
		return nil
	})
}
