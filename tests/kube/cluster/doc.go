// Package cluster runs a real Kubernetes cluster on one Linux machine: real
// kubelets with containerd, one per node, each node in namespaces of its own,
// and a control plane in another one. It is for tests and demonstrations.
//
//	network namespace iomesh-<id>-cp          iomesh-<id>-n1, -n2, ...
//	  etcd, kube-apiserver, controllers         containerd, kubelet, kube-proxy, pods
//	  bridge 10.89.0.1/24 ---- veth pairs ----- eth0 10.89.0.11, .12, ...
//	  no uplink                                 pods 10.244.<i>.0/24, services 10.96.0.0/16
//
// <id> comes from the work directory, so that clusters in different
// directories can run side by side. Nothing in a cluster can reach outside,
// and no rule or address touches the machine's own network namespace.
//
// A node has its own network, mount, process, host name, IPC and cgroup
// namespace and its own root file system: /usr is the machine's, read-only;
// /etc is a copy made at first boot; /run and /tmp are in memory and lost with
// power; everything else is kept in the work directory:
//
//	DIR/cluster.json           what was set up
//	DIR/pki/                   certificates; admin.kubeconfig is Kubeconfig()
//	DIR/etcd/                  the API server's data
//	DIR/log/                   control plane
//	DIR/images/                image archives, imported by every node
//	DIR/nodes/n1/node.json     address, disks, faults now in force
//	DIR/nodes/n1/log/          containerd, kubelet, kube-proxy
//	DIR/nodes/n1/root/         the node's root as far as it survives power-off,
//	                           with var/lib/iomesh, opt/iomesh and data/disks
//
// Loop devices and kernel names such as /dev/loop3 belong to the machine, so
// every node sees those of all nodes; the backing files' names say whose they
// are (/data/disks/n1-disk0.img).
//
// # Faults
//
// PowerOff first cuts the node's network, then ends its process 1 and with it
// every process and mount, then takes its loop devices and its network
// namespace away: peers see silence, not closed connections. What the node's
// kernel had cached for its file systems may still be written as they are
// unmounted; to lose it too, end the process that serves the data first.
// Freeze stops every process but lets the kernel answer the network, as a hung
// machine does. CutNetwork pulls the cable; CutAPI severs the node from the
// control plane only.
//
// # Use
//
// All methods may be called by several goroutines and processes; those that
// change the cluster take a lock in DIR and follow one another. They need
// root. No daemon of the cluster is a child of the caller: it outlives it.
package cluster
