package replication

// Latency sums up how long clients' reads and writes took from being sent to the replicas until they were answered.
type Latency struct {
	Requests uint64
	Total    Duration
}

func (l *Latency) add(d Duration) {
	l.Requests++
	l.Total += max(0, d)
}

// Joining reports whether anything is being resynced.
func (o *Owner) Joining() bool { return o.joins > 0 }

// Latency returns the sum since the last call, for who paces what must not be in the clients' way.
func (o *Owner) Latency() Latency {
	l := o.latency
	o.latency = Latency{}
	return l
}
