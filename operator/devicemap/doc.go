// Package devicemap decides which block devices a cluster claims and which it gives back.
//
// Decide is pure: the wish (chunk.deviceMap), the BlockDevices as the agents report them and the nodes that may hold disks go
// in; claims to write, claims to give back and the reasons for everything that was selected and not claimed come out. What it
// says holds for this moment: the caller looks again whenever a device changes. The agent checks each identity once more
// before it touches a disk, so a decision on old news harms nothing.
package devicemap
