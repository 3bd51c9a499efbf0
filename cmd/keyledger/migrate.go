package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/migrations"
)

func migrateCommand() *cobra.Command {
	c := &cobra.Command{Use: "migrate", Short: "Bring the database's schema up to this version",
		Long: "Works on KEYLEDGER_LISTEN_URL, or on DATABASE_URL where that is not set: it needs a direct connection."}
	sub := func(use, short string, do func(c *cobra.Command, m *migrations.Migrator) error) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			url := config.MigrationURL(os.Getenv)
			if url == "" {
				return errors.New("DATABASE_URL is required")
			}
			m, err := migrations.Open(url)
			if err != nil {
				return err
			}
			defer func() { _ = m.Close() }()
			m.Notice = func(text string) { fmt.Fprintln(c.ErrOrStderr(), "note:", text) }
			return do(c, m)
		}})
	}
	sub("up", "Apply every pending migration", migrateUp)
	sub("down", "Take the latest migration back", migrateDown)
	sub("status", "List migrations and when they were applied", migrateStatus)
	sub("check", "Exit 1 when a migration is pending", migrateCheck)
	return c
}

func migrateUp(c *cobra.Command, m *migrations.Migrator) error {
	done, err := m.Up(c.Context())
	if err != nil {
		return err
	}
	for _, step := range done {
		fmt.Fprintln(c.OutOrStdout(), "applied", step.Name)
	}
	if len(done) == 0 {
		fmt.Fprintln(c.OutOrStdout(), "nothing to do: the schema is up to date")
	}
	return nil
}

func migrateDown(c *cobra.Command, m *migrations.Migrator) error {
	done, err := m.Down(c.Context())
	if err != nil {
		return err
	}
	for _, step := range done {
		fmt.Fprintln(c.OutOrStdout(), "took back", step.Name)
	}
	if len(done) == 0 {
		fmt.Fprintln(c.OutOrStdout(), "nothing to do: no migration is applied")
	}
	return nil
}

func migrateStatus(c *cobra.Command, m *migrations.Migrator) error {
	steps, err := m.Status(c.Context())
	if err != nil {
		return err
	}
	t := newTable(c.OutOrStdout(), "VERSION", "MIGRATION", "APPLIED")
	for _, step := range steps {
		applied := "pending"
		if step.Applied != nil {
			applied = step.Applied.UTC().Format(timeLayout)
		}
		t.row(step.Version, step.Name, applied)
	}
	return t.flush()
}

func migrateCheck(c *cobra.Command, m *migrations.Migrator) error {
	current, needed, err := m.Versions(c.Context())
	if err != nil {
		return err
	}
	if current < needed {
		return fmt.Errorf("the schema is at %d and this version needs %d. Run: keyledger migrate up", current, needed)
	}
	fmt.Fprintf(c.OutOrStdout(), "up to date: the schema is at %d\n", current)
	return nil
}
