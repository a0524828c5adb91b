// Package store keeps the replicas of one disk: block data with a checksum and a stamp per block, in layers per snapshot,
// behind a journal that makes a write durable with one flush shared by all writes that wait for it.
package store
