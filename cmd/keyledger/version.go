package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/migrations"
)

// Set by the linker: -X main.version=… -X main.commit=….
var (
	version = "dev"
	commit  = ""
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit, Go and schema", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "keyledger %s\ncommit    %s\ngo        %s %s/%s\nschema    %d\n",
				version, commitHash(), runtime.Version(), runtime.GOOS, runtime.GOARCH, migrations.Needed())
			return err
		},
	}
}

// commitHash is what the linker was told, else what Go noted of the checkout.
func commitHash() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
