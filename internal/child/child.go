// Package child runs processes that do not outlive this one.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a running child.
type Process struct {
	pid  int
	done chan struct{}
}

// Start starts a child in a process group of its own, so that Ctrl-C reaches only
// us, and with the death of its parent, however it dies, as its own end: it gets
// SIGQUIT. Linux ties that to the thread that started it, so one is kept for as long
// as the child lives.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Setpgid = true
		dieWithParent(cmd.SysProcAttr)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		watchParent(p.pid)
		started <- nil
		_ = cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, <-started
}

// PID is the child's process id.
func (p *Process) PID() int { return p.pid }

// Done is closed when the child has ended, wanted or not.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; to one that has ended it is nothing.
func (p *Process) Signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
		return syscall.Kill(p.pid, s)
	}
}
