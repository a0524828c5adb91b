package v1alpha1

// Labels on BlockDevices, written by the agent. The names are the original's; users may add labels of their own and
// select on them.
const (
	LabelDevicePath = "iomesh.com/bd-devicePath" // path without "/dev/", slashes replaced by "-": "sdb", "loop3"
	LabelDeviceType = "iomesh.com/bd-deviceType" // disk, partition, loop, …: a DeviceType
	LabelDriverType = "iomesh.com/bd-driverType" // HDD, SSD, NVME, Unknown
	LabelSerial     = "iomesh.com/bd-serial"     // characters not allowed in labels become "-"
	LabelVendor     = "iomesh.com/bd-vendor"
	LabelNode       = "iomesh.com/node" // Kubernetes node name; also on chunk pods
)

// LabelLeaving with the value "true" on a Kubernetes node says that it is to hold no metadata member: one that is there moves to another node.
const LabelLeaving = "iomesh.com/leaving"

// Labels on the objects that the operator creates.
const (
	LabelCluster    = "iomesh.com/cluster"     // name of the IOMeshCluster
	LabelMetaLeader = "iomesh.com/meta-leader" // "true" on the leading meta pod
	LabelRevision   = "iomesh.com/revision"    // hash of the pod's specification, on chunk pods
)

// AnnotationPrivileged says on a pod which of its containers are privileged and why.
const AnnotationPrivileged = "iomesh.com/privileged-because"

// AnnotationAcceptLoss on an IOMeshCluster that is being deleted, with the cluster's name as value, says that its volumes and
// whatever is on disks that cannot be reached are given up.
const AnnotationAcceptLoss = "iomesh.com/accept-data-loss"

// AnnotationPauseUpdate on an IOMeshCluster holds a rolling update of chunks and metadata members: the node under way is finished, no other is begun.
// The value says why, for people.
const AnnotationPauseUpdate = "iomesh.com/pause-update"

// FinalizerCluster keeps an IOMeshCluster until its volumes are gone and its disks released.
const FinalizerCluster = "iomesh.com/cluster"

// Field owners of server-side apply.
const (
	FieldOwnerOperator = "iomesh-operator"
	FieldOwnerAgent    = "iomesh-agent" // for status.hosts: FieldOwnerAgent + "-" + node
)

// Objects that the operator creates in the cluster's namespace and others read.
const (
	ConfigMapEndpoints   = "iomesh-endpoints" // keys below
	EndpointsKeyMeta     = "meta"             // comma-separated host:port of the meta members' gRPC
	EndpointsKeyCluster  = "clusterID"
	SecretCA             = "iomesh-ca"
	SecretMetaTLS        = "iomesh-meta-tls"
	SecretChunkTLS       = "iomesh-chunk-tls"
	SecretNodeTLS        = "iomesh-node-tls"
	SecretControllerTLS  = "iomesh-controller-tls"
	SecretAdminTLS       = "iomesh-admin-tls"
	ServiceAccountNode   = "iomesh-node"
	ServiceAccountDaemon = "iomesh-daemon" // meta and chunk: no rights at all
)
