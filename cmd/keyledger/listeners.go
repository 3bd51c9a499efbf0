package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// listener is an address with what answers there.
type listener struct {
	net.Listener

	server server
}

// server is what answers on a listener: HTTP's, or gRPC's.
type server interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (is it in use?): %w", addr, err)
	}
	return l, nil
}

// beside opens one of the listeners beside the public one; nil when it is off.
func beside(ctx context.Context, addr string, by server) (*listener, error) {
	if addr == "off" {
		return nil, nil
	}
	l, err := listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &listener{l, by}, nil
}

// listeners are all that are open.
func (s *service) listeners() (open []*listener) {
	for _, l := range []*listener{&s.public, s.authz, s.metrics, s.grpc} {
		if l != nil && l.Listener != nil {
			open = append(open, l)
		}
	}
	if s.relay != nil {
		open = append(open, &s.relay.listener)
	}
	return open
}

// shutListeners lets requests under way finish, on all listeners at once, and ends those
// that take too long.
func (s *service) shutListeners(ctx context.Context) error {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	var all sync.WaitGroup
	failed := make([]error, len(s.listeners()))
	for i, l := range s.listeners() {
		all.Go(func() {
			if failed[i] = l.server.Shutdown(grace); failed[i] != nil {
				_ = l.server.Close()
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}
