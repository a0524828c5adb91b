// Package rpc serves the driver's gRPC services on unix sockets: one call per object at a time, errors by the table of package
// code, logs without secrets.
package rpc
