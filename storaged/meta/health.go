package meta

import (
	"maps"
	"sync"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
)

const healthTick = 2 * time.Second

// memberHealth is what the leader last heard of the meta members.
type memberHealth struct {
	mu      sync.Mutex
	answers map[string]*storagedv1.ProbeResponse // by name; absent = silent
	at      time.Time
}

// healthLoop asks the other members how they are.
func (l *leader) healthLoop() {
	tick := beat.Every(healthTick)
	defer tick.Stop()
	silent := map[string]bool{}
	for {
		answers, _ := l.s.probePeers(l.ctx)
		l.health.mu.Lock()
		last := l.health.answers
		l.health.answers, l.health.at = map[string]*storagedv1.ProbeResponse{}, l.now()
		for _, a := range answers {
			l.health.answers[a.GetName()] = a
			delete(silent, a.GetName())
		}
		for name, a := range last {
			// Silent once is no fault: a busy machine may take longer than a probe waits.
			if l.health.answers[name] == nil && !silent[name] {
				silent[name], l.health.answers[name] = true, a
			}
		}
		l.health.mu.Unlock()
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *leader) members() []*storagedv1.MetaMember {
	l.health.mu.Lock()
	answers := maps.Clone(l.health.answers)
	l.health.mu.Unlock()
	var out []*storagedv1.MetaMember
	for _, m := range l.s.opts.Members {
		a := answers[m.Name]
		if m.Name == l.s.opts.Name {
			a = l.s.describe()
		}
		mm := &storagedv1.MetaMember{
			Name: m.Name, Address: m.GRPC, Healthy: a.GetMemberId() != 0 && a.GetLeaderId() != 0 && a.GetMessage() == "",
			Leader: m.Name == l.s.opts.Name, DbBytes: a.GetDbBytes(), Pid: a.GetPid(), Version: a.GetVersion(), Message: a.GetMessage(),
			CertificateExpires: a.GetCertificateExpires(),
		}
		switch {
		case a == nil:
			mm.Message = "does not answer at " + m.GRPC
		case a.GetMemberId() == 0 && mm.Message == "":
			mm.Message = "its etcd member is starting"
		case a.GetLeaderId() == 0 && mm.Message == "":
			mm.Message = "sees no leader"
		}
		out = append(out, mm)
	}
	return out
}
