package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/bench"
	"github.com/keyledger/keyledger/internal/mockupstream"
)

func benchCommand() *cobra.Command {
	o := bench.Options{Version: version}
	var full, asJSON bool
	var limit time.Duration
	c := &cobra.Command{
		Use: "bench", Short: "Measure this binary on this machine, on a PostgreSQL of its own", Args: cobra.NoArgs,
		Long: "Measures this binary over HTTP, side by side with what it is held against, on a\nPostgreSQL of its own that is thrown away. Every answer is checked, and at the end\nthe ledger is held against what clients were told. The exit code is 1 when an answer\nwas wrong or usage was lost or doubled; a number below the bar is shown, and is none.",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			for _, name := range o.Only {
				if !slices.Contains(bench.Names(), name) {
					return usageError{fmt.Errorf("--only %s is none of %s", name, strings.Join(bench.Names(), ", "))}
				}
			}
			if o.Keys < 100 || o.BigKeys < 100 || o.Ledger < 0 || o.BigLedger < 0 || o.Tail < 1 || o.LongChunk < 1 || o.Rounds < 1 || o.Round < time.Second {
				return usageError{errors.New("--keys and --big-keys must be at least 100, --ledger and --big-ledger not negative, --tail and --long-chunk at least 1, --rounds at least 1, --round at least 1s")}
			}
			if o.URL != "" && len(o.Only) > 0 {
				return usageError{errors.New("--url measures P5, P9 and P18 and goes with no --only")}
			}
			if full {
				fullSize(c, &o)
			}
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			o.Progress = c.ErrOrStderr()
			ctx, cancel := context.WithTimeout(c.Context(), limit)
			defer cancel()
			report, err := bench.Run(ctx, o)
			if len(report.Results) > 0 {
				if asJSON {
					err = errors.Join(report.JSON(c.OutOrStdout()), err)
				} else {
					err = errors.Join(report.Table(c.OutOrStdout()), err)
				}
			}
			return err
		},
	}
	f := c.Flags()
	f.IntVar(&o.Keys, "keys", 100_000, "keys in the database of P1 to P8")
	f.IntVar(&o.Ledger, "ledger", 100_000, "rows of its ledger")
	f.IntVar(&o.BigKeys, "big-keys", 100_000, "keys in the database of P9 to P11")
	f.IntVar(&o.BigLedger, "big-ledger", 500_000, "rows of its ledger")
	f.IntVar(&o.Tail, "tail", 65_000, "ledger rows that the rollups of P9 lack: as many as come in an interval at the most usage that this service takes")
	f.IntVar(&o.LongChunk, "long-chunk", 100_000, "ledger rows that the roll-up of P18 adds at once")
	f.IntVar(&o.HotKeys, "hot-keys", 20_000, "keys of P10 that are used again and again")
	f.IntVar(&o.Rounds, "rounds", 3, "rounds of each pair, of which the median counts")
	f.DurationVar(&o.Round, "round", 2*time.Second, "length of each side of a round")
	f.StringSliceVar(&o.Only, "only", nil, "run these only, of "+strings.Join(bench.Names(), ", "))
	f.StringVar(&o.URL, "url", "", "measure P5, P9 and P18 on an empty database of this URL too, which is filled and, with Citus, scaled out (needs a superuser), beside a plain PostgreSQL")
	f.StringVar(&o.Dir, "dir", "", "where the database goes (default: a temporary folder)")
	f.BoolVar(&full, "full", false, "the sizes of the bar: a million keys, ten million ledger rows, five rounds of 5s")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.DurationVar(&limit, "limit", time.Hour, "give up after this time")
	c.AddCommand(bareCommand(), proxyCommand(), upstreamCommand())
	return c
}

// fullSize are the sizes of the bar, where no flag says otherwise.
func fullSize(c *cobra.Command, o *bench.Options) {
	set := func(flag string, into *int, value int) {
		if !c.Flags().Changed(flag) {
			*into = value
		}
	}
	set("ledger", &o.Ledger, 1_000_000)
	set("big-keys", &o.BigKeys, 1_000_000)
	set("big-ledger", &o.BigLedger, 10_000_000)
	set("long-chunk", &o.LongChunk, 600_000)
	set("hot-keys", &o.HotKeys, 100_000)
	set("rounds", &o.Rounds, 5)
	if !c.Flags().Changed("round") {
		o.Round = 5 * time.Second
	}
}

// upstreamCommand stands in for the providers.
func upstreamCommand() *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use: "upstream", Short: "Stand in for the providers, to try the relay without an account", Args: cobra.NoArgs,
		Long: `Answers as Anthropic, OpenAI and Gemini do, with a few words and usage that is always the same. Headers of
a request say how its answer goes, for example X-Mock-Events: 50, X-Mock-Gap: 100ms, X-Mock-Status: 429.`,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := listen(c.Context(), addr)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(c.ErrOrStderr(), nil))
			log.Info("serving", "addr", l.Addr().String(), "upstreams", "docs/examples/mock-upstreams.yaml")
			server := &http.Server{Handler: &mockupstream.Server{}, ReadHeaderTimeout: relayHeaderTimeout}
			go func() {
				<-c.Context().Done()
				_ = server.Close()
			}()
			_ = server.Serve(l) // until it is closed
			return nil
		},
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:8090", "its address")
	return c
}

// proxyCommand is the proxy that the bench compares the relay with.
func proxyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "proxy URL", Short: "Serve what the bench compares the relay with", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			to, err := url.Parse(args[0])
			if err != nil {
				return err
			}
			l, err := listen(c.Context(), "127.0.0.1:0")
			if err != nil {
				return err
			}
			slog.New(slog.NewJSONHandler(c.ErrOrStderr(), nil)).Info("serving", "addr", l.Addr().String())
			transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http says so
			transport.MaxIdleConnsPerHost = 1000
			server := &http.Server{Handler: &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: transport, FlushInterval: -1,
			}, ReadHeaderTimeout: relayHeaderTimeout}
			go func() {
				<-c.Context().Done()
				_ = server.Close()
			}()
			_ = server.Serve(l) // until it is closed
			return nil
		},
	}
}

// bareCommand is the server that the bench compares with.
func bareCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bare", Short: "Serve what the bench compares with", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := listen(c.Context(), "127.0.0.1:0")
			if err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(c.ErrOrStderr(), nil))
			log.Info("serving", "addr", l.Addr().String())
			server := api.HTTPServer(api.Bare(), log)
			go func() {
				<-c.Context().Done()
				_ = server.Close()
			}()
			_ = server.Serve(l) // until it is closed
			return nil
		},
	}
}
