// Command withdb runs another command with a private, migrated PostgreSQL, whose
// URL stands in DATABASE_URL and SQLC_DATABASE_URL. For checks that need a
// database, such as sqlc vet.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/migrations"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "withdb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("which command?")
	}
	dir, err := os.MkdirTemp("", "keyledger-withdb-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	cluster, err := pgdev.Start(ctx, pgdev.Options{Dir: filepath.Join(dir, "pg"), Volatile: true})
	if err != nil {
		return err
	}
	return errors.Join(with(ctx, cluster, args), cluster.Stop())
}

func with(ctx context.Context, cluster *pgdev.Cluster, args []string) error {
	const name = "check"
	if err := cluster.EnsureDatabase(ctx, name); err != nil {
		return err
	}
	m, err := migrations.Open(cluster.URL(name))
	if err != nil {
		return err
	}
	_, err = m.Up(ctx)
	if err := errors.Join(err, m.Close()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+cluster.URL(name), "SQLC_DATABASE_URL="+cluster.URL(name))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
