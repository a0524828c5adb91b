// Package stacksim runs the whole of storaged in one process and judges what its clients saw: chunks (store, replication, peer, target, control), meta
// members and iSCSI initiators are the real ones, with all their goroutines, timers and mutual TLS. Simulated are what is below them: the network, the
// disks, the clock of the leases and etcd. A run belongs to one bubble of testing/synctest, so that a minute of cluster takes a second or less.
//
//	initiator ── iSCSI ──▶ target ─▶ chunk ─▶ store ─▶ [disk]     one or two per node, three or four nodes
//	administrator ─ gRPC ─▶ meta member ─▶ [etcd] ◀─ chunk         one or three members
//	everything between machines: [network]
//
// Package storaged/sim plays the protocol core alone, a hundred times faster and repeatable to the last event. This one is for what lies around the
// core: sessions and their reinstatement, grants, connections, journals and recovery, the leader's decisions, and the shells that join them.
//
// # Fault model
//
// Network. Each message takes 50 to 300 µs. One direction between two machines, or both, or all of a machine, can be cut: what is sent meanwhile
// arrives later, as TCP sends again, and new connections wait. Connections are reset by faults and by the end of a process. A machine without power
// answers nothing; its old connections are reset when it is back. A frozen process accepts connections in its kernel, reads nothing, and what it writes
// arrives when it thaws. Not modelled: loss or damage within a connection, which TCP and the digests exclude; full socket buffers, a connection takes
// any amount.
//
// Disks. Requests take 20 to 300 µs, on a slow disk up to 120 ms. A power cut keeps what was flushed and any part of the rest, by sectors. A killed
// process loses nothing that it wrote. A disk can stop answering, fail every write and flush for good, and rot by single bits; rot is on the disks of
// one node only.
//
// Nodes. Power loss of one or of all, kill -9, freeze. Timers of a frozen process go on; nobody sees what they do. FaultPause also stops the clock of
// the leases, as in a virtual machine that is paused. Clocks differ in rate by up to 4 %.
//
// etcd is a store of its own in memory with revisions, transactions, watches and compaction. It never loses anything. The way to it, of one process
// or of all, can stall (what was asked is done later, or never), do what it is asked without an answer, and refuse. Watches lag. Which meta member leads
// is decided by a model of raft's election; members learn of it at different times.
//
// Bounds. Faults follow each other; the next begins when the one before has ended, most within time-outs of it, and what they left behind (resync,
// repair) overlaps. None lasts longer than 6 s. With no more than that every request has to succeed: an I/O error at an initiator is a violation.
//
// # What is checked
//
// Every sector that is read must hold what some write put there, of this volume and this place, unchanged. The history of every shared block (and, in
// a region for unaligned requests, sector) must be that of a linearizable register, with storaged/sim's checker; each attempt of a write that is sent
// again is a write of its own, done at the latest when the last was answered. COMPARE AND WRITE must not find a value twice. In a region in which no two requests meet, also with UNMAP, WRITE SAME and large writes, each read must return exactly what is known to be
// there. A snapshot, read through a volume restored from it, holds what each block held at one time between the call and the answer. After a grant was
// withdrawn nothing of its initiator takes effect (I16). At the end everything is healed: all requests must be answered, all volumes be whole, every
// set have the wanted number of members within two minutes, and the replicas on the disks be equal in data, stamps and checksums, in every view.
//
// # Running it
//
//	make sim-stack SEEDS=2000                                             seeds on all cores
//	go test ./storaged/stacksim -run 'TestSeeds$' -seed 4711 -logs -v     one, with every request, and the logs of all parts
//	go test ./storaged/stacksim -run TestPlantedBugsAreFound -planted     the planted bugs
//
// A failure prints its seed and the end of its trace. The seed decides the configuration, the load, the faults, and all delays; GOMAXPROCS=1 helps.
// What it does not decide is the order in which goroutines that are ready at the same instant run, which of several ready cases select takes, and the
// order of maps: a second run of a seed differs in detail, so that a failure may need several.
//
// A bubble's time stands still while a goroutine waits for a mutex. A mutex that is held over something that takes time (a disk, etcd) hangs the run as
// soon as somebody else wants it; the test says so and shows the goroutines. Locks of that kind are channels, and honour contexts.
package stacksim
