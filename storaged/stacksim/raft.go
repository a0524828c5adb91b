package stacksim

import (
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// raft decides which meta member leads. The members learn of a change at different times, so that for a moment two can believe that they lead.
type raft struct {
	mu      sync.Mutex
	rng     *rand.Rand
	term    uint64
	leader  types.ID
	members []*raftMember
}

// raftMember is the view of one member. It implements meta.Raft.
type raftMember struct {
	r       *raft
	id      types.ID
	leader  types.ID
	term    uint64
	changed chan struct{}
}

func newRaft(rng *rand.Rand, members int) *raft {
	r := &raft{rng: rng}
	for i := range members {
		r.members = append(r.members, &raftMember{r: r, id: types.ID(i + 1), changed: make(chan struct{})})
	}
	return r
}

// elect makes a member the leader of a new term; 0 leaves the cluster without one.
func (r *raft) elect(id types.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term++
	r.leader = id
	term := r.term
	for _, m := range r.members {
		time.AfterFunc(time.Duration(r.rng.Int64N(int64(300*time.Millisecond))), func() { m.learn(id, term) })
	}
}

func (m *raftMember) learn(id types.ID, term uint64) {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	if term <= m.term {
		return
	}
	m.leader, m.term = id, term
	close(m.changed)
	m.changed = make(chan struct{})
}

// MemberID implements meta.Raft.
func (m *raftMember) MemberID() types.ID { return m.id }

// Leader implements meta.Raft.
func (m *raftMember) Leader() types.ID {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	return m.leader
}

// Term implements meta.Raft.
func (m *raftMember) Term() uint64 {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	return m.term
}

// IsLearner implements meta.Raft.
func (m *raftMember) IsLearner() bool { return false }

// LeaderChangedNotify implements meta.Raft.
func (m *raftMember) LeaderChangedNotify() <-chan struct{} {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	return m.changed
}

func (r *raft) leaderNow() types.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader
}
