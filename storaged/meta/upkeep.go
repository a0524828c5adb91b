package meta

import (
	"context"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// upkeepInterval is how often a member looks at the size of its database.
const upkeepInterval = 15 * time.Second

// upkeepLoop keeps etcd's database below its quota: old revisions are compacted automatically; the file is defragmented when
// half of it is free and it is large, or when the NOSPACE alarm stands, which is lifted once there is room again.
func (s *server) upkeepLoop(ctx context.Context, e *embed.Etcd, cli *clientv3.Client) {
	tick := time.NewTicker(upkeepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.upkeep(ctx, e, cli)
		}
	}
}

func (s *server) upkeep(ctx context.Context, e *embed.Etcd, cli *clientv3.Client) {
	mine := uint64(e.Server.MemberID())
	full := false
	for _, a := range e.Server.Alarms() {
		if a.GetAlarm() == pb.AlarmType_NOSPACE && a.GetMemberID() == mine {
			full = true
		}
	}
	size, used := e.Server.Backend().Size(), e.Server.Backend().SizeInUse()
	if full {
		s.log.Error("the metadata database is full; compacting and defragmenting it", "dbBytes", size, "usedBytes", used, "quotaBytes", s.opts.QuotaBytes)
		// Compaction is not refused by the alarm. Watches that lag list again. Physical: what defragmentation can give back is only
		// known when the old revisions are gone from the file.
		if _, err := cli.Compact(ctx, e.Server.KV().Rev(), clientv3.WithCompactPhysical()); err != nil {
			s.log.Warn("compacting the metadata failed", "error", err)
		}
	}
	if !full && !worthDefragmenting(size, used) {
		return
	}
	start := time.Now()
	if err := e.Server.Defragment(); err != nil {
		s.log.Error("defragmenting the metadata database failed", "error", err)
		return
	}
	size = e.Server.Backend().Size()
	s.log.Info("metadata database defragmented", "dbBytes", size, "took", time.Since(start))
	if !full {
		return
	}
	if size > s.opts.QuotaBytes/10*9 {
		s.log.Error("the metadata database is still nearly full: delete volumes or snapshots that are not needed", "dbBytes", size)
		return
	}
	if _, err := cli.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: mine, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		s.log.Warn("lifting the alarm failed; trying again", "error", err)
		return
	}
	s.log.Info("the metadata database takes writes again")
}

// worthDefragmenting is true for a file of at least 256 MiB of which more than half is free. The member serves nothing
// meanwhile, about a second per GiB, so it is not done for less.
func worthDefragmenting(size, used int64) bool { return size >= 256<<20 && used < size/2 }

func alarmText(e *embed.Etcd) string {
	var out []string
	for _, a := range e.Server.Alarms() {
		switch a.GetAlarm() {
		case pb.AlarmType_NOSPACE:
			out = append(out, "the metadata database is full; it is being compacted")
		case pb.AlarmType_CORRUPT:
			out = append(out, "the metadata database of a member is corrupt: stop that member, move its data directory away, start it again")
		}
	}
	return strings.Join(out, "; ")
}
