// Package attachv1 is the gRPC interface of the userspace attacher (iomesh-attach), called by the CSI node plugin on a unix
// socket. The contract of each call stands in attach.proto.
package attachv1
