// Package daemon is the agent's process: it wires discovery, claims, Kubernetes, the socket and the metrics together.
//
// Goroutines: one makes all rounds; others (uevents, watches of objects, a look at the disk directory) only ask for one. Requests that
// come while a round runs are served by one more round after it. Everything ends with the context.
package daemon
