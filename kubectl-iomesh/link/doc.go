// Package link is the plugin's way to the cluster: the Kubernetes API, and through `pods/exec` to the agents and to the block service.
//
// Nothing but the Kubernetes API is reached from the user's machine: no certificates there, no extra ports, and every use is authorised and
// audited by Kubernetes.
//
//   - The block service is asked by running `storaged ctl … -o json` in a meta pod: it has the certificate and the addresses.
//   - An agent is asked by gRPC over the stream of `iomesh-agent dial` in the agent's container.
package link
