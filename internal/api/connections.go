package api

import (
	"net"
	"net/netip"
	"sync"
)

// PerAddress is a listener that closes connections of an address that has most of them
// open already. Trusted networks, of proxies, are not counted; most 0 bounds nobody.
func PerAddress(l net.Listener, most int, trusted []netip.Prefix) net.Listener {
	if most <= 0 {
		return l
	}
	return &perAddress{Listener: l, most: most, trusted: trusted, open: map[netip.Addr]int{}}
}

type perAddress struct {
	net.Listener

	most    int
	trusted []netip.Prefix
	mu      sync.Mutex
	open    map[netip.Addr]int
}

// Accept is the next connection of an address that may have one more.
func (l *perAddress) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			// So a client that reads nothing is noticed after a few answers, not after
			// the megabytes that the system would take for it.
			_ = tcp.SetWriteBuffer(sendBuffer)
		}
		remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil { // no TCP: nothing to tell clients apart by
			return conn, nil //nolint:nilerr // which is no failure
		}
		if l.trusts(remote.Addr().Unmap().WithZone("")) {
			return conn, nil
		}
		client := clientOf(remote.Addr())
		if l.take(client) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.give(client) })}, nil
		}
		_ = conn.Close() // it has most already
	}
}

// clientOf is what an address is counted by. A client that has one address of an IPv6 network
// has all of them, so the first address of the network stands for each.
func clientOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}

func (l *perAddress) trusts(addr netip.Addr) bool {
	for _, network := range l.trusted {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

func (l *perAddress) take(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[addr] >= l.most {
		return false
	}
	l.open[addr]++
	return true
}

func (l *perAddress) give(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[addr]--; l.open[addr] == 0 {
		delete(l.open, addr)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn

	leave func()
}

// Close closes the connection.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
