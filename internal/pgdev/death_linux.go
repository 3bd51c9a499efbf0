package pgdev

import "syscall"

// dieWithParent has the kernel send SIGQUIT, PostgreSQL's immediate shutdown,
// when the parent dies, however it dies.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }

func watchParent(int) {}
