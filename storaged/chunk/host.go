package chunk

import (
	"context"
	"net"

	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/target"
)

// Host is what a chunk takes from its machine. What is nil is the machine's own; the simulator of the whole stack replaces it all.
type Host struct {
	// Now reads the clock of the leases, which never goes back.
	Now func() replication.Time
	// Listen and Dial are of TCP; addresses are host:port.
	Listen func(address string) (net.Listener, error)
	Dial   func(ctx context.Context, address string) (net.Conn, error)
	// OpenDisk opens the device of a disk entry.
	OpenDisk func(device string) (vdisk.Disk, error)
	// OpenMeta connects to the metadata. The chunk closes what it returns.
	OpenMeta func(etcdEndpoints []string) (*metadb.DB, error)
	// Bugs are faults of the protocol core and TargetBug one of the iSCSI target, for the self-test of the simulator. Anything but zero
	// loses data.
	Bugs      replication.Bugs
	TargetBug target.Bug
}

func (h Host) withDefaults() Host {
	if h.Now == nil {
		h.Now = boottime
	}
	if h.Listen == nil {
		h.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if h.OpenDisk == nil {
		h.OpenDisk = openDevice
	}
	return h
}

func openDevice(device string) (vdisk.Disk, error) { return vdisk.Open(device) }
