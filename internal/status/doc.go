// Package status is the one vocabulary of how things are: four states, and findings that say why.
//
//	OK           everything that is wished for is there
//	Degraded     something is missing or sick; any single further fault is still survived
//	At risk      one more fault would stop or lose data
//	Unavailable  some data does not serve
//
// Evaluate is a pure function of facts. It is what the metadata leader answers, and what `kubectl iomesh status`, the operator's
// conditions, the CSI driver's volume condition, the metrics and the TUI show: each adds the facts that only it knows and evaluates again.
// Two properties hold and are tested: every combination of facts has a state (total), and a fault more never makes the state better
// (monotone). The state of a whole is the worst of its findings'; a finding of state OK is worth knowing and no fault.
//
// A finding has a code, which is also the name of the alert (with the prefix IOMesh) and of the page in docs/runbooks, the object it is about,
// a reason, the evidence, the next step, and the time of the facts it follows from. Facts older than StaleAfter are stale: what follows from
// them is marked, and that nobody answers is itself a finding, because nothing that fails meanwhile will be made good.
//
// Why orders the findings that concern one object: causes before consequences, so that the first is what to look at.
//
// The package knows nothing of Kubernetes, files or sockets.
package status
