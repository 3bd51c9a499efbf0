package scaleout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/scaleout"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Guarantee: on a PostgreSQL without Citus, status says that everything is there, and how large; plan,
// apply and undo say what is missing, and change nothing.
func TestPlainPostgreSQL(t *testing.T) {
	if len(pgtest.CitusNodes()) > 0 {
		t.Fatal("this test is of a plain PostgreSQL")
	}
	ctx := context.Background()
	d := pgtest.New(t)
	schema := func() string {
		return pgtest.Scan[string](t, d, `SELECT string_agg(n.nspname || '.' || c.relname || c.relkind::text, ' ' ORDER BY n.nspname, c.relname)
			FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace`)
	}
	before := schema()
	s := scaleout.New(d, scaleout.Options{})
	st, err := s.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.Citus != "" || st.Workers != 0 || st.Whole || len(st.Tables) != 4 {
		t.Errorf("status: %+v", st)
	}
	for _, table := range st.Tables {
		if table.Distributed || table.Size == "" {
			t.Errorf("table: %+v", table)
		}
	}
	if _, err := s.Plan(ctx); !errors.Is(err, scaleout.ErrNoCitus) {
		t.Errorf("plan: %v", err)
	}
	tell := func(step scaleout.Step, _ time.Duration) { t.Errorf("it did %s", step.Name) }
	if err := s.Apply(ctx, tell); !errors.Is(err, scaleout.ErrNoCitus) {
		t.Errorf("apply: %v", err)
	}
	if err := s.Undo(ctx, tell); !errors.Is(err, scaleout.ErrNoCitus) {
		t.Errorf("undo: %v", err)
	}
	empty := scaleout.New(pgtest.Open(t, pgtest.EmptyURL(t)), scaleout.Options{})
	for name, err := range map[string]error{"status": second(empty.Status(ctx)), "plan": second(empty.Plan(ctx)), "apply": empty.Apply(ctx, tell)} {
		if err == nil || !strings.Contains(err.Error(), "keyledger migrate up") {
			t.Errorf("%s of an empty database: %v", name, err)
		}
	}
	if after := schema(); after != before {
		t.Errorf("the schema was\n%s\nand is\n%s", before, after)
	}
}

// Guarantee: a password may have any character, within a body between dollars too.
func TestQuote(t *testing.T) {
	d := pgtest.New(t)
	for _, text := range []string{"", "plain", `o'clock`, `back\slash`, "$step$", `$$ \' ''; DROP TABLE x; --`, "ü\n"} {
		if got := pgtest.Scan[string](t, d, "SELECT "+scaleout.Quote(text)); got != text {
			t.Errorf("%q became %q", text, got)
		}
		if err := d.Exec(context.Background(), "DO $step$ BEGIN PERFORM "+scaleout.Quote(text)+"; END $step$"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
