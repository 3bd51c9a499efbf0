package alert

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// guard decides which addresses webhooks may be at: those of the internet, and the networks
// that the operator names. Names are looked up by whoever connects, so the address is judged
// when it is connected to, whatever the name meant before.
type guard struct {
	allowed []netip.Prefix
}

// closed are networks that are not the internet's, beside those that netip knows.
// Source: https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's own, from within a machine
}

var errClosed = errors.New("leads to an address that is not open to all: name its network in KEYLEDGER_WEBHOOK_NETWORKS if that is meant")

// allows is nil for an address that may be connected to.
func (g guard) allows(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	for _, network := range g.allowed {
		if network.Contains(ip) {
			return nil
		}
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return errClosed
	}
	for _, network := range closed {
		if network.Contains(ip) {
			return errClosed
		}
	}
	return nil
}

// control is asked by a dialer just before it connects, with the address that it has looked up.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connecting to %q: %w", address, err)
	}
	return g.allows(to.Addr())
}
