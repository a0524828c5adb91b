// Package certs decides which certificates a cluster has and when they are made anew.
//
//	Secret iomesh-ca              Opaque   ca.crt, ca.key, clusterID      made once, never changed; holds the cluster's identity
//	Secret iomesh-<role>-tls      tls      ca.crt, tls.crt, tls.key      a year; made anew at two thirds of it, and when its hosts change
//
// Certificates are renewed in place: the kubelet brings the new files into the pods and every component reads them at its next
// handshake, so nothing restarts. The meta certificate names the members' addresses for tools that check host names; our own
// components check roles.
package certs
