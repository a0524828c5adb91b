package pagebuf

// slabMin is the smallest buffer that is cut from a slab.
const slabMin = 64 << 10

// cut returns a new buffer of a class. From slabMin on it is one of a slab, whose others are free then: memory that the kernel is asked to back with huge
// pages. A disk's request for a MiB in small pages has 256 pieces, each of which is pinned, described to the device and released by itself, which costs
// more processor time than the request; in huge pages it has one or two. Memory that is not touched is not used. A slab goes with the last of its
// buffers, by the collector.
func (p *Pool) cut(class int) *Buf {
	size, n := 1<<(minShift+class), 1
	if size >= slabMin {
		n = max(hugePage, min(4*size, MaxSize)) / size
	}
	slab := Aligned(n * size)
	bufs := make([]Buf, n)
	for i := range bufs {
		bufs[i].full = slab[i*size : (i+1)*size : (i+1)*size]
		bufs[i].class, bufs[i].pool = int8(class), p
	}
	p.free.Add(int64(n-1) * int64(size))
	cl := &p.classes[class]
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for i := range bufs[1:] {
		cl.bufs = append(cl.bufs, &bufs[1+i])
	}
	return &bufs[0]
}
