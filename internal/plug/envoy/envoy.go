// Package envoy speaks two of Envoy's protocols, which agentgateway, kgateway and others speak
// too: external authorization, which admits a request before it goes on, and the rate limit
// service, which admits and settles. Both are edges over the same decision and the same ledger.
//
// Sources: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto,
// https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
package envoy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/plug/proxied"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

// Options make a Server. All must be set, but that MaxInFlight 0 is no bound, and TLS nil is none.
type Options struct {
	Verifier    *verify.Verifier
	Decider     *admit.Decider
	Recorder    *usage.Recorder
	Log         *slog.Logger
	LeaseTTL    time.Duration // of admissions by the rate limit service
	MaxInFlight int64         // streams of one connection that are worked on at once
	TLS         *tls.Config
}

// Bounds of what a client may take.
const (
	callTimeout = 15 * time.Second
	maxMessage  = 16 << 20         // bytes: a request's body may be forwarded
	idle        = 5 * time.Minute  // of a connection without a call
	ping        = 30 * time.Second // of a silent connection, so that one that is half open is found
)

// Server answers both protocols, the standard health service and reflection.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a Server.
func New(o Options) *Server {
	guard := &guard{o.Log}
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(guard.unary), grpc.MaxRecvMsgSize(maxMessage), grpc.ConnectionTimeout(callTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idle, Time: ping, Timeout: callTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: ping / 6, PermitWithoutStream: true}),
	}
	if o.MaxInFlight > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(min(o.MaxInFlight, 1<<20))))
	}
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	s := &Server{grpc: grpc.NewServer(options...), health: health.NewServer()}
	authv3.RegisterAuthorizationServer(s.grpc, &authorization{Options: o})
	ratelimitv3.RegisterRateLimitServiceServer(s.grpc, &rateLimit{Options: o})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// Serve answers until Shutdown.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Shutdown lets calls under way finish, and says meanwhile that it is going.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends all calls.
func (s *Server) Close() error {
	s.grpc.Stop()
	return nil
}

// guard gives each call its time, and turns errors into the codes that proxies know.
type guard struct{ log *slog.Logger }

func (g *guard) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer func() {
		if p := recover(); p != nil { // its value could hold anything, a secret too
			g.log.ErrorContext(ctx, "panic in a call", "method", info.FullMethod, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "Something went wrong in the service.")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if answer, err = next(ctx, request); err == nil {
		return answer, nil
	}
	if _, told := status.FromError(err); told {
		return nil, err
	}
	if errors.Is(err, coalesce.ErrFull) || errors.Is(err, coalesce.ErrClosed) {
		return nil, status.Error(codes.Unavailable, "The service is at its capacity. Try again.")
	}
	f := db.Fault(err)
	switch f.Code { //nolint:exhaustive // the others are failures of ours
	case fault.Invalid:
		message := f.Message
		for _, wrong := range f.Fields {
			message += " " + wrong.Field + " " + wrong.Message + "."
		}
		return nil, status.Error(codes.InvalidArgument, message)
	case fault.Unavailable:
		g.log.ErrorContext(ctx, "call failed", "method", info.FullMethod, "error", err)
		return nil, status.Error(codes.Unavailable, f.Message)
	}
	g.log.ErrorContext(ctx, "call failed", "method", info.FullMethod, "error", err)
	return nil, status.Error(codes.Internal, "Something went wrong in the service.")
}

// setHeaders are headers as Envoy sets them: in the place of those that are there.
func setHeaders(h http.Header) (all []*corev3.HeaderValueOption) {
	for name, values := range h {
		all = append(all, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, Value: values[0]},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return all
}

// refusal is what a client gets of a decision against it.
func refusal(d admit.Decision, window int32) (httpStatus int, headers http.Header, body []byte, err error) {
	httpStatus, headers = proxied.StatusOf(d), proxied.Refused(d)
	for name, values := range proxied.RateLimit(d, window) {
		headers[name] = values
	}
	headers.Set("Content-Type", proxied.ProblemJSON)
	body, err = json.Marshal(proxied.ProblemOf(d, httpStatus, uuid.NewString()))
	return httpStatus, headers, body, err
}
