package stacksim

import (
	"bytes"
	"sort"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcd is the metadata store in memory: keys with all their versions since the last compaction, transactions with comparisons, nested
// ones included, and the events of every revision. It is always consistent; what fails is the way to it (etcdClient).
type etcd struct {
	mu        sync.Mutex
	revision  int64
	compacted int64
	keys      map[string][]*mvccpb.KeyValue // versions, oldest first; Version 0: deleted
	events    []*clientv3.Event             // by revision
	changed   chan struct{}                 // closed and replaced at each revision
}

func newEtcd() *etcd {
	return &etcd{revision: 1, keys: map[string][]*mvccpb.KeyValue{}, changed: make(chan struct{})}
}

// at is a key as of a revision, or nil.
func (e *etcd) at(key string, rev int64) *mvccpb.KeyValue {
	vs := e.keys[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].ModRevision <= rev {
			if vs[i].Version == 0 {
				return nil
			}
			return vs[i]
		}
	}
	return nil
}

// in lists what there is of [key, end) as of a revision; an empty end is the one key, "\x00" everything from key on.
func (e *etcd) in(key, end []byte, rev int64) []*mvccpb.KeyValue {
	if len(end) == 0 {
		if kv := e.at(string(key), rev); kv != nil {
			return []*mvccpb.KeyValue{kv}
		}
		return nil
	}
	var out []*mvccpb.KeyValue
	for k := range e.keys {
		if within([]byte(k), key, end) {
			if kv := e.at(k, rev); kv != nil {
				out = append(out, kv)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].Key, out[j].Key) < 0 })
	return out
}

func within(k, key, end []byte) bool {
	if len(end) == 0 {
		return bytes.Equal(k, key)
	}
	return bytes.Compare(k, key) >= 0 && (len(end) == 1 && end[0] == 0 || bytes.Compare(k, end) < 0)
}

// change is what a transaction under way has done so far. It sees its own writes.
type change struct {
	e      *etcd
	rev    int64
	events []*clientv3.Event
}

// commit performs a transaction.
func (e *etcd) commit(cmps []clientv3.Cmp, then, orElse []clientv3.Op) (*pb.TxnResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &change{e: e, rev: e.revision + 1}
	resp, err := c.txn(cmps, then, orElse)
	if err != nil {
		return nil, err
	}
	if len(c.events) > 0 {
		e.revision = c.rev
		e.events = append(e.events, c.events...)
		close(e.changed)
		e.changed = make(chan struct{})
	}
	c.stamp(resp)
	return resp, nil
}

func (c *change) stamp(r *pb.TxnResponse) {
	r.Header = c.header()
	for _, o := range r.Responses {
		switch x := o.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			x.ResponseRange.Header = c.header()
		case *pb.ResponseOp_ResponseTxn:
			c.stamp(x.ResponseTxn)
		}
	}
}

func (c *change) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 1, Revision: c.e.revision, RaftTerm: 1}
}

func (c *change) txn(cmps []clientv3.Cmp, then, orElse []clientv3.Op) (*pb.TxnResponse, error) {
	r := &pb.TxnResponse{Succeeded: true}
	for i := range cmps {
		if !c.holds(cmps[i].GetCompare()) {
			r.Succeeded = false
		}
	}
	ops := then
	if !r.Succeeded {
		ops = orElse
	}
	for _, op := range ops {
		o, err := c.do(op)
		if err != nil {
			return nil, err
		}
		r.Responses = append(r.Responses, o)
	}
	return r, nil
}

func (c *change) holds(x *pb.Compare) bool {
	kv := c.e.at(string(x.Key), c.rev)
	var have, want int64
	switch x.Target {
	case pb.Compare_MOD:
		have, want = kv.GetModRevision(), x.GetModRevision()
	case pb.Compare_CREATE:
		have, want = kv.GetCreateRevision(), x.GetCreateRevision()
	case pb.Compare_VERSION:
		have, want = kv.GetVersion(), x.GetVersion()
	case pb.Compare_VALUE:
		if kv == nil {
			return false
		}
		have = int64(bytes.Compare(kv.Value, x.GetValue()))
	default:
		return false
	}
	switch x.Result {
	case pb.Compare_EQUAL:
		return have == want
	case pb.Compare_GREATER:
		return have > want
	case pb.Compare_LESS:
		return have < want
	}
	return have != want
}

func (c *change) do(op clientv3.Op) (*pb.ResponseOp, error) {
	switch {
	case op.IsTxn():
		r, err := c.txn(op.Txn())
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: r}}, err
	case op.IsPut():
		c.put(op.KeyBytes(), op.ValueBytes())
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}, nil
	case op.IsDelete():
		list := c.e.in(op.KeyBytes(), op.RangeBytes(), c.rev)
		for _, kv := range list {
			c.add(&mvccpb.KeyValue{Key: kv.Key, ModRevision: c.rev}, mvccpb.Event_DELETE)
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: int64(len(list))}}}, nil
	}
	r, err := c.read(op)
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}, err
}

func (c *change) put(key, value []byte) {
	kv := &mvccpb.KeyValue{Key: bytes.Clone(key), Value: bytes.Clone(value), ModRevision: c.rev, CreateRevision: c.rev, Version: 1}
	if old := c.e.at(string(key), c.rev); old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	c.add(kv, mvccpb.Event_PUT)
}

func (c *change) add(kv *mvccpb.KeyValue, kind mvccpb.Event_EventType) {
	c.e.keys[string(kv.Key)] = append(c.e.keys[string(kv.Key)], kv)
	c.events = append(c.events, &clientv3.Event{Type: kind, Kv: kv})
}

func (c *change) read(op clientv3.Op) (*pb.RangeResponse, error) {
	rev := c.rev
	if op.Rev() > 0 {
		switch rev = op.Rev(); {
		case rev < c.e.compacted:
			return nil, rpctypes.ErrCompacted
		case rev > c.e.revision:
			return nil, rpctypes.ErrFutureRev
		}
	}
	list := c.e.in(op.KeyBytes(), op.RangeBytes(), rev)
	r := &pb.RangeResponse{Count: int64(len(list))}
	if op.IsCountOnly() {
		return r, nil
	}
	if n := int(op.Limit()); n > 0 && len(list) > n {
		list, r.More = list[:n], true
	}
	for _, kv := range list {
		x := &mvccpb.KeyValue{Key: kv.Key, Value: kv.Value, ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision, Version: kv.Version}
		if op.IsKeysOnly() {
			x.Value = nil
		}
		r.Kvs = append(r.Kvs, x)
	}
	return r, nil
}

// compact forgets what was replaced at or before a revision.
func (e *etcd) compact(rev int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if rev <= e.compacted || rev > e.revision {
		return
	}
	e.compacted = rev
	for k, vs := range e.keys {
		keep := 0
		for i, kv := range vs {
			if kv.ModRevision <= rev {
				keep = i
			}
		}
		if vs = vs[keep:]; len(vs) == 1 && vs[0].Version == 0 && vs[0].ModRevision <= rev {
			delete(e.keys, k)
			continue
		}
		e.keys[k] = vs
	}
	i := sort.Search(len(e.events), func(i int) bool { return e.events[i].Kv.ModRevision > rev })
	e.events = e.events[i:]
	close(e.changed)
	e.changed = make(chan struct{})
}

// since lists the events in [key, end) from a revision on, with the revision they lead up to; compacted is not 0 if some are forgotten.
func (e *etcd) since(key, end []byte, rev int64) (list []*clientv3.Event, upTo, compacted int64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if rev <= e.compacted {
		return nil, 0, e.compacted, nil
	}
	i := sort.Search(len(e.events), func(i int) bool { return e.events[i].Kv.ModRevision >= rev })
	for _, ev := range e.events[i:] {
		if within(ev.Kv.Key, key, end) {
			list = append(list, ev)
		}
	}
	return list, e.revision, 0, e.changed
}
