package replication

import "sync/atomic"

// Promise is what a chunk has promised to this one (I4): until when, and as part of which unbroken chain. One writer (the shell, doing
// EffExtend), any number of readers.
type Promise struct{ p atomic.Pointer[term] }

type term struct {
	until Time
	chain uint64
}

// Extend sets the promise. It never shortens one of the same chain, nor goes back to an older chain.
func (p *Promise) Extend(until Time, chain uint64) {
	if t := p.p.Load(); t != nil && (t.chain > chain || t.chain == chain && t.until >= until) {
		return
	}
	p.p.Store(&term{until, chain})
}

// Load returns the end of the promise on the own clock and its chain; 0, 0 if there never was one.
func (p *Promise) Load() (Time, uint64) {
	if t := p.p.Load(); t != nil {
		return t.until, t.chain
	}
	return 0, 0
}
