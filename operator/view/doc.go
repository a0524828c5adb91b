// Package view computes a cluster's status as a pure function of facts: the wish, what the metadata members say, the pods,
// nodes and devices that Kubernetes shows, and what the reconciler could not do. Any combination of facts has a status, and
// every status that is not Ready says what is waited for and what to do.
package view
