// Package meta is the driver's connection to the block service: one gRPC channel over all meta members, whose addresses come from
// a flag or from the mounted ConfigMap iomesh-endpoints, followed as it changes.
//
// The channel spreads calls over the members that answer, and repeats calls that ended in Unavailable: every call of the
// control interface is idempotent, and any member forwards to the leader. A member that hangs is noticed by keepalive.
//
// Goroutines: one that looks at the endpoints file, ended by Close.
package meta
