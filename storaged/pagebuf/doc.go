// Package pagebuf lends page-aligned, reference-counted buffers from bounded pools, so that data read from a socket can go to an
// O_DIRECT file and to other sockets without a copy and without an allocation per request.
//
// A Pool keeps free buffers by size class (powers of two from 4 KiB to 8 MiB) and counts the bytes that are out. Get never
// blocks; what bounds memory is the caller's own admission (windows, queues) together with Pool.Used. A Buf is owned by its references:
// the last Release returns it. All methods are safe for concurrent use; the bytes are not synchronised.
package pagebuf
