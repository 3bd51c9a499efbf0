package pgdev

import (
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process that does not outlive this one.
type child struct {
	pid  int
	done chan struct{} // closed when it has ended
}

// spawn starts a child in a process group of its own, so that Ctrl-C reaches
// only us, and with the death of its parent as its own end. Linux ties that to
// the thread that started it, so one is kept for as long as the child lives.
func spawn(cmd *exec.Cmd, as *user) (*child, error) {
	c := &child{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		cmd.SysProcAttr = as.attributes()
		dieWithParent(cmd.SysProcAttr)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.pid = cmd.Process.Pid
		watchParent(c.pid)
		started <- nil
		_ = cmd.Wait() // how it ended is in its log
		close(c.done)
	}()
	return c, <-started
}

func (c *child) signal(s syscall.Signal) error {
	select {
	case <-c.done:
		return nil
	default:
		return syscall.Kill(c.pid, s)
	}
}
