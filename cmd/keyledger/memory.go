package main

import (
	"os"
	"runtime/debug"
)

// Memory is spent to save the processor: garbage is collected when it is four times
// what is in use, but before all of it passes some 250 MB; more where more keys are
// remembered.
const (
	garbage     = 400
	memoryBase  = 180 << 20
	memoryOfKey = 700
)

// spendMemory sets up the garbage collector, unless the operator did by Go's own GOGC
// and GOMEMLIMIT.
func spendMemory(keys int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(garbage)
		debug.SetMemoryLimit(memoryBase + int64(keys)*memoryOfKey)
	}
}
