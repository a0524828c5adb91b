// Package diskmap plans which disks an IOMeshCluster takes: a pure function from devices, the present device map and a choice, to a plan that
// a person can review.
//
// A choice is either a label selector, which becomes a live selector of the device map (later disks that match are taken too), or a set of
// devices, which are labelled with iomesh.com/disk-map=<mount type> and selected by that label, so that no disk is ever taken that nobody
// looked at.
//
// A plan holds, for each device it takes, the identity at the time of planning. Before it is applied the devices are read again, and Verify
// refuses when anything about a taken device has changed.
package diskmap
