// Package dev runs a whole cluster of the block service on one machine, without root and without Kubernetes: a meta member,
// chunks with files as disks, and a login redirector, all on loopback addresses. For development, tests, and trying the product out.
//
//	DIR/control.json      how to reach it; read by `storaged ctl --dir DIR`
//	DIR/tls/<role>/       credentials
//	DIR/meta/             state of the meta member
//	DIR/nodes/<node>/     data/disk<i>.img, disks/ (the disk directory)
//	DIR/logs/<daemon>.log with --processes
//
// Everything is kept: starting again in the same DIR gives the same cluster with the same data, on the same ports.
//
// With --processes each daemon is a process of its own, which can be killed or frozen; one that dies is started again after
// --restart-after. Otherwise all run in this process.
package dev
