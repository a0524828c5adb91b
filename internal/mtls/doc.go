// Package mtls is the identity of IOMesh's components towards each other: one authority per cluster, one certificate per
// component that names its role, and TLS configurations that check peers by chain and role.
//
// # Certificates
//
// ECDSA P-256. A leaf carries the role as a URI name "iomesh://<cluster>/<role>", and, for etcd, which knows no URI names,
// the DNS name "<role>.iomesh.internal" (Role.DNSName). Addresses may be added, but nothing here checks them: a component
// keeps its certificate when its address changes, and a peer is what its role says, wherever it answers.
//
// # Files
//
// A directory holds ca.crt, tls.crt and tls.key in PEM, as a Kubernetes Secret of type tls is mounted. A Source reads it, and
// reads it again at handshakes when the files have changed, so that certificates are renewed without a restart. ca.crt may hold several
// authorities during a change of authority.
//
// # Leaving TLS
//
// Replica traffic authenticates by TLS and then goes on in plain (unless payload encryption is on):
//
//	client                                server
//	  ---- TLS 1.3 handshake, both certificates ---->
//	  ---- record SWITCH ------------------------->      the client sends nothing more in TLS
//	  <--- record SWITCH-OK -----------------------      the last TLS record of the connection
//	  ==== 8 bytes "IOMESH-P", plain ==============>     from here on both write plain bytes
//
// Each side waits for the other at every step, because a TLS reader may read beyond the record it needs: at each point at
// which a side leaves TLS, nothing plain can be on its way to it. Session tickets are off for the same reason.
//
// Everything here is safe for concurrent use. There are no goroutines but those of the handshake calls.
package mtls
