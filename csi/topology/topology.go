// Package topology holds the topology keys of the driver.
//
// A volume is reachable from every node of its cluster, so a PersistentVolume normally says only which cluster it is of
// (ClusterKey): that keeps its pods on nodes that run the driver, and includes nodes that join later. NodeKey names single nodes,
// for classes with allowedTopologies and restrictTopology.
package topology

import (
	csipb "github.com/container-storage-interface/spec/lib/go/csi"
)

const (
	// NodeKey has the node's name as value.
	NodeKey = "topology.com.iomesh.csi-driver/node"
	// ClusterKey has the id of the storage cluster as value.
	ClusterKey = "topology.com.iomesh.csi-driver/cluster"
)

// OfNode is what a node reports of itself.
func OfNode(cluster, node string) *csipb.Topology {
	return &csipb.Topology{Segments: map[string]string{ClusterKey: cluster, NodeKey: node}}
}

// OfCluster is where an unrestricted volume can be used.
func OfCluster(cluster string) *csipb.Topology {
	return &csipb.Topology{Segments: map[string]string{ClusterKey: cluster}}
}

// Nodes returns the distinct nodes that a list of topologies names, in its order.
func Nodes(list []*csipb.Topology) []string {
	var out []string
	seen := map[string]bool{}
	for _, t := range list {
		if n := t.GetSegments()[NodeKey]; n != "" && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// Foreign reports whether every topology of a non-empty list names another cluster.
func Foreign(list []*csipb.Topology, cluster string) bool {
	for _, t := range list {
		if c := t.GetSegments()[ClusterKey]; c == "" || c == cluster {
			return false
		}
	}
	return len(list) > 0
}
