package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/cache"
)

func tokensCommand() *cobra.Command {
	c := &cobra.Command{Use: "tokens", Short: "Access tokens, straight on DATABASE_URL",
		Long: "Access tokens for the REST API. These commands work on the database itself: they are the\nway in when no token is left."}
	c.AddCommand(tokensCreate(), tokensList(), tokensRevoke())
	return c
}

// openTokens opens DATABASE_URL for one command.
func openTokens(c *cobra.Command) (*access.Tokens, func(), error) {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return nil, nil, errors.New("DATABASE_URL is required (keyledger dev prints its own)")
	}
	d, err := db.Open(c.Context(), url, 2)
	if err != nil {
		return nil, nil, err
	}
	return access.New(d, cache.Deaf), d.Close, nil
}

func tokensCreate() *cobra.Command {
	var name, role, expires string
	c := &cobra.Command{Use: "create", Short: "Issue a token; it is shown this once", Args: cobra.NoArgs,
		Example: "  keyledger tokens create --name relay-1 --role relay",
		RunE: func(c *cobra.Command, _ []string) error {
			end, err := parseTime(expires)
			if err != nil {
				return usageError{fmt.Errorf("--expires: %w", err)}
			}
			tokens, done, err := openTokens(c)
			if err != nil {
				return err
			}
			defer done()
			text, row, err := tokens.Create(c.Context(), db.Actor{Name: "cli"}, name, access.Role(role), end)
			if err != nil {
				return db.Fault(err)
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s token %q, id %s. It is shown this once:\n", row.Role, row.Name, row.ID)
			fmt.Fprintln(c.OutOrStdout(), text)
			return nil
		}}
	c.Flags().StringVar(&name, "name", "", "who or what holds it (required)")
	c.Flags().StringVar(&role, "role", "", "admin, relay or reader (required)")
	c.Flags().StringVar(&expires, "expires", "", "end, as RFC 3339 or a duration from now like 720h")
	_ = c.MarkFlagRequired("name")
	_ = c.MarkFlagRequired("role")
	return c
}

func tokensList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List all tokens ever issued", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			tokens, done, err := openTokens(c)
			if err != nil {
				return err
			}
			defer done()
			rows, err := tokens.List(c.Context())
			if err != nil {
				return db.Fault(err)
			}
			t := newTable(c.OutOrStdout(), "ID", "NAME", "ROLE", "HINT", "CREATED", "EXPIRES", "REVOKED")
			for _, r := range rows {
				t.row(r.ID, r.Name, r.Role, r.Hint, r.CreatedAt, r.ExpiresAt, r.RevokedAt)
			}
			return t.flush()
		}}
}

func tokensRevoke() *cobra.Command {
	return &cobra.Command{Use: "revoke ID|NAME", Short: "Revoke a token at once", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			tokens, done, err := openTokens(c)
			if err != nil {
				return err
			}
			defer done()
			row, err := tokens.Revoke(c.Context(), db.Actor{Name: "cli"}, args[0])
			if err != nil {
				return db.Fault(err)
			}
			fmt.Fprintf(c.OutOrStdout(), "revoked %s token %q (%s)\n", row.Role, row.Name, row.ID)
			return nil
		}}
}

// parseTime reads an instant, or a duration from now; empty is nil.
func parseTime(text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		t := time.Now().Add(d)
		return &t, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an RFC 3339 time like 2026-12-31T23:59:59Z nor a duration like 720h", text)
	}
	return &t, nil
}
