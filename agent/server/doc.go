// Package server answers the plugin on a unix socket (api/agent/v1), and joins a stream to that socket (Dial).
//
// The socket is accessible to root only. Who may reach it over the network is decided by Kubernetes: the way in is `kubectl exec` of
// `iomesh-agent dial` in the agent's container.
package server
