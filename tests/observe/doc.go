// Command observe breaks a block service of real processes, one fault after the other, and checks what its users are told: that the status
// changes within 15 s, that Prometheus (Debian's, with the chart's own rules) fires exactly the alerts that belong to the fault, that `storaged ctl
// why` names the cause first, and that everything is OK again when the fault is gone. Before, every query of every dashboard is evaluated against
// that Prometheus, and the cost of being scraped is measured.
//
// Windows of the rules are shortened, in proportion, so that a run takes minutes. It runs in a private network namespace (package
// tests/faults/cluster) and needs root and the Debian packages of hack/deps.sh. Exit code 1: something was not told as it should be.
package main
