// Package sim plays the protocol core of storaged/replication in a simulated cluster and judges what clients saw.
//
// A run is one goroutine and one random number generator: the same Config gives the same run, event for event. Chunks, disks, network, clocks,
// the metadata store with its leader, and the clients are small models with the faults listed in faults.go and in docs/protocol.md. The machines are
// the real ones. Contents are 32-bit values, different for each block of each attempt of each write, carried in the checksums; data slices all point to the same zeroes.
//
// At the end everything is healed. Then the volume has to serve, with all replicas, within bounded time; all members have to be equal; and the history of
// every block has to be that of a linearizable register (history.go, which knows nothing of the protocol and is tested on its own and against porcupine).
//
// # Running it
//
//	go test ./storaged/sim                                          the fixed set, the planted bugs, the stories
//	go test ./storaged/sim -run TestSeeds -seeds 200000 -timeout 0  many seeds
//	go test ./storaged/sim -run TestSeeds -start 5000 -seeds 1000   others
//	go test ./storaged/sim -run TestSeeds -seed 4711 -v             one, with every event
//	go test ./storaged/sim -run TestScenarios -rewrite              the stories in testdata, after a change that was meant
//
// A failure prints its seed. A fault of the core that it shows is worth a story in testdata.
package sim
