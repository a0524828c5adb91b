// Package store keeps the replicas of one disk: block data with a checksum and a stamp per block, in layers per snapshot,
// behind a journal that makes a write durable with one flush shared by all writes that wait for it.
//
// The chunk opens one Store per disk and is its only user. Format writes an empty store, Open recovers one, Inspect reads one
// without writing. A store knows nothing of sets, leases and peers; it refuses writes below a volume's fence (I3) and applies a
// write to a block only if its stamp is higher than the block's (I14).
//
// # What is durable when
//
// A write is told complete when the journal batch with it has been written with O_DSYNC; a large write (whole units of 64 KiB)
// when its data have been written to their units, then the batch that points to them, and one flush has made both durable. The same holds for every call that changes something
// and returns, except SetWatermark, whose value rides along with the next batch. After a failed write or flush the disk is
// fenced for good (I7): everything submitted fails with ErrFenced, reads go on.
//
// # The words
//
// A replica is one extent on this disk. Its layers are its content as of snapshot sequences; the last is the live layer. A
// layer finds every block by itself, through a table of 1024 map pages of 1 MiB each: no look-up walks a chain. Layers share
// what is equal: nodes of the table (128 pages), map pages, and units of data. Clones share with their origin in the same way.
//
// # The path of a write
//
//	Submit → queue → committer: decide per block, put into overlay, journal batch → one WriteDurable → Complete
//	                 │ large: data writers write whole units first, then back to the queue
//	later:           destager: seal the overlays, make new map pages, move blocks from the journal to their place,
//	                 write new nodes, reference counts and directory, flush, write the root, free what is not used any more
//
// The overlay of a layer is an index of what is in the journal and not in map pages: block → (stamp, checksum, place), and one
// run for a whole unit written together. It has two generations: the active one takes new entries, the sealed one is being
// destaged. A look-up asks active, then sealed, then the map pages of the last checkpoint, which nobody changes. So the destager
// works beside readers and writers, and the end of a checkpoint is one exchange of tables under the lock.
//
// A new layer (snapshot, clone) begins with a pointer to the one it equals, and gets a table of its own in the next cycle.
//
// A reader looks up, reads without a lock, and verifies. If that fails the data may have moved meanwhile: it looks up again,
// and a block is bad when it does not verify although its entry is the same as before.
//
// # Goroutines
//
// The committer gives every change its place in the journal. The destager destages and writes checkpoints when the journal is
// half full, or nothing was written for a while, or on demand. Four data writers write the data of large writes. One more
// watches for requests that do not come back. Completion calls come from the committer. All end in Close.
//
// # Full disks, full journal
//
// Before a write is journalled, units and slots for it are promised; if there are none the committer waits for one destage
// cycle and then refuses the write with ErrNoSpace. A reserve (1/64 of the units, at most 1 GiB, and a part of the slots)
// is kept for unmaps, repairs, and checkpoints themselves. Past 65 % journal fill, writes are paced to what the destager moves,
// so that there is no long stop. The last 1/64 of the journal takes only changes without data.
//
// # Memory
//
// Per TiB of capacity: 32 MiB of unit reference counts, 2 MiB of unit bitmap, 8 MiB of slot reference counts and half a MiB of
// slot bitmap; and per TiB of mapped extents 18 MiB of table nodes, shared between layers until they differ: a snapshot costs
// 2.3 KiB for each 128 MiB region changed after it. Beside that the page cache (Options.CacheBytes, 64 to 256 MiB), overlays (about 48
// bytes per journalled block, 5 in a whole unit written together, at most 64 MiB and in steady state as much as the journal
// holds), and 11 MiB of buffers per store.
// Tables are flat and without pointers.
//
// # The disk
//
// All numbers are little-endian, all checksums CRC32C. Blocks and slots are 4 KiB, units 64 KiB.
//
//	offset           size          content
//	0                4 KiB         superblock
//	4 KiB            4 KiB         root 0
//	8 KiB            4 KiB         root 1
//	12 KiB           52 KiB        zero
//	64 KiB           journal       ring of batches, whole MiB; absent when it is on another disk (journals.go)
//	metaOff          4 KiB × slots map pages, table nodes, reference counts, directory
//	dataOff          64 KiB × units
//	size − 64 KiB    64 KiB        second copies of superblock, root 0 and root 1, at the same places
//
// The tree, with where each structure is drawn:
//
//	superblock (superblock.encode)    identity, geometry, mount counter; raised and written twice at each Open
//	root (root.encode)                checkpoint number; first journal batch not in it; directory. Checkpoint n goes to root n & 1
//	└ directory (directory)           reference count pages, fences, replicas with their layers, layers being freed
//	  ├ refcounts (encodeRefs)        u16 per unit: how many map pages point to it
//	  └ layer: 8 nodes (node.encode)  128 × (slot, checksum, highest stamp, mask of mapped units)
//	    └ map page (mapPage.encode)   16 units × (place, written mask, bad mask, 16 × (checksum, stamp))
//
// Every slot begins with a slotHeader, which names its kind and owner (I13). A parent knows the checksum of each child, so
// that a slot left from an older checkpoint, or a lost write, shows. A page of the table without a slot is unwritten all
// over; the highest stamp in the node is then that of each of its blocks, so that unmapping 1 MiB takes 16 bytes.
//
// A checkpoint never overwrites a slot or unit of the one before, with one exception: a block whose unit belongs to one page
// alone is written in place, because as long as that checkpoint counts, the journal has the newer content of the block.
//
// # The journal
//
// A ring of batches. A batch is one durable write: header blocks (batchHeader, then entries, see entry), then data blocks. It
// never wraps: one that does not fit before the end begins at 0. Batches are numbered without gaps; journal UUID, number, lap and
// position are under the header's checksum, and each data block has its seeded checksum in its entry.
//
// Entries say what happened, not what was asked: which blocks of which layer got which stamp. Recovery starts from the newest
// root and does the entries again, in order; doing an entry twice on the way is harmless, since every replay begins from the same
// checkpoint.
//
// Only one batch is with the disk at a time. So a batch that does not verify is the torn tail if no good batch with a higher
// number lies behind it, and damage otherwise. To verify the last batch means to look at the data of its large writes too, which
// its flush may not have reached; a tail torn there is overwritten, so that it does not verify later. Damage in data makes just those blocks bad. Damage in a header makes the replicas
// suspect that the next batch says it had changed: they must leave their sets and be compared from stamp 0 (Suspect; SetJoin ends
// it). A last batch that was durable and rots before the next Open looks like a torn tail; the replica's highest stamp is then
// lower than the watermark others know, which I6 takes for stale.
//
// # Damage and what becomes of it
//
//	superblock, root    the second copy is used
//	directory           the second copy is used; with both damaged Open fails with ErrCorrupt, and the replicas have to be rebuilt
//	refcounts           counted anew from the map pages
//	table node, page    its blocks are bad with stamp 0, until copies replace them
//	journal disk        its data disks are not opened (ErrNoJournal); the table of journals is kept twice
//	data                the block is bad; Repair with the same stamp mends it, in place if other views share it
package store
