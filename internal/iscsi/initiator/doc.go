// Package initiator is an iSCSI initiator for one logical unit that survives the loss of connections and owners. The attacher, checks,
// tests and load generators use it.
//
//	s, err := initiator.Dial(ctx, initiator.Options{Portals: []string{"127.0.0.1:3260"}, Target: iqn, Initiator: name})
//	err = s.WriteAt(ctx, data, offset)       // simple, blocking
//	s.Submit(&initiator.Request{Op: initiator.Read, Offset: 0, Data: buf, Done: done})  // asynchronous, allocates nothing
//
// A session has one connection at a time. It is given up when it breaks, when the target does not answer a ping, or when the target
// asks for a logout because the volume moves. Then portals are tried in turn, with redirections followed, until one serves, and
// what was unfinished is sent again:
//
//   - READ, WRITE, WRITE SAME, UNMAP, SYNCHRONIZE CACHE and the commands that only ask: sent again. This is safe, since the target lets
//     a session in only after the writes of the one it replaces are applied or can never be (I14).
//   - everything else, such as COMPARE AND WRITE and PERSISTENT RESERVE OUT: ErrOutcomeUnknown.
//
// After Options.Replacement without a connection everything fails with ErrUnreachable, until there is one again; with ErrRefused and at once
// when the portals say that this initiator or target is not wanted any more.
//
// Goroutines: one that connects, and per connection a reader, which calls Done, and a writer. Close ends them all.
package initiator
