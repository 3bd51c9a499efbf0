package importer

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
)

// sourceName is the original's name in imported_usage.
const sourceName = "claude-relay-service"

// namespace makes ids of what has none here.
var namespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("keyledger import from "+sourceName))

// accounts holds what accounts used before they came here: in the ledger every row has a
// holder, and the original does not tell whose requests an account served.
var accounts = uuid.NewSHA1(namespace, []byte("accounts"))

// Importer brings a source into a database. One at a time does; others wait.
type Importer struct {
	o Options
}

// Options are what an importer works with. DB, Usage and Prices are required.
type Options struct {
	DB       *db.DB
	Usage    *usage.Recorder
	Prices   *price.Store
	Rules    key.Rules
	DryRun   bool // plan, and change nothing
	Openings int  // how many ledger rows a transaction writes, 2 at least; 0: usage.MaxOpenings
}

// New makes an importer.
func New(o Options) *Importer {
	if o.Openings == 0 {
		o.Openings = usage.MaxOpenings
	}
	return &Importer{o}
}

// What becomes of a key or an account.
const (
	Created   = "create"
	Added     = "add usage"
	Unchanged = "unchanged"
	Refused   = "refuse"
	Gone      = "gone there" // what is left of a key that was deleted there for good
)

// Step is what becomes, or would become, of one key or account.
type Step struct {
	Subject string // key NAME (ID), or account ID
	Account bool   // whose usage is that of keys, seen from the other side
	Action  string
	Why     string   // of a refusal
	Notes   []string // what is not as it was there
	// What is brought of its usage now.
	Requests, Tokens int64
	Cost             decimal.Decimal // USD
}

// Import brings a source, key by key and account by account, and tells of each as it is
// done. A long history takes several transactions, so that nobody waits for it. It stops
// at the first error; what was done by then stays, and a later run goes on from there.
func (im *Importer) Import(ctx context.Context, s Source, done func(Step)) error {
	for _, r := range s.Refused {
		action := Refused
		if r.Gone {
			action = Gone
		}
		done(Step{Subject: r.Subject, Action: action, Why: r.Reason})
	}
	catalogue, _, err := im.o.Prices.Current(ctx)
	if err != nil {
		return err
	}
	zone, err := time.LoadLocation(im.o.Usage.Timezone())
	if err != nil {
		return fmt.Errorf("the service's time zone: %w", err)
	}
	for _, k := range s.Keys {
		step, err := im.key(ctx, k, catalogue, zone)
		if err := tell(step, err, done); err != nil {
			return fmt.Errorf("key %s: %w", k.ID, err)
		}
	}
	for _, a := range s.Accounts {
		step, err := im.account(ctx, a, catalogue, zone)
		if err := tell(step, err, done); err != nil {
			return fmt.Errorf("account %s: %w", a.ID, err)
		}
	}
	return nil
}

// tell tells of a step. One that the database refuses for what is in it is refused, and
// the others go on.
func tell(step Step, err error, done func(Step)) error {
	if err != nil {
		f := db.Fault(err)
		if f.Code != fault.Invalid && f.Code != fault.Conflict {
			return err
		}
		step = Step{Subject: step.Subject, Account: step.Account, Notes: step.Notes, Action: Refused, Why: f.Message}
	}
	done(step)
	return nil
}

var actor = db.Actor{Name: "import"}

// key brings one key with its usage, or the usage that came since.
func (im *Importer) key(ctx context.Context, k Key, catalogue *price.Catalogue, zone *time.Location) (Step, error) {
	r, unlike, wrong := k.read(im.o.Rules)
	step := Step{Subject: fmt.Sprintf("key %s (%s)", k.Fields["name"], k.ID), Notes: unlike}
	if r.hash == nil {
		step.Action, step.Why = Refused, wrong
		return step, nil
	}
	if r.created.IsZero() {
		now, err := im.o.DB.Now(ctx)
		if err != nil {
			return step, err
		}
		r.created = now
		step.Notes = append(step.Notes, "its createdAt cannot be read: it is created now")
	}
	b := bringing{subject: "key:" + r.id.String(), openings: func(o usage.Opening) []usage.Opening {
		o.KeyID = r.id
		return []usage.Opening{o}
	}}
	b.cells = func(before ledger) ([]cell, []string) { return k.History.cells(r.created.In(zone), before, catalogue) }
	err := im.within(ctx, func(q *db.Queries) error {
		before, brought, err := im.before(ctx, q, b.subject)
		if err != nil {
			return err
		}
		step.Action = Unchanged
		switch {
		case wrong != "" && brought: // what it uses comes all the same
			step.Notes = append(step.Notes, "it would be refused now, and stays as it is here: "+wrong)
			if err := im.followSecret(ctx, q, r, &step); err != nil {
				return err
			}
		case wrong != "":
			step.Action, step.Why = Refused, wrong
			return nil
		case brought:
			if err := im.differences(ctx, q, r, &step); err != nil {
				return err
			}
			if err := im.followSecret(ctx, q, r, &step); err != nil {
				return err
			}
		default:
			if step.Action, step.Why, err = im.create(ctx, q, r); err != nil || step.Action == Refused {
				return err
			}
		}
		cells, doubts := b.cells(before)
		step.Notes = append(step.Notes, doubts...)
		if unrated, rated := k.History.RealCost, k.History.TotalCost; unrated != nil && rated != nil && unrated.Sub(*rated).Abs().GreaterThan(decimal.New(1, -6)) {
			step.Notes = append(step.Notes, fmt.Sprintf("it cost $%s there, and $%s before the rates of services; the rated cost is brought", rated, unrated))
		}
		if brought && len(cells) > 0 {
			step.Action = Added
		}
		step.count(cells)
		if im.o.DryRun {
			return nil
		}
		if err := im.bring(ctx, q, &b, cells, !brought); err != nil || r.lastUsed.IsZero() {
			return err
		}
		return q.ImportLastUsed(ctx, db.ImportLastUsedParams{KeyID: r.id, LastUsedAt: r.lastUsed})
	})
	if err != nil {
		return step, err
	}
	return step, im.bringRest(ctx, &b)
}

// differences notes what a key that was brought before is here and is not there any more:
// it stays as it is.
func (im *Importer) differences(ctx context.Context, q *db.Queries, r record, step *Step) error {
	fields, err := r.columns.JSON()
	if err != nil {
		return err
	}
	rows, err := q.ImportDiffers(ctx, db.ImportDiffersParams{KeyID: r.id, Fields: fields, Deleted: r.deleted})
	if err != nil {
		return fmt.Errorf("comparing with what is here: %w", err)
	}
	for _, row := range rows {
		step.Notes = append(step.Notes, fmt.Sprintf("%s is %.60s here and %.60s there: it stays as it is here", row.Name, row.Here, row.There))
	}
	return nil
}

// followSecret gives a key that was brought before the secret that it has there now, if it
// was made anew there and not here.
func (im *Importer) followSecret(ctx context.Context, q *db.Queries, r record, step *Step) error {
	state, err := q.ImportSecret(ctx, db.ImportSecretParams{Source: sourceName, KeyID: r.id})
	if db.Missing(err) {
		return nil // purged, or brought before hashes were kept
	}
	if err != nil {
		return fmt.Errorf("reading the imported secret: %w", err)
	}
	known, err := q.ImportKeysKnown(ctx, db.ImportKeysKnownParams{KeyID: r.id, Hash: r.hash})
	switch {
	case err != nil:
		return err
	case bytes.Equal(state.Hash, r.hash):
		return nil
	case state.Secrets > 1:
		step.Notes = append(step.Notes, "ITS SECRET WAS MADE ANEW THERE, AND HERE TOO: the one from here works on, the one from there does not work here")
		return nil
	case slices.ContainsFunc(known, func(id uuid.UUID) bool { return id != r.id }):
		step.Notes = append(step.Notes, "ITS SECRET WAS MADE ANEW THERE, and opens another key here already: it is not taken over")
		return nil
	}
	step.Notes = append(step.Notes, "ITS SECRET WAS MADE ANEW THERE: the new one works here from now on, and the old one does not")
	if step.Action = Added; im.o.DryRun {
		return nil
	}
	if _, err := q.KeyTouch(ctx, r.id); err != nil {
		return fmt.Errorf("locking a key: %w", err)
	}
	if err := q.ImportSecretsErase(ctx, r.id); err != nil {
		return fmt.Errorf("removing the old secret: %w", err)
	}
	if err := q.ImportSecretAdd(ctx, db.ImportSecretAddParams{KeyID: r.id, Hash: r.hash, Hint: unknownHint}); err != nil {
		return fmt.Errorf("adding the new secret: %w", err)
	}
	return q.ImportSecretNote(ctx, db.ImportSecretNoteParams{Source: sourceName, KeyID: r.id, Hash: r.hash})
}

// create makes a key that was not brought before.
func (im *Importer) create(ctx context.Context, q *db.Queries, r record) (action, why string, err error) {
	purged, err := q.ImportPurged(ctx, db.ImportPurgedParams{Source: sourceName, Subject: "key:" + r.id.String()})
	if err != nil {
		return "", "", err
	}
	if purged {
		return Refused, "it was brought before and purged here since", nil
	}
	known, err := q.ImportKeysKnown(ctx, db.ImportKeysKnownParams{KeyID: r.id, Hash: r.hash})
	if err != nil {
		return "", "", err
	}
	if slices.Contains(known, r.id) {
		return Refused, "a key with this id is here already, and was not brought by an import", nil
	}
	if len(known) > 0 {
		return Refused, fmt.Sprintf("its secret opens another key here already (%s)", known[0]), nil
	}
	if im.o.DryRun {
		return Created, "", nil
	}
	fields, err := r.columns.JSON()
	if err != nil {
		return "", "", err
	}
	n, err := q.ImportKeyCreate(ctx, db.ImportKeyCreateParams{KeyID: r.id, Hash: r.hash, Hint: unknownHint, CreatedBy: actor.Name, CreatedAt: r.created, Fields: fields})
	if err != nil {
		return "", "", err
	}
	if n == 0 {
		return Refused, "a key with this id or secret came in at the same moment", nil
	}
	if err := q.ImportSecretNote(ctx, db.ImportSecretNoteParams{Source: sourceName, KeyID: r.id, Hash: r.hash}); err != nil {
		return "", "", fmt.Errorf("noting a secret: %w", err)
	}
	if r.deleted {
		_, err = q.KeyDelete(ctx, []uuid.UUID{r.id})
	}
	return Created, "", err
}

// unknownHint is the hint of a key of which only the hash is known; it gets its own at
// its first use.
const unknownHint = "..."

// account brings what an account used, in all or since.
func (im *Importer) account(ctx context.Context, a Account, catalogue *price.Catalogue, zone *time.Location) (Step, error) {
	step := Step{Subject: "account " + a.ID, Account: true, Action: Unchanged}
	if id, message := field.Trim(a.ID, 1, maxAccount); message != "" || id != a.ID {
		step.Action, step.Why = Refused, "its id "+message
		return step, nil
	}
	b := bringing{subject: "account:" + a.ID, openings: func(o usage.Opening) []usage.Opening {
		// The same again without the account, taken off: its keys have brought it.
		o.LedgerID, o.AccountID = accounts, a.ID
		off := o
		off.AccountID, off.Requests, off.Cost = "", -o.Requests, o.Cost.Neg()
		off.Counts = Sums{}.each(Sums{0, o.Counts}, func(a, b int64) int64 { return a - b }).Counts
		return []usage.Opening{o, off}
	}}
	b.cells = func(before ledger) ([]cell, []string) {
		return a.History.cells(a.History.first(time.Now().In(zone)), before, catalogue)
	}
	err := im.within(ctx, func(q *db.Queries) error {
		before, brought, err := im.before(ctx, q, b.subject)
		if err != nil {
			return err
		}
		cells, doubts := b.cells(before)
		step.Notes = doubts
		switch {
		case !brought:
			step.Action = Created
		case len(cells) > 0:
			step.Action = Added
		}
		step.count(cells)
		if im.o.DryRun {
			return nil
		}
		if err := q.ImportHolderCreate(ctx, accounts); err != nil {
			return err
		}
		return im.bring(ctx, q, &b, cells, !brought)
	})
	if err != nil {
		return step, err
	}
	return step, im.bringRest(ctx, &b)
}

// maxAccount bounds account ids, in characters.
const maxAccount = 200

// within is a transaction that no other import is in.
func (im *Importer) within(ctx context.Context, fn func(*db.Queries) error) error {
	return im.o.DB.Audited(ctx, actor, "import", func(q *db.Queries) error {
		if err := q.ImportLock(ctx); err != nil {
			return fmt.Errorf("waiting for another import: %w", err)
		}
		return fn(q)
	})
}

func (s *Step) count(cells []cell) {
	for _, c := range cells {
		s.Requests += c.sums.Requests
		s.Tokens += c.sums.All()
		s.Cost = s.Cost.Add(c.cost)
	}
}
