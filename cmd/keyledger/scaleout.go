package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/scaleout"
)

func scaleOutCommand() *cobra.Command {
	c := &cobra.Command{Use: "scale-out", Short: "Move rollups and archive to the workers of a Citus cluster, and back",
		Long: "Works on KEYLEDGER_LISTEN_URL, or on DATABASE_URL where that is not set, as a user that owns the tables:\nthe coordinator of a Citus cluster. docs/scale-out.md says when, and what it costs."}
	o := scaleout.Options{}
	sub := func(use, short string, do func(c *cobra.Command, s *scaleout.ScaleOut) error) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			if o.Shards < 1 || o.Shards > 1024 {
				return errors.New("--shards must be 1 to 1024")
			}
			url := config.MigrationURL(os.Getenv)
			if url == "" {
				return errors.New("DATABASE_URL is required")
			}
			var err error
			if o.Password, err = db.Password(url); err != nil {
				return err
			}
			d, err := db.Open(c.Context(), url, 2)
			if err != nil {
				return err
			}
			defer d.Close()
			return do(c, scaleout.New(d, o))
		}})
	}
	sub("status", "Say where the tables are, how large, and how evenly spread", scaleOutStatus)
	sub("plan", "List what apply would do, and what waits for it meanwhile", scaleOutPlan)
	sub("apply", "Do it, beside a running service; broken off, it goes on where it stopped", func(c *cobra.Command, s *scaleout.ScaleOut) error {
		done := func(step scaleout.Step) string { return "done: " + step.What }
		return scaleOutRun(c, s.Apply, done, "nothing to do: it is scaled out")
	})
	sub("undo", "Bring everything back to this server, beside a running service", func(c *cobra.Command, s *scaleout.ScaleOut) error {
		back := func(scaleout.Step) string { return "taken back" }
		return scaleOutRun(c, s.Undo, back, "nothing to do: everything is here")
	})
	flags := c.PersistentFlags()
	flags.IntVar(&o.Shards, "shards", 32, "shards a table: more than there will ever be cores on all workers is waste")
	flags.StringVar(&o.Host, "loopback-host", "", "address by which the coordinator reaches itself (default: as Citus has it)")
	flags.IntVar(&o.Port, "loopback-port", 0, "port by which it does (default: as Citus has it)")
	return c
}

func scaleOutStatus(c *cobra.Command, s *scaleout.ScaleOut) error {
	st, err := s.Status(c.Context())
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	if st.Citus == "" {
		fmt.Fprintln(out, "no Citus: everything is on this server")
	} else {
		fmt.Fprintf(out, "Citus %s, workers: %d\n", st.Citus, st.Workers)
	}
	t := newTable(out, "TABLE", "STORED", "SIZE", "SHARDS", "SMALLEST", "LARGEST")
	distributed := 0
	for _, one := range st.Tables {
		if one.Distributed {
			distributed++
			t.row(one.Name, "workers", one.Size, one.Shards, one.Least, one.Most)
		} else {
			t.row(one.Name, "here", one.Size, "-", "-", "-")
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	if distributed > 0 && !st.Whole {
		fmt.Fprintln(out, "scaled out in part, or by an earlier schema: run keyledger scale-out apply")
	}
	return nil
}

func scaleOutPlan(c *cobra.Command, s *scaleout.ScaleOut) error {
	plan, err := s.Plan(c.Context())
	if err != nil {
		return err
	}
	t := newTable(c.OutOrStdout(), "STEP", "STATE", "SIZE", "WHAT", "WAITS MEANWHILE")
	for _, one := range plan {
		state, locks := "to do", one.Locks
		if one.Done {
			state = "done"
		}
		if locks == "" {
			locks = "nothing"
		}
		size := one.Size
		if size == "" {
			size = "-"
		}
		if one.Takes >= time.Second && !one.Done {
			locks = fmt.Sprintf("for about %s: %s", one.Takes.Round(time.Second), locks)
		}
		t.row(one.Name, state, size, one.What, locks)
	}
	return t.flush()
}

// scaleOutRun runs the steps and says when each has ended.
func scaleOutRun(c *cobra.Command, run func(context.Context, func(scaleout.Step, time.Duration)) error, said func(scaleout.Step) string, nothing string) error {
	ran := false
	err := run(c.Context(), func(step scaleout.Step, took time.Duration) {
		ran = true
		fmt.Fprintf(c.OutOrStdout(), "%s: %s, in %s\n", step.Name, said(step), took.Round(time.Millisecond))
	})
	if err == nil && !ran {
		fmt.Fprintln(c.OutOrStdout(), nothing)
	}
	return err
}
