package pgdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"strconv"
	"syscall"
)

// user is whom PostgreSQL runs as. It refuses to run as root, so root hands it
// to postgres, or to nobody where there is no postgres.
type user struct {
	name     string
	uid, gid uint32
	drop     bool // from root to this user
}

func serverUser() (*user, error) {
	if os.Geteuid() != 0 {
		return &user{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := osuser.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &user{name: name, uid: uint32(uid), gid: uint32(gid), drop: true}, nil
		}
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as: start keyledger as an ordinary user")
}

// attributes make a child run as the user.
func (u *user) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if u.drop {
		a.Credential = &syscall.Credential{Uid: u.uid, Gid: u.gid}
	}
	return a
}

// canEnter checks that the user can reach a directory, by trying.
func (u *user) canEnter(ctx context.Context, dir string) error {
	if !u.drop {
		return nil
	}
	cmd := exec.CommandContext(ctx, "true")
	cmd.Dir = dir
	cmd.SysProcAttr = u.attributes()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("PostgreSQL runs as user %s, who cannot enter %s: name a directory outside /root with --data-dir, for example /var/lib/keyledger", u.name, dir)
	}
	return nil
}

// makeDir makes a directory that only the user can enter.
func (u *user) makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	return u.own(dir)
}

func (u *user) own(dir string) error {
	if !u.drop {
		return nil
	}
	if err := os.Chown(dir, int(u.uid), int(u.gid)); err != nil {
		return fmt.Errorf("giving %s to user %s: %w", dir, u.name, err)
	}
	return nil
}
