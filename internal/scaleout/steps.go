package scaleout

import (
	_ "embed"
	"fmt"
	"strings"
)

// Each step is a piece of SQL that runs as one transaction. A step that is done is passed over, so that
// what was broken off goes on where it stopped. They are done in this order, and taken back in the
// other.
type step struct {
	name   string
	what   string // what it does
	locks  string // what waits meanwhile
	moves  bool   // a table of this name
	done   string // a query: whether it is done
	undone string // a query: whether there is nothing to take back
	apply  string
	undo   string
}

// table is one that goes to the workers, each row by its key's ledger id.
type table struct {
	name  string
	view  string // what readers name; empty: nobody reads it
	guard string // what must be true, so that its rows on workers are those that this server knows of
	joins bool   // it goes in the transaction of the one before: months move from it to that one
	lock  string // whoever changes it has this advisory lock
	locks string
}

const (
	steady  = "(SELECT scale_out.steady(s.mark_chunk, s.mark_ledger_id) FROM rollup_state AS s)"
	settled = "(SELECT scale_out.settled())"
)

var tables = []table{
	{name: "usage_daily", view: "stored_usage_daily", guard: steady, lock: "keyledger.rollup", locks: "the roll-up; readers add a longer tail"},
	{name: "daily_cost", view: "stored_daily_cost", guard: steady, lock: "keyledger.rollup", locks: "the roll-up; readers add a longer tail"},
	{name: "usage_archive", view: "stored_usage_archive", guard: settled, lock: "keyledger.archive", locks: "the archive's pass, and purges"},
	{name: "usage_archiving", guard: settled, joins: true, lock: "keyledger.archive", locks: "the archive's pass, and purges"},
}

//go:embed connection.sql
var connectionSQL string

//go:embed twophase.sql
var twoPhaseSQL string

//go:embed table.sql
var tableSQL string

//go:embed views.sql
var viewsSQL string

//go:embed leftovers.sql
var leftoversSQL string

// part is what lies between the line "-- name" and the next such line.
func part(of, name string) string {
	_, rest, found := strings.Cut("\n"+of, "\n-- "+name+":\n")
	if !found {
		panic("scaleout: no part " + name)
	}
	text, _, _ := strings.Cut(rest, "\n-- end\n")
	return text
}

// quote makes a literal of a text, which may stand in a body between dollars too.
func quote(s string) string {
	return "E'" + strings.NewReplacer("'", "''", `\`, `\\`, "$", `\x24`).Replace(s) + "'"
}

// both is true when two queries are.
func both(a, b string) string { return "SELECT (" + a + ") AND (" + b + ")" }

// steps are all of them, with what this database fills in. The server connects to itself as the tables' owner.
func steps(o Options, owner string) []step {
	fill := func(of string, t table) step {
		values := strings.NewReplacer(
			"{table}", t.name, "{view}", t.view, "{lock}", t.lock, "{guard}", t.guard,
			"{shards}", fmt.Sprint(o.Shards), "{host}", quote(o.Host), "{port}", quote(fmt.Sprint(o.Port)), "{user}", quote(owner), "{password}", quote(o.Password))
		s := step{name: t.name, locks: t.locks, done: values.Replace(part(of, "done")), undone: values.Replace(part(of, "undone")), apply: values.Replace(part(of, "apply")), undo: values.Replace(part(of, "undo"))}
		return s
	}
	connection := fill(connectionSQL, table{name: "connection"})
	connection.what = "a foreign server that leads back to this one, by which views read what lies on workers"
	twoPhase := fill(twoPhaseSQL, table{name: "two-phase"})
	twoPhase.what = "a table on every node that each step of the roll-up changes, so that it commits in two phases"
	views := fill(viewsSQL, table{name: "views"})
	views.what = "undo alone: views lead to tables of this server, once nobody has a snapshot of before"
	all := []step{connection, twoPhase, views}
	var leftovers []step
	for _, t := range tables {
		left := fill(leftoversSQL, t)
		left.name, left.what = t.name+", leftovers", "what was copied to the workers is deleted here"
		left.locks = "all that reads it: for an instant, once nobody does"
		leftovers = append(leftovers, left)
		s := fill(tableSQL, t)
		if t.joins { // first, since nobody waits for it
			last := &all[len(all)-1]
			last.done, last.undone = both(s.done, last.done), both(s.undone, last.undone)
			last.apply, last.undo = s.apply+"\n"+last.apply, s.undo+"\n"+last.undo
			continue
		}
		s.moves, s.what = true, "its rows to the workers, by ledger_id; readers follow"
		all = append(all, s)
	}
	return append(all, leftovers...)
}
