package meta

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	_ "go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	_ "go.etcd.io/etcd/server/v3/storage/mvcc"
)

// Two intervals of etcd for which it has no options.
//
//   - Each member opens a TLS connection to each other member every four seconds, only to measure the round trip for its metrics and a warning in its log:
//     a fifth of what an idle member costs. Whether a member is alive is told by raft's heartbeats.
//   - Ten times a second it looks whether there are watches that have to catch up. A watch that is opened anew after the failure of a member waits
//     for that, so it may not be much longer.
const (
	probeEvery = time.Minute
	watchEvery = 300 * time.Millisecond
)

//go:linkname rafthttpProberInterval go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp.proberInterval
var rafthttpProberInterval time.Duration

//go:linkname mvccWatchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var mvccWatchResyncPeriod time.Duration

// calmEtcd sets them, once for all members of the process, before the first one starts.
var calmEtcd = sync.OnceFunc(func() {
	rafthttpProberInterval, mvccWatchResyncPeriod = probeEvery, watchEvery
})
