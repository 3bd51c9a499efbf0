// Command keyledger issues API keys for LLM relays, decides whether they may go
// on, and keeps the ledger of what they used.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // zones, for machines and containers that have none

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/internal/fault"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a command that was called wrongly.
type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand() //nolint:contextcheck // commands get their context when they run
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "keyledger:", inWords(err))
	var wrong usageError
	if errors.As(err, &wrong) || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") {
		fmt.Fprintf(stderr, "See: %s --help\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailure
}

// inWords leaves out of an error what is for logs.
func inWords(err error) string {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err.Error()
	}
	text := f.Message
	for _, field := range f.Fields {
		text += "\n  " + field.Field + " " + field.Message
	}
	if cause := errors.Unwrap(f); cause != nil {
		text += "\n  " + cause.Error()
	}
	return text
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyledger",
		Short: "API keys, limits and an exact usage ledger for LLM relays",
		Long: `keyledger issues API keys for LLM relays and gateways, decides on every request
whether a key may go on, and keeps an exact ledger of what each key used.

Start with:  keyledger dev`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(devCommand(), serveCommand(), relayCommand(), migrateCommand(), scaleOutCommand(), tokensCommand(),
		keysCommand(), usageCommand(), reportsCommand(), pricesCommand(), webhooksCommand(), expireCommand(), importCommand(), healthCommand(), benchCommand(), versionCommand())
	eachCommand(root, func(c *cobra.Command) {
		if check := c.Args; check != nil {
			c.Args = func(c *cobra.Command, args []string) error {
				if err := check(c, args); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
		if c.RunE == nil && c.HasSubCommands() && c != root {
			c.RunE = func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())}
				}
				return usageError{errors.New("which one? " + strings.Join(names(c), ", "))}
			}
		}
	})
	return root
}

func eachCommand(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		eachCommand(sub, do)
	}
}

func names(c *cobra.Command) (all []string) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, sub.Name())
		}
	}
	return all
}
