// Package host tells what a node's machine can do: its addresses, and which way of attaching volumes it supports.
//
// It looks at files of the machine (the agent's pod has hostPID, so /proc/1/root is the machine's root) and at the kernel; it runs nothing
// and changes nothing.
package host
