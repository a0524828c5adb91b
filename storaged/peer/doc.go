// Package peer carries frames between chunks.
//
// Each chunk keeps, to every other chunk, one Link of two outgoing connections: Data (requests of volumes owned here and
// their answers) and Control (heartbeats, so that they never queue behind data). The peer's own requests come in over
// connections it opened. A connection begins with a mutual TLS 1.3 handshake by role and a hello that names cluster,
// chunk, process start (boot id) and feature level; then both sides leave TLS, unless payload encryption is on.
//
//	Dial ──TLS──▶ Hello ──▶ Hello ──▶ switch ──▶ frames ⇄ frames
//
// Goroutines: one reader and one writer per connection, one dialler per Link and class; all end when Network.Close
// returns. The reader calls Handler.Frame for each frame and Handler.Idle when no further whole frame may be waiting, so
// that handlers can answer in batches (package wakes). What a batch has queued is sent with one writev: by the goroutine that ends the batch as
// far as the socket takes it at once, the rest by the writer.
// The queue of a connection is bounded by QueueMaxBytes: a peer that does not read is disconnected, never waited for.
//
// Nothing is resent: what was queued on a connection that broke is lost, and the protocol core is told (Handler.Down).
package peer
