package child

import "syscall"

// dieWithParent has the kernel send SIGQUIT when the parent dies, however it dies: to
// PostgreSQL that is an immediate shutdown.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }

func watchParent(int) {}
