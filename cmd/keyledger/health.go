package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// healthCommand is for the health check of a container that has no shell.
func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Exit 0 when the service on this machine is ready", Args: cobra.NoArgs,
		Long: "Asks /readyz of the service that KEYLEDGER_ADDR (default :8080) listens on, on this machine.",
		RunE: func(c *cobra.Command, _ []string) error {
			addr := os.Getenv("KEYLEDGER_ADDR")
			if addr == "" {
				addr = ":8080"
			}
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return fmt.Errorf("KEYLEDGER_ADDR: %w", err)
			}
			return ready(c.Context(), "http://"+net.JoinHostPort("127.0.0.1", port)+"/readyz")
		},
	}
}

func ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}
