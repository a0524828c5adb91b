// Package inventory turns what a scan found into BlockDevice objects and keeps them equal to the node.
//
// One Round is: look at the devices, at the objects of this node and at the cluster's wish; judge each device; let the keeper carry out
// claims; publish what changed. Rounds are idempotent and are made on events (package uevent, changes of objects, files of the disk
// directory) and each 30 seconds. An object is written only when something in it changed; the time of the last look alone each four minutes;
// the disk's usage alone at most each 30 seconds.
//
// A device whose name (identity) another node's living agent publishes as well gets a name of its own and a reason against it: such disks
// cannot be told apart. If the other object's agent has been silent for ten minutes or reports the device gone, the disk has moved, and the
// object moves with it.
//
// Objects of devices that are gone become Inactive and stay: whoever replaces the disk wants to see what it was.
package inventory
