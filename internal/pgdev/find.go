package pgdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// MinMajor is the oldest PostgreSQL that keyledger works on.
const MinMajor = 15

// install is a folder with PostgreSQL's server programs.
type install struct {
	bin   string
	major int
}

// find returns the newest suitable PostgreSQL on this machine. With wantMajor
// not 0 it must be of just that major version, as an existing data directory
// needs.
func find(ctx context.Context, wantMajor int) (install, error) {
	found := installs(ctx)
	sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
	for _, in := range found {
		if wantMajor == 0 && in.major >= MinMajor || wantMajor != 0 && in.major == wantMajor {
			return in, nil
		}
	}
	switch {
	case len(found) == 0:
		return install{}, fmt.Errorf("PostgreSQL was not found on this machine; keyledger needs %d or newer. Install it with: %s", MinMajor, installCommand())
	case wantMajor != 0:
		return install{}, fmt.Errorf("the data directory was made by PostgreSQL %d, but only %s is here: install PostgreSQL %d, or name another data directory", wantMajor, list(found), wantMajor)
	default:
		return install{}, fmt.Errorf("only %s was found; keyledger needs PostgreSQL %d or newer. Install it with: %s", list(found), MinMajor, installCommand())
	}
}

func list(found []install) string {
	var texts []string
	for _, in := range found {
		texts = append(texts, fmt.Sprintf("PostgreSQL %d (%s)", in.major, in.bin))
	}
	return strings.Join(texts, ", ")
}

// installs looks where PostgreSQL's programs usually lie. KEYLEDGER_PG_BIN, when
// set, is the only place.
func installs(ctx context.Context) (found []install) {
	if bin := os.Getenv("KEYLEDGER_PG_BIN"); bin != "" {
		if major, err := majorOf(ctx, bin); err == nil {
			found = append(found, install{bin, major})
		}
		return found
	}
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		matches, _ := filepath.Glob(pattern) // the patterns are well-formed
		dirs = append(dirs, matches...)
	}
	for i, dir := range dirs {
		if slices.Contains(dirs[:i], dir) {
			continue
		}
		if major, err := majorOf(ctx, dir); err == nil {
			found = append(found, install{dir, major})
		}
	}
	return found
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func majorOf(ctx context.Context, bin string) (int, error) {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil { //nolint:gosec // where an operator says PostgreSQL is
		return 0, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output() //nolint:gosec // what an operator names is run
	if err != nil {
		return 0, err
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, errors.New("no version in what postgres --version says")
	}
	return strconv.Atoi(string(m[1]))
}

// installCommand is the one command that installs PostgreSQL on this system.
func installCommand() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	for _, way := range []struct{ file, command string }{
		{"/etc/debian_version", "sudo apt-get install -y postgresql"},
		{"/etc/fedora-release", "sudo dnf install -y postgresql-server"},
		{"/etc/redhat-release", "sudo dnf install -y postgresql-server"},
		{"/etc/arch-release", "sudo pacman -S postgresql"},
		{"/etc/alpine-release", "sudo apk add postgresql"},
	} {
		if _, err := os.Stat(way.file); err == nil {
			return way.command
		}
	}
	return "your system's package manager (package postgresql), or set KEYLEDGER_PG_BIN to the folder that holds initdb and postgres"
}
