// Command vm tests volumes under a stock Linux kernel: a virtual machine with Debian's kernel, open-iscsi and multipathd attaches volumes of
// three chunks through the CSI node plugin's kernel path while owners are killed, frozen, restarted and cut off.
//
//	network namespace (made by hack/e2e-vm.sh)
//	┌──────────────────────────────────────────────┐        ┌─ virtual machine 10.77.0.2 ──────────────────────┐
//	│ 10.78.0.4 storaged meta                      │  tap0  │ storaged redirect 127.0.0.1:3260                 │
//	│ 10.78.0.1 … 3 storaged chunk                 │────────│ iomesh-csi node  ◀─ gRPC, passed on by tests/vm/ │
//	│ this program: CSI controller, faults, report │        │ kernel initiator, ext4, xfs     guest at :7001   │
//	└──────────────────────────────────────────────┘        └──────────────────────────────────────────────────┘
//
// The guest has nothing of ours in its image: it unpacks what this program hands in as its second disk, and runs the programs in it. This
// program plays the container orchestrator: it calls the controller as a library and the node plugin over its socket.
//
// Every fault is a row of the table at the end: the longest write the guest's probes saw, on ext4 and on xfs, and the number of errors, which has to
// be zero. The guest's kernel log is read at the end and must be free of I/O errors and read-only remounts.
package main
