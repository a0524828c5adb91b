package meta

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/internal/beat"
)

// lonelyTick is how often a member looks whether it has a leader. Twice without one it makes its connections to the other members anew.
const lonelyTick = 2 * time.Second

// lonelyLoop brings a member back that has been cut off. etcd means to give up a stream between members after five seconds of silence, but in version 3.7
// the dialler with that time-out is overridden by another without (client/pkg/v3/transport: Transport.Dial beside Transport.DialContext). So after
// a cut of a minute a stream waits for the other side's TCP, which sends again at ever longer intervals: a member that could have been
// back at once is away for up to another minute. When its connections are broken it opens them again within a tenth of a second.
func (s *server) lonelyLoop(ctx context.Context, raft Raft) {
	ports := map[int]bool{}
	for _, m := range s.opts.Members {
		if _, p, err := net.SplitHostPort(m.Peer); err == nil {
			if n, err := strconv.Atoi(p); err == nil {
				ports[n] = true
			}
		}
	}
	if len(s.opts.Members) < 2 || len(ports) == 0 {
		return
	}
	tick := beat.Every(lonelyTick)
	defer tick.Stop()
	alone := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if raft.Leader() != 0 {
			alone = 0
			continue
		}
		if alone++; alone < 2 {
			continue
		}
		alone = 0
		n, err := breakConnections(ports)
		s.log.Debug("no leader: connections to the other members are made anew", "broken", n, "error", err)
	}
}

// breakConnections shuts down this process's TCP connections from or to one of the ports, and returns how many there were.
func breakConnections(ports map[int]bool) (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("list open files: %w", err)
	}
	broken := 0
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A descriptor of our own for whatever it is: the number may be closed, and given to something else, at any time.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if connected(own, ports) && unix.Shutdown(own, unix.SHUT_RDWR) == nil {
			broken++
		}
		_ = unix.Close(own)
	}
	return broken, nil
}

// connected reports whether a descriptor is a TCP connection from or to one of the ports.
func connected(fd int, ports map[int]bool) bool {
	if p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || p != unix.IPPROTO_TCP {
		return false
	}
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	local, err := unix.Getsockname(fd)
	return err == nil && (ports[portOf(remote)] || ports[portOf(local)])
}

func portOf(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return -1
}
