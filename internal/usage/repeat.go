package usage

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
)

// gate is what an event is recorded once by: a key and a dedup key.
type gate struct {
	key   uuid.UUID
	dedup string
}

// firsts are the first events behind gates.
type firsts map[gate]db.DedupFindRow

// gates are the dedup keys that an entry must be the first with, the closest to the
// request first. The admission is the one that the entry settles; zero: none.
func (e entry) gates(admission uuid.UUID) []gate {
	own := gate{e.KeyID, e.dedup}
	if admission == uuid.Nil {
		return []gate{own}
	}
	if byAdmission := (gate{e.KeyID, "a:" + admission.String()}); byAdmission != own {
		return []gate{byAdmission, own}
	}
	return []gate{own}
}

// settleRepeats does what is left to do for events that were not recorded, in the
// transaction of LedgerAppend, and returns the first events that they repeat:
//
//   - An event that ran under another admission than the first one did, and has other
//     content, is usage of its own: the request was decided anew and ran twice. It is
//     recorded under its admission alone, and its row says so.
//   - Any other is a duplicate. The gates that it won before another one stopped it
//     are deleted, and an open admission that it names is ended: nobody else will.
func (r *Recorder) settleRepeats(ctx context.Context, q *db.Queries, entries []entry, rows []db.LedgerAppendRow) (firsts, error) {
	repeats := repeated(entries, rows)
	if repeats == nil {
		return nil, nil
	}
	first, err := findFirsts(ctx, q, entries, rows, repeats)
	if err != nil {
		return nil, err
	}
	halves := first.takeHalves(entries, rows, repeats)
	var forget db.DedupForgetParams
	for g, event := range halves {
		forget.KeyIDs, forget.DedupKeys = append(forget.KeyIDs, g.key), append(forget.DedupKeys, g.dedup)
		forget.EventIDs = append(forget.EventIDs, event)
	}
	var ends []uuid.UUID
	var again []entry
	var places []int
	for _, i := range repeats {
		e, admission := entries[i], rows[i].AdmissionID
		switch {
		case e.kind != kindUsage:
		case secondRun(e, admission, first, halves):
			e.dedup, e.AdmissionID = "a:"+admission.String(), admission
			again, places = append(again, e), append(places, i)
		case e.AdmissionID != uuid.Nil:
			ends = append(ends, e.AdmissionID)
		}
	}
	if forget.KeyIDs != nil {
		if err := q.DedupForget(ctx, forget); err != nil {
			return nil, err
		}
	}
	if ends != nil {
		if err := q.AdmissionsEnd(ctx, ends); err != nil {
			return nil, err
		}
	}
	if again == nil {
		return first, nil
	}
	more, err := q.LedgerAppend(ctx, arrays(again, r.Timezone))
	if err != nil {
		return nil, err
	}
	for n, row := range more {
		rows[places[n]].Recorded, rows[places[n]].Dearer = row.Recorded, row.Dearer
	}
	return first, nil
}

// repeated are the places of entries that were neither recorded nor refused; those of a
// unit of which another entry was refused are none.
func repeated(entries []entry, rows []db.LedgerAppendRow) (places []int) {
	refused := map[int]bool{}
	for i, e := range entries {
		refused[e.unit] = refused[e.unit] || rows[i].Refused
	}
	for i, e := range entries {
		if !rows[i].Recorded && !refused[e.unit] {
			places = append(places, i)
		}
	}
	return places
}

// findFirsts reads the first events behind the gates of entries.
func findFirsts(ctx context.Context, q *db.Queries, entries []entry, rows []db.LedgerAppendRow, places []int) (firsts, error) {
	var p db.DedupFindParams
	for _, i := range places {
		for _, g := range entries[i].gates(rows[i].AdmissionID) {
			p.KeyIDs, p.DedupKeys = append(p.KeyIDs, g.key), append(p.DedupKeys, g.dedup)
		}
	}
	found, err := q.DedupFind(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("reading first answers: %w", err)
	}
	first := make(firsts, len(found))
	for _, row := range found {
		first[gate{row.KeyID, row.DedupKey}] = row
	}
	return first, nil
}

// takeHalves removes the gates that an event won although another gate stopped it, and
// returns them with their events: nothing that was recorded stands behind them.
func (f firsts) takeHalves(entries []entry, rows []db.LedgerAppendRow, places []int) map[gate]uuid.UUID {
	halves := map[gate]uuid.UUID{}
	for _, i := range places {
		for _, g := range entries[i].gates(rows[i].AdmissionID) {
			if row, found := f[g]; found && row.EventID == entries[i].ID {
				halves[g] = row.EventID
				delete(f, g)
			}
		}
	}
	return halves
}

// secondRun reports whether an event that its request id stopped is usage of another run:
// its admission has no usage yet, and the first event settled another admission and had
// other content.
func secondRun(e entry, admission uuid.UUID, first firsts, halves map[gate]uuid.UUID) bool {
	gates := e.gates(admission)
	if len(gates) < 2 || halves[gates[0]] != e.ID {
		return false
	}
	other, found := first[gates[1]]
	return found && other.AdmissionID != admission && other.Fingerprint != e.fingerprint
}

// answerRepeat gives a duplicate the answer of the event that it repeats.
func (r *Recorder) answerRepeat(ctx context.Context, e entry, admission uuid.UUID, first firsts, result Result, hadCompany bool) (Result, error) {
	for _, g := range e.gates(admission) {
		if row, found := first[g]; found {
			result.EventID, result.Model, result.Cost, result.Priced = row.EventID, row.Model, row.Cost, row.Priced
			result.Conflict = row.Fingerprint != e.fingerprint
			return result, nil
		}
	}
	// Stopped by an event of its own batch that was not recorded itself.
	if !hadCompany {
		return Result{}, fault.New(fault.Unavailable, "The first answer to this event is just being forgotten. Try again.")
	}
	e.unit = 0
	alone := make([]outcome, 1)
	if err := r.append(ctx, []entry{e}, alone, nil); err != nil || alone[0].err != nil {
		return Result{}, errors.Join(err, alone[0].err)
	}
	return alone[0].results[0], nil
}
