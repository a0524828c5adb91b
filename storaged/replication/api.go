package replication

// The calls of the three machines, for the shell:
//
//	o := NewOwner(OwnerOptions)                          a volume was assigned to this chunk
//	o.Start(now, out) out                                take the epoch from the members
//	o.PeerUp(now, chunk, incarnation, out) out           a chunk can be reached (also the own one, once); counts a new session
//	o.PeerDown(now, chunk, out) out                      its connections are gone
//	o.PeerAway(now, chunk, since, out) out               they were gone before the owner was made
//	o.Receive(now, from, *Message, out) out              an answer of a replica
//	o.Write(now, WriteRequest, out) out                  → EffComplete
//	o.Read(now, ReadRequest, out) out                    → EffPiece*, EffComplete
//	o.Flush(now, tag, out) out                           → EffComplete when all writes called before are completed
//	o.Lock(now, LockRequest, out) out                    → EffLocked, or EffComplete with an error
//	o.Unlock(now, LockID, out) out
//	o.Arrived()                                          an initiator logs in: before its first request
//	o.Initiators(n)                                      number of initiators logged in (reads are confirmed if > 1, I4)
//	o.SetChanged(now, SetResult, out) out                outcome of EffSetChange
//	o.Excluded(now, epoch, out) out                      a promise does not cover this volume's epochs below epoch → EffLost
//	o.Barrier(now, tag, out) out                         → EffCommitSnapshot … BarrierResult → EffComplete
//	o.BarrierResult(now, tag, committed, out) out
//	o.Release(now, to, out) out                          planned move → EffSetOwner, EffLost
//	o.Grow(now, records, sizeBlocks, out) out            extents were appended
//	o.AddMember(now, extent, Member, out) out            rebuild onto a new disk → ReportJoined or ReportJoinFailed
//	o.RemoveMember(now, extent, disk, out) out           drain → ReportSet or ReportRefused
//	o.ResyncBudget(now, bytes, inFlight, out) out        lets resync copy so many bytes more; none without it
//	o.ScrubBudget(now, bytes, out) out                   lets scrub read so many bytes more; none without it
//	o.ScrubAgain(now, out) out                           has scrub read the whole volume once from its first block
//	o.Joining() bool                                     a resync is under way
//	o.Latency() Latency                                  of the clients' requests since the last call
//	o.SetSnapshots([]SnapSeq)                            the views that exist
//	o.Tick(now, out) out                                 every TickInterval, unless
//	o.Quiet() bool                                       nothing is to be done until another method is called
//	o.ScrubPasses() uint64                               how often scrub has come to the end of the volume
//	o.Status() OwnerStatus
//
//	r := NewReplica(ReplicaOptions)
//	r.Receive(from, *Message, out) out                   questions of owners
//	r.EpochFree(epoch, out)        out                   EffFree of Lease
//	r.StoreDone(*StoreDone, out) out
//	r.Epoch() (block.Epoch, owner block.ChunkID)
//
//	l := NewLease(LeaseOptions)
//	l.PeerUp(chunk), l.PeerDown(chunk)
//	l.Receive(now, from, *Message, out) out
//	l.Wanted(now, VolumeEpoch, holder, asker, out) out   EffAskLease
//	l.Released(now, VolumeEpoch, out) out                this chunk does not serve the volume below that epoch any more
//	l.Promise(chunk) *Promise                            held; for concurrent use
//	l.Chain(chunk) uint64                                given; for concurrent use
//	l.Tick(now, out) out                                 at
//	l.Next() Time                                        which any other method may bring forward
//
// An Owner that has emitted EffLost ignores every further call.
