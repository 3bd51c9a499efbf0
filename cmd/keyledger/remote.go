package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
)

// remote is the service that a command speaks to.
type remote struct{ *client.ClientWithResponses }

// connect makes a client from KEYLEDGER_URL and KEYLEDGER_TOKEN.
func connect() (remote, error) {
	url, token := os.Getenv("KEYLEDGER_URL"), os.Getenv("KEYLEDGER_TOKEN")
	if url == "" || token == "" {
		return remote{}, errors.New("KEYLEDGER_URL and KEYLEDGER_TOKEN must be set (keyledger dev prints both)")
	}
	c, err := client.New(url, token)
	return remote{c}, err
}

// find is the id of the key that a person means: its id, or its exact name if
// only one key has it.
func (r remote) find(ctx context.Context, idOrName string) (uuid.UUID, error) {
	if id, err := uuid.Parse(idOrName); err == nil {
		return id, nil
	}
	var found []client.KeyDetails
	for _, status := range []*client.KeyStatus{nil, ptr(client.Deleted)} {
		for cursor := ""; ; {
			page, err := r.ListKeysWithResponse(ctx, &client.ListKeysParams{Q: &idOrName, Status: status, Limit: ptr(200), Cursor: &cursor})
			if err != nil {
				return uuid.Nil, err
			}
			for _, k := range page.JSON200.Data {
				if k.Name == idOrName {
					found = append(found, k)
				}
			}
			if cursor = page.JSON200.NextCursor; cursor == "" {
				break
			}
		}
		if len(found) > 0 {
			break // live keys come before deleted ones
		}
	}
	switch len(found) {
	case 0:
		return uuid.Nil, fmt.Errorf("no key has the id or name %q", idOrName)
	case 1:
		return found[0].ID, nil
	}
	return uuid.Nil, fmt.Errorf("%d keys are named %q: use an id", len(found), idOrName)
}

func ptr[T any](v T) *T { return &v }

// orNil is nil for an empty text: a flag that was not given.
func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// wantsJSON adds --json to a command and tells whether it was given.
func wantsJSON(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print the service's answer as JSON, for scripts")
}

// remoteCommand is a command that speaks to the service.
func remoteCommand(use, short string, args cobra.PositionalArgs, do func(c *cobra.Command, r remote, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(c *cobra.Command, args []string) error {
		r, err := connect()
		if err != nil {
			return err
		}
		return do(c, r, args)
	}}
}
