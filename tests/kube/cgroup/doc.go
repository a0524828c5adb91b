// Package cgroup gives every node of the test cluster, and its control plane,
// a control group of its own: the handle by which its processes are found,
// frozen and known to be gone.
//
// Both kinds of machine are served, decided by /proc/self/cgroup:
//
//	v1  one directory in each hierarchy, below the caller's own group, so that
//	    limits on the caller hold for the cluster too. The freezer hierarchy
//	    freezes. A machine with v1 controllers and an empty v2 hierarchy beside
//	    them ("hybrid") counts as v1.
//	v2  one directory GROUP below the mount point. Inner groups may hold no
//	    processes, so those of the node itself live in the leaf GROUP/init and
//	    the controllers are delegated to GROUP's other children (kubelet's
//	    kubepods). cgroup.freeze freezes.
//
// A process enters its group before it runs: on v1 by starting it from a
// thread that is moved there for the moment of the clone, on v2 by
// CLONE_INTO_CGROUP. So no fork of it can stay outside.
package cgroup
