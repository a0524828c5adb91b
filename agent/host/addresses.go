package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Interface is an address of this machine and the link it is on.
type Interface struct {
	Name     string
	MTUBytes int
	Address  netip.Addr
}

// Interfaces returns the machine's global unicast addresses, as seen from the pod's network, which must be the host's. Link-local and
// loopback addresses are left out, as are those of links that are down.
func Interfaces() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []Interface
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // the link went away meanwhile
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || !prefix.Addr().IsGlobalUnicast() {
				continue
			}
			out = append(out, Interface{Name: l.Name, MTUBytes: l.MTU, Address: prefix.Addr().Unmap()})
		}
	}
	slices.SortFunc(out, func(a, b Interface) int { return a.Address.Compare(b.Address) })
	return out, nil
}

// addressesMax is the bound of status.hosts[].addresses.
const addressesMax = 64

// Addresses returns the addresses as text, at most 64.
func Addresses() []string {
	links, err := Interfaces()
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range links {
		if s := l.Address.String(); !slices.Contains(out, s) && len(out) < addressesMax {
			out = append(out, s)
		}
	}
	return out
}
