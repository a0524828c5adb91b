// Package nodeloss moves pods off nodes that Kubernetes has lost, for clusters whose administrator asked for it (podDeletePolicy of the
// original; off by default).
//
// Kubernetes never deletes a StatefulSet's pod of an unreachable node, and holds the volumes of other pods for six minutes, since for
// most storage a second writer would be the end of the data. Here the volume itself refuses the lost node once its attachment has
// gone (invariant I16), so nobody has to know whether the node is dead. For each node that is not Ready for longer than the latency, a pass
// deletes, in this order,
//
//  1. the VolumeAttachments of the pods' volumes: the driver takes the node's grants away, and what the node still writes is refused;
//  2. the pods, without a grace period, so that their controllers make new ones elsewhere.
//
// Only pods of the kinds that the policy names, that use a ReadWriteOnce or ReadWriteOncePod volume of our driver, are touched. A pass that was cut
// off after the first step is finished by the next one, which finds the pods again. The taint out-of-service is not used: it would
// free volumes of other drivers, which do not fence.
//
// One goroutine, in the leader only.
package nodeloss
