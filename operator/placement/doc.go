// Package placement decides on which nodes the metadata members and the data servers run and which address each uses.
//
// It is pure: nodes and what is pinned already go in, decisions and the reasons against every other node come out. Nothing
// here is ever moved: a metadata member stays with the node that holds its state, a chunk with its disks.
package placement
