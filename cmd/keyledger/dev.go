package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/pgdev"
	"github.com/keyledger/keyledger/migrations"
)

const devDatabase = "keyledger"

func devCommand() *cobra.Command {
	var addr, dir string
	c := &cobra.Command{
		Use: "dev", Short: "Run everything on this machine with no set-up", Args: cobra.NoArgs,
		Long: `Runs a private, durable PostgreSQL in a directory of its own, brings its schema up, makes an
admin token at the first start, and serves. Ctrl-C stops both; the next start goes on where it
stopped. The settings of "keyledger serve" hold here too.`,
		RunE: func(c *cobra.Command, _ []string) error { return dev(c.Context(), c, addr, dir) },
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:8080", "address of the REST API")
	c.Flags().StringVar(&dir, "data-dir", defaultDataDir(), "where keys, ledger and all else are kept")
	return c
}

// defaultDataDir is where a user's data belongs; root's lies where PostgreSQL's
// own user can enter.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/keyledger"
	}
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "keyledger")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "keyledger-data"
	}
	return filepath.Join(home, ".local", "share", "keyledger")
}

func dev(ctx context.Context, c *cobra.Command, addr, dir string) error {
	// The port first: that it is taken should not take a database to find out.
	probe, err := listen(ctx, addr)
	if err != nil {
		return fmt.Errorf("%w\nChoose another with --addr, for example --addr 127.0.0.1:8081", err)
	}
	_ = probe.Close()
	fmt.Fprintln(c.ErrOrStderr(), "starting PostgreSQL in", dir)
	cluster, err := pgdev.Start(ctx, pgdev.Options{Dir: dir})
	if err != nil {
		return err
	}
	err = devOn(ctx, c, cluster, addr, dir)
	return errors.Join(err, cluster.Stop())
}

func devOn(ctx context.Context, c *cobra.Command, cluster *pgdev.Cluster, addr, dir string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-cluster.Done():
			cancel(fmt.Errorf("PostgreSQL ended unexpectedly: see %s", filepath.Join(dir, "postgres.log")))
		case <-ctx.Done():
		}
	}()
	if err := cluster.EnsureDatabase(ctx, devDatabase); err != nil {
		return err
	}
	url := cluster.URL(devDatabase)
	m, err := migrations.Open(url)
	if err != nil {
		return err
	}
	_, err = m.Up(ctx)
	_ = m.Close()
	if err != nil {
		return err
	}
	cfg, err := devConfig(url, addr, dir)
	if err != nil {
		return err
	}
	stop, err := trace(ctx, cfg.Tracing, "keyledger")
	if err != nil {
		return err
	}
	defer stop()
	bootstrap := cfg.Bootstrap
	cfg.Bootstrap = "" // stored below, when nothing can go wrong any more before it is shown
	s, err := start(ctx, cfg, newLogger(cfg, c.ErrOrStderr()))
	if err != nil {
		return err
	}
	token, err := devToken(ctx, s.db, bootstrap)
	if err != nil {
		s.close()
		return err
	}
	announce(c, s, url, token, bootstrap != "")
	if err := s.run(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// devConfig is the environment's configuration with what dev provides itself.
func devConfig(url, addr, dir string) (config.Loaded, error) {
	peppers, err := devPeppers(dir)
	if err != nil {
		return config.Loaded{}, err
	}
	environ := os.Environ()
	preset := func(name, value string) {
		if os.Getenv(config.Prefix+name) == "" {
			environ = append(environ, config.Prefix+name+"="+value)
		}
	}
	preset("METRICS_ADDR", "127.0.0.1:0")
	preset("AUTHZ_ADDR", "127.0.0.1:0")
	preset("LOG_FORMAT", "text")
	if os.Getenv(config.Prefix+"UPSTREAMS_FILE") != "" {
		preset("RELAY_ADDR", "127.0.0.1:8082")
		preset("SPOOL_DIR", filepath.Join(dir, "spool"))
	}
	if os.Getenv(config.Prefix+"PEPPERS_FILE") == "" {
		preset("PEPPERS", peppers)
	}
	environ = append(environ, "DATABASE_URL="+url, config.Prefix+"LISTEN_URL=", config.Prefix+"ADDR="+addr)
	cfg, err := config.Load(environ)
	if err != nil {
		return cfg, fmt.Errorf("the configuration is wrong:\n%w", err)
	}
	return cfg, nil
}

// devPeppers makes a pepper at the first start and keeps it beside the data.
func devPeppers(dir string) (string, error) {
	file := filepath.Join(dir, "peppers")
	raw, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the pepper: %w", err)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	pepper := "dev:" + base64.StdEncoding.EncodeToString(secret)
	half := file + ".new"
	if err := os.WriteFile(half, []byte(pepper+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keeping the pepper: %w", err)
	}
	return pepper, os.Rename(half, file)
}

// devToken makes the first admin token; empty when there has been one before.
func devToken(ctx context.Context, d *db.DB, bootstrap string) (string, error) {
	token := bootstrap
	if token == "" {
		token = access.NewText()
	}
	made, err := access.New(d, cache.Deaf).Bootstrap(ctx, token)
	if err != nil || !made {
		return "", err
	}
	return token, nil
}

// announce prints what a person needs next, ready to be pasted.
func announce(c *cobra.Command, s *service, url, token string, bootstrap bool) {
	out := c.OutOrStdout()
	base := "http://" + s.public.Addr().String()
	fmt.Fprint(out, "\nkeyledger is running.\n")
	if s.cfg.Console != "off" {
		fmt.Fprintf(out, "console   %s   (sign in with the admin token; for key holders: %s/me)\n", base, base)
	}
	fmt.Fprintf(out, "API       %s/v1   (reference: %s/docs/)\n", base, base)
	if s.metrics != nil {
		fmt.Fprintf(out, "metrics   http://%s/metrics\n", s.metrics.Addr())
	}
	if s.grpc != nil {
		fmt.Fprintf(out, "grpc      %s   (Envoy's ext_authz and rate limit service)\n", s.grpc.Addr())
	}
	if s.authz != nil {
		fmt.Fprintf(out, "authz     http://%s/v1/authz   (for reverse proxies)\n", s.authz.Addr())
	}
	if s.relay != nil {
		fmt.Fprintf(out, "relay     http://%s   (for SDKs: see docs/relay.md)\n", s.relay.Addr())
	}
	fmt.Fprintf(out, "database  psql '%s'\n\n", url)
	switch {
	case token != "":
		fmt.Fprintf(out, "The admin token is shown this once. Paste this in another terminal:\n\nexport KEYLEDGER_URL=%s KEYLEDGER_TOKEN=%s\n\n", base, token)
	case bootstrap:
		fmt.Fprint(out, "There are tokens already, so KEYLEDGER_BOOTSTRAP_TOKEN was not needed. ")
		fallthrough
	default:
		fmt.Fprintf(out, "The admin token was shown at the first start. To make another:\n\n  DATABASE_URL='%s' %s tokens create --name me --role admin\n\n", url, os.Args[0])
		token = "$KEYLEDGER_TOKEN"
	}
	fmt.Fprintf(out, "Create a key:\n\n  curl -s %s/v1/keys -H \"Authorization: Bearer %s\" -H 'Content-Type: application/json' -d '{\"name\":\"first\"}'\n\n", base, token)
	if s.relay != nil {
		relay := "http://" + s.relay.Addr().String()
		fmt.Fprintf(out, "Point a client at the relay, with that key in the place of the provider's:\n\n  ANTHROPIC_BASE_URL=%s ANTHROPIC_API_KEY=cr_... claude\n  OPENAI_BASE_URL=%s/v1 OPENAI_API_KEY=cr_...\n  GOOGLE_GEMINI_BASE_URL=%s GEMINI_API_KEY=cr_... gemini\n\n", relay, relay, relay)
	}
	fmt.Fprint(out, "Ctrl-C stops it.\n")
}
