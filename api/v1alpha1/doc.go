// Package v1alpha1 holds the Kubernetes kinds of the group iomesh.com.
//
// IOMeshCluster (short name iomesh) is the whole wish about one storage cluster and the view of it. BlockDevice (short
// name bd) is one disk of one node. Both are namespaced; a cluster's block devices live in its namespace.
//
// Field names follow the original product, so that its manifests apply here. A field that is accepted for that reason
// alone says "Accepted and ignored"; docs/compatibility.md gives the reasons.
//
// # Writers
//
// Every field has one writer, and writers use server-side apply with the field owners below, so that nobody overwrites
// what another says:
//
//	object         field                           writer                        field owner
//	IOMeshCluster  spec                            user (Helm, kubectl, GitOps)  theirs
//	IOMeshCluster  status, but hosts               operator (leader)             iomesh-operator
//	IOMeshCluster  status.hosts[node]              agent of that node            iomesh-agent-<node>
//	BlockDevice    labels iomesh.com/*, spec       agent of that node            iomesh-agent
//	BlockDevice    spec.claim                      operator (leader)             iomesh-operator
//	BlockDevice    status                          agent of that node            iomesh-agent
//
// # Life of a claim
//
//	            operator writes spec.claim            agent has verified the identity and written the disk
//	                                                  directory entry; status.claim = spec.claim
//	Unclaimed ───────────────────────────▶ (pending) ─────────────────────────────────────────────▶ Claimed
//	    ▲                                                                                              │
//	    │ entry gone and, under                                operator removes spec.claim, after the  │
//	    │ reclaimPolicy Delete, device erased                  disk is drained: no set needs it        │
//	    └───────────────────────────────────── Released ◀──────────────────────────────────────────────┘
//
// The agent acts on a claim only if Identity.Fingerprint equals claim.fingerprint, and for the first time (status.claim
// is absent or has another uid) only if Identity.ContentFingerprint equals claim.contentFingerprint. Otherwise it changes
// nothing, keeps its claim state and puts the difference into status.message. It keeps the claim it acted on in
// status.claim: so it knows what to release after spec.claim has gone, also when it was away at that time. Under
// reclaimPolicy Retain the content stays and the device stays Released until someone erases it.
//
// A device that carries a superblock of this very cluster (identity.superblock) may be claimed although it is not empty:
// that is how a disk comes back after its object was deleted or after it moved to another node. Such a claim has wipe
// false, and the superblock is kept.
//
// +kubebuilder:object:generate=true
// +groupName=iomesh.com
package v1alpha1

//go:generate go tool -modfile=../../manifests/tools/go.mod controller-gen object paths=.
//go:generate go tool -modfile=../../manifests/tools/go.mod controller-gen crd:maxDescLen=300 paths=. output:crd:dir=../../manifests/chart/crds
