// Package target is the iSCSI target of a chunk: one target (IQN) per volume, one logical unit per target.
package target
