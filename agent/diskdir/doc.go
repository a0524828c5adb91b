// Package diskdir is the agent's side of the disk directory: the files by which a chunk learns of its disks.
//
//	<dir>/<name>.json    written here: which device is which disk
//	<dir>/<name>.status  written by the chunk: what it made of it
//
// Files appear and change by rename, after their content is synced; the directory is synced after each change. So a reader, and a start
// after a power cut, sees the old file or the new one. Names are checked: nothing outside the directory is ever touched.
package diskdir
