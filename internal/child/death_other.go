//go:build !linux

package child

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func dieWithParent(*syscall.SysProcAttr) {}

// watchParent leaves a small shell behind that ends the child within a second of
// our death: other systems have no signal for it.
func watchParent(pid int) {
	watch := exec.Command("sh", "-c", `while kill -0 "$1" 2>/dev/null && kill -0 "$2" 2>/dev/null; do sleep 1; done; kill -QUIT "$2"`,
		"sh", strconv.Itoa(os.Getpid()), strconv.Itoa(pid))
	watch.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if watch.Start() == nil {
		go func() { _ = watch.Wait() }()
	}
}
