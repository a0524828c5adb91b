package desired

// Ports of the daemons, on the host network.
const (
	PortMetaGRPC        = 10100
	PortMetaEtcdClient  = 10101
	PortMetaEtcdPeer    = 10102
	PortMetaMetrics     = 10103
	PortChunkControl    = 10200
	PortChunkData       = 10201
	PortChunkISCSI      = 10202
	PortChunkMetrics    = 10203
	PortRedirectISCSI   = 3260
	PortRedirectMetrics = 10303
	PortAgentMetrics    = 10403
	PortCSINodeHealth   = 9811
)

// Paths on the host.
const (
	HostStateDir = "/var/lib/iomesh"
	HostRunDir   = "/run/iomesh"
	DiskDir      = HostStateDir + "/disks"
	AgentSocket  = HostRunDir + "/agent.sock"
	AttachSocket = HostRunDir + "/attach.sock"
)

// tlsDir is where every pod finds its certificate.
const tlsDir = "/etc/iomesh/tls"
