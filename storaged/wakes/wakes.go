// Package wakes collects wake-ups. Whoever deals with many requests at a time, because they came in together, hands each on without waking who is
// to go on with it, and wakes everyone once at the end. So a batch stays a batch on its way: one message, one flush, one answer for many requests,
// and one hand-over between goroutines.
package wakes

// Sleeper is given work without being woken, and woken by Wake. Wake does nothing if there is no work or if it is awake. Implementations are
// pointers.
type Sleeper interface{ Wake() }

// List holds those who are to be woken. The zero value is empty; a nil List stands for a request that comes alone: it wakes at once. Not safe for
// concurrent use.
type List struct {
	n    int
	who  [8]Sleeper
	more []Sleeper
}

// Later notes that s has work, each s once. The caller holds no lock that Wake takes.
func (l *List) Later(s Sleeper) {
	if l == nil {
		s.Wake()
		return
	}
	for _, x := range l.who[:l.n] {
		if x == s {
			return
		}
	}
	if l.n < len(l.who) {
		l.who[l.n] = s
		l.n++
		return
	}
	for _, x := range l.more {
		if x == s {
			return
		}
	}
	l.more = append(l.more, s)
}

// Wake wakes everyone noted, in the order of the first work given, and empties the list. Work given meanwhile is dealt with too.
func (l *List) Wake() {
	for i := 0; i < l.n; i++ {
		s := l.who[i]
		s.Wake()
	}
	for i := 0; i < len(l.more); i++ {
		l.more[i].Wake()
	}
	clear(l.who[:l.n])
	clear(l.more)
	l.n, l.more = 0, l.more[:0]
}
