package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func expireCommand() *cobra.Command {
	var asJSON *bool
	c := remoteCommand("expire", "Disable keys past their end now", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		resp, err := r.ExpireKeysWithResponse(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		fmt.Fprintf(c.OutOrStdout(), "%d keys disabled\n", resp.JSON200.Disabled)
		return nil
	})
	asJSON = wantsJSON(c)
	return c
}
