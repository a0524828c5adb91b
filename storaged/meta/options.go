package meta

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
)

// Default ports of a member.
const (
	DefaultGRPCPort   = 10100
	DefaultClientPort = 10101
	DefaultPeerPort   = 10102

	DefaultMetricsPort = 10103
)

// Member is one meta member as all of them know it.
type Member struct {
	Name   string
	GRPC   string // host:port of the control interface
	Client string // host:port of etcd for chunks
	Peer   string // host:port of etcd between members
}

var memberName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)

// ParseMembers reads a comma-separated list of NAME=HOST[:GRPC-PORT[:CLIENT-PORT[:PEER-PORT]]]. An IPv6 host stands in
// brackets. Missing ports are the defaults.
func ParseMembers(list string) ([]Member, error) {
	var out []Member
	for item := range strings.SplitSeq(list, ",") {
		name, rest, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || !memberName.MatchString(name) {
			return nil, fmt.Errorf("meta member %q: want NAME=HOST[:GRPC-PORT[:CLIENT-PORT[:PEER-PORT]]]", item)
		}
		host, ports := rest, ""
		if strings.HasPrefix(rest, "[") {
			if host, ports, ok = strings.Cut(rest[1:], "]"); !ok {
				return nil, fmt.Errorf("meta member %q: the bracket is not closed", item)
			}
			ports = strings.TrimPrefix(ports, ":")
		} else {
			host, ports, _ = strings.Cut(rest, ":")
		}
		if host == "" {
			return nil, fmt.Errorf("meta member %q has no host", item)
		}
		numbers := [3]int{DefaultGRPCPort, DefaultClientPort, DefaultPeerPort}
		if ports != "" {
			parts := strings.Split(ports, ":")
			if len(parts) > 3 {
				return nil, fmt.Errorf("meta member %q has more than three ports", item)
			}
			for i, p := range parts {
				n, err := strconv.ParseUint(p, 10, 16)
				if err != nil || n == 0 {
					return nil, fmt.Errorf("meta member %q: port %q is not a number from 1 to 65535", item, p)
				}
				numbers[i] = int(n)
			}
		}
		at := func(i int) string { return net.JoinHostPort(host, strconv.Itoa(numbers[i])) }
		out = append(out, Member{Name: name, GRPC: at(0), Client: at(1), Peer: at(2)})
	}
	return out, nil
}

// Options of Run.
type Options struct {
	Name    string   // of this member; one of Members
	Members []Member // all, this one included: 1, 3 or 5. The first one founds the cluster
	DataDir string   // of the etcd member
	TLSDir  string   // credentials of role meta; empty = plain, for development on one machine only
	Version string   // of the build, shown in status

	// MetricsListen is the host:port of /metrics and /healthz; "" or "off": none.
	MetricsListen string

	// ClusterID is given to a new cluster; zero = a random one. A member of another cluster refuses to start.
	ClusterID block.ClusterID

	OverProvisioning float64       // provisioned / usable bytes of a disk up to which volumes are placed; 0 = 2.0
	Reserve          float64       // part of each disk kept free by placement; 0 = 0.05
	RepairDelay      time.Duration // how long the replicas of an offline node are waited for; 0 = 10 min
	InventoryEvery   time.Duration // how often replicas that no set names are looked for, and twice found, deleted; 0 = 5 min
	ErrorWindow      time.Duration // how long an error of a disk or a refused login stays in the status; 0 = 15 min
	QuotaBytes       int64         // of etcd's database, beyond which it refuses writes; 0 = 8 GiB
	Log              *slog.Logger

	// Host, if set, takes the place of the embedded etcd member and of the network.
	Host *Host

	// Ready, if set, is called once with the address of the control interface when it is served.
	Ready func(grpcAddress string)
}

func (o *Options) complete() error {
	if o.OverProvisioning == 0 {
		o.OverProvisioning = 2.0
	}
	if o.Reserve == 0 {
		o.Reserve = 0.05
	}
	if o.RepairDelay == 0 {
		o.RepairDelay = 10 * time.Minute
	}
	if o.InventoryEvery == 0 {
		o.InventoryEvery = inventoryDefault
	}
	if o.QuotaBytes == 0 {
		o.QuotaBytes = 8 << 30
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DataDir == "" {
		return errors.New("no data directory given")
	}
	if o.OverProvisioning < 1 || o.OverProvisioning > 100 {
		return fmt.Errorf("over-provisioning %g is not within 1 and 100", o.OverProvisioning)
	}
	if o.Reserve < 0 || o.Reserve > 0.5 {
		return fmt.Errorf("reserve %g is not within 0 and 0.5", o.Reserve)
	}
	switch len(o.Members) {
	case 1, 3, 5:
	default:
		return fmt.Errorf("%d meta members given: want 1, 3 or 5", len(o.Members))
	}
	seen := map[string]bool{}
	for _, m := range o.Members {
		if seen[m.Name] || seen[m.GRPC] || seen[m.Peer] {
			return fmt.Errorf("meta member %s is given twice, or shares an address", m.Name)
		}
		seen[m.Name], seen[m.GRPC], seen[m.Peer] = true, true, true
	}
	if o.self() < 0 {
		return fmt.Errorf("this member's name %q is not in the list of members", o.Name)
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func (o *Options) self() int {
	return slices.IndexFunc(o.Members, func(m Member) bool { return m.Name == o.Name })
}

func (o *Options) me() Member { return o.Members[o.self()] }

func (o *Options) scheme() string {
	if o.TLSDir == "" {
		return "http"
	}
	return "https"
}
