// Package faultfs is a disk that misbehaves on demand: a file, served by FUSE over a real one, whose requests can be delayed, kept, failed, or answered
// with rotten data. Daemons use it as any other disk, with O_DIRECT, and know nothing of it. Linux, root.
//
//	d, err := faultfs.Mount(dir, backing, sizeBytes, log)
//	d.Set(faultfs.Fail(faultfs.Write, syscall.EIO))
//	…
//	d.Set(nil)
//
// A rule is asked for each request, from many goroutines. Set(nil) lets go of what a rule keeps only if the rule's own channel is closed.
package faultfs
