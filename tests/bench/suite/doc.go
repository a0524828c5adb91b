// Package suite measures the block service against peers in one run, so that what the machine does meanwhile falls on all alike.
//
// A subject is something that takes a load: a cluster of three chunk processes with files as disks, tgtd with one copy, or the floor. A
// comparison runs one workload on our cluster and on a peer in turn, changing who goes first, and tells the median of the ratios of the
// pairs. CPU that other programs use meanwhile is measured; a pair in which it exceeds the limit is discarded and counted.
package suite
