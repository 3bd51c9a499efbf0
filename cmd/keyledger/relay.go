package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/metrics"
	"github.com/keyledger/keyledger/relay"
)

func relayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "relay", Short: "Run the relay beside a service elsewhere", Args: cobra.NoArgs,
		Long: `Runs the relay: clients of Claude, OpenAI and Gemini change their base URL and their key, and each
request is admitted, forwarded with an upstream account, and recorded. It asks the service at
KEYLEDGER_URL; "keyledger serve" with KEYLEDGER_RELAY_ADDR runs the same relay in its own process.
It is configured by environment variables only:

` + helpOf(config.RelayVariables()),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.LoadRelay(os.Environ())
			if err != nil {
				return fmt.Errorf("the configuration is wrong:\n%w", err)
			}
			log := logger(cfg.LogLevel, cfg.LogFormat, c.ErrOrStderr())
			boundMemory(0, log)
			stop, err := trace(c.Context(), cfg.Tracing, "keyledger-relay")
			if err != nil {
				return err
			}
			defer stop()
			ledger, err := relay.Remote(cfg.URL, cfg.Token)
			if err != nil {
				return err
			}
			return relayAlone(c.Context(), cfg, ledger, log)
		},
	}
}

// relayAlone runs a relay and its metrics until ctx ends.
func relayAlone(ctx context.Context, cfg config.RelayAlone, ledger relay.Ledger, log *slog.Logger) error {
	m := metrics.New()
	r, err := openRelay(ctx, cfg.Relay, ledger, m.Registry(), log)
	if err != nil {
		return err
	}
	failed := make(chan error, 2) //nolint:mnd // one for each listener
	if cfg.MetricsAddr != "off" {
		l, err := listen(ctx, cfg.MetricsAddr)
		if err != nil {
			return errors.Join(err, r.close(ctx))
		}
		server := &http.Server{Handler: m.Handler(), ReadHeaderTimeout: relayHeaderTimeout}
		defer func() { _ = server.Close() }()
		go func() { failed <- server.Serve(l) }()
	}
	go func() { failed <- r.server.Serve(r.Listener) }()
	log.Info("relaying", "addr", r.Addr().String(), "service", cfg.URL, "version", version)
	select {
	case <-ctx.Done():
		log.Info("stopping: answers under way are finished first")
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	return errors.Join(err, r.close(ctx))
}

// relayListener is the relay with its listener.
type relayListener struct {
	listener

	relay *relay.Relay
}

// relayState tells the API how the relay in this process is.
func (s *service) relayState() api.RelayState {
	answer := api.RelayState{Accounts: []api.RelayAccount{}}
	if s.relay == nil {
		return answer
	}
	state := s.relay.relay.State()
	answer.Running, answer.UnderWay, answer.Unrecorded = true, state.UnderWay, state.Unrecorded
	for _, a := range state.Accounts {
		answer.Accounts = append(answer.Accounts, api.RelayAccount{ID: a.ID, Service: a.Service, UnderWay: a.UnderWay, Served: a.Served,
			Resting: a.RestsUntil != nil, RestsUntil: wire.AtOrNil(a.RestsUntil), Reason: a.Reason, Detail: a.Detail,
			FirstByteMs: api.Quantiles{P50: a.FirstByte.P50.Milliseconds(), P95: a.FirstByte.P95.Milliseconds(), Of: a.FirstByte.Of}})
	}
	return answer
}

// relayHeaderTimeout is how long a client may take to send the headers of a request.
const relayHeaderTimeout = 10 * time.Second

// openRelay opens the relay's listener, its journal and its accounts.
func openRelay(ctx context.Context, cfg config.Relay, ledger relay.Ledger, registry prometheus.Registerer, log *slog.Logger) (*relayListener, error) {
	upstreams, err := relay.ReadUpstreams(cfg.UpstreamsFile, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("%sUPSTREAMS_FILE: %w", config.Prefix, err)
	}
	l, err := listen(ctx, cfg.RelayAddr)
	if err != nil {
		return nil, err
	}
	r, err := relay.New(relay.Config{ //nolint:contextcheck // it ends by Close
		Ledger: ledger, Upstreams: upstreams, SpoolDir: cfg.SpoolDir, OnDisconnect: cfg.OnDisconnect, IdleTimeout: cfg.IdleTimeout, Log: log, Metrics: registry,
	})
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	// Bodies and answers have times of their own: an answer may take as long as it flows.
	server := &http.Server{
		Handler: r, ReadHeaderTimeout: relayHeaderTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, //nolint:mnd // as proxies have it
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return &relayListener{listener{l, server}, r}, nil
}

// close lets answers under way finish, and then those that are read on for clients that have
// gone, as long as a stop may take. What is open then is settled at the next start.
func (r *relayListener) close(ctx context.Context) error {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	err := r.server.Shutdown(grace)
	if err != nil {
		err = r.server.Close()
	}
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer stop()
	return errors.Join(err, r.relay.Close(closing))
}

// helpOf lists variables for people.
func helpOf(all []config.Variable) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, v := range all {
		if v.Default != "" {
			v.Description += " Default: " + v.Default
		}
		fmt.Fprintf(w, "  %s\t%s\n", v.Name, v.Description)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return text.String()
}
