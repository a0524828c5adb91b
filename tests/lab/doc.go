// Package lab puts IOMesh on a real Kubernetes cluster of this machine (tests/kube) and drives it the way a user does, with kubectl
// and the plugin. The demonstration and the end-to-end tests are written with it.
package lab
