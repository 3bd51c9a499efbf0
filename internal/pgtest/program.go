package pgtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Program is one of PostgreSQL's programs beside the server, such as pg_dump, for the server at a
// URL: from KEYLEDGER_PG_BIN, or from the path. They refuse a server that is newer than they are.
// Where there is none but such a one, the test is skipped and says so: nothing about it has failed.
func Program(t testing.TB, url, name string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("asking a server for its version: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var server int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int / 10000").Scan(&server); err != nil {
		t.Fatalf("asking a server for its version: %v", err)
	}
	beside := filepath.Join(os.Getenv("KEYLEDGER_PG_BIN"), name)
	if _, err := os.Stat(beside); os.Getenv("KEYLEDGER_PG_BIN") != "" && err == nil {
		return beside
	}
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v (make test installs it)", err)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", name, err)
	}
	found := regexp.MustCompile(`\d+`).Find(out)
	if major, err := strconv.Atoi(string(found)); err != nil || major < server {
		t.Skipf("%s is of PostgreSQL %s and cannot be used with PostgreSQL %d: put that of %d into KEYLEDGER_PG_BIN", name, found, server, server)
	}
	return program
}
