// Package cluster runs a block service of real processes and does to it what hardware and people do: kill -9, SIGSTOP, a cut cable,
// power loss of everything at once.
//
// Every node has a network namespace of its own, joined by a bridge to the one this program is in; meta member and chunk of a node
// run there, as in a cluster of machines. A cut takes the node's cable out of the bridge: packets vanish, nobody is told. Inside re-runs the
// program in a private network namespace, so that nothing of the machine's own network is touched; as root, or with user namespaces where the
// machine allows them.
//
//	this program's namespace     10.77.0.100 on bridge br0; 127.0.0.1:3260 login redirector
//	node n1, n2, n3              10.77.0.1 … .3: meta member, chunk with its disks as files
//
// Without namespaces (Options.Flat) the nodes are 127.0.77.1 … on loopback, and Cut says that it cannot.
//
// Processes die with the program. One that ended is started again only by Start.
package cluster
