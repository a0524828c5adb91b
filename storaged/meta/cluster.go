package meta

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// clusterService is the interface of nodes, disks and the whole.
type clusterService struct {
	storagedv1.UnimplementedClusterServer
	s *server
}

// GetStatus implements the RPC of the same name.
func (cs *clusterService) GetStatus(ctx context.Context, _ *storagedv1.GetStatusRequest) (*storagedv1.ClusterStatus, error) {
	st, _ := leaderOf(ctx).status()
	return st, nil
}

// status judges the whole; it also returns the volumes it judged.
func (l *leader) status() (*storagedv1.ClusterStatus, []*storagedv1.Volume) {
	in := statusFacts{Meta: l.members(), Now: l.now(), ErrorWindow: l.s.opts.ErrorWindow}
	l.view(func(s *state) {
		in.Cluster = s.cluster
		in.Leader = s.leader.Name
		in.Nodes, in.Disks = l.nodes(s), l.disks(s, "")
		chunks := l.chunkFacts(s)
		for _, v := range s.volumes {
			if v.State != metadb.StateReady {
				continue
			}
			in.Volumes = append(in.Volumes, l.volume(s, v, chunks, false))
			if f, ok := l.reg.volume(s.owners[v.ID].Chunk, v.ID); ok && in.Now.Sub(f.at) <= reportFresh && f.report.GetStatus().GetResyncBytesLeft() > 0 {
				in.Rate += f.rate
			}
		}
		in.Tasks = l.tasks(s)
	})
	return clusterStatus(in), in.Volumes
}

// nodes renders all nodes, by name.
func (l *leader) nodes(s *state) []*storagedv1.Node {
	chunks := l.chunkFacts(s)
	var out []*storagedv1.Node
	for id, c := range s.chunks {
		live := l.reg.live(id)
		n := &storagedv1.Node{
			Name: c.Node, Chunk: uint32(id), Zone: c.Zone, DataAddress: c.DataAddress, IscsiAddress: c.ISCSIAddress, ControlAddress: c.ControlAddress,
			State: "Offline", Mode: s.nodes[c.Node].Mode.String(), Version: c.Version, Pid: c.PID, OwnedVolumes: uint32(chunks[id].Owned), Sessions: live.Sessions,
		}
		if !live.LastSeen.IsZero() {
			n.LastSeen = timestamppb.New(live.LastSeen)
		}
		seen := l.reg.observed(id)
		n.CertificateExpires, n.LoginRefused = stampOf(seen.certificate), stampOf(seen.refusedAt)
		switch {
		case chunks[id].Present:
			n.State, n.ClockSkewNanoseconds = "Online", int64(seen.skew)
			var cut []string
			for _, u := range live.Unreachable {
				cut = append(cut, s.nodeOf(u))
			}
			n.Unreachable = cut
			if len(cut) > 0 {
				n.Message = "cannot reach " + strings.Join(cut, ", ") + ": check the storage network between them"
			}
		case live.LastSeen.IsZero() && !live.Dead:
			n.Expected = true
			n.Message = "not heard of since the leader changed a moment ago"
		case live.LastSeen.IsZero():
			n.Message = "not heard of since the leader changed: start storaged on it"
		default:
			n.Sessions = 0
			n.Message = "not heard of for " + l.now().Sub(live.LastSeen).Round(100_000_000).String() + ": start storaged on it, or check its network"
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *storagedv1.Node) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// disks renders the disks of a node, or all, by node and name.
func (l *leader) disks(s *state, node string) []*storagedv1.Disk {
	var out []*storagedv1.Disk
	for id, d := range s.disks {
		if node != "" && s.nodeOf(d.Chunk) != node {
			continue
		}
		out = append(out, l.disk(s, id, d))
	}
	slices.SortFunc(out, func(a, b *storagedv1.Disk) int {
		return strings.Compare(a.GetNode()+"/"+a.GetName()+"/"+a.GetId(), b.GetNode()+"/"+b.GetName()+"/"+b.GetId())
	})
	return out
}

func (l *leader) disk(s *state, id block.DiskID, d metadb.Disk) *storagedv1.Disk {
	u := s.usage[id]
	live := l.reg.live(d.Chunk)
	reports, full := l.reg.disksOf(d.Chunk)
	r := reports[id].GetDisk()
	out := &storagedv1.Disk{
		Id: id.String(), Name: d.Name, Node: s.nodeOf(d.Chunk), Chunk: uint32(d.Chunk), MountType: d.MountType, SizeBytes: d.SizeBytes, Device: d.Device,
		State: d.State.String(), Message: d.Message, Replicas: uint32(u.members), UsedBytes: r.GetUsedBytes(), IoErrors: r.GetIoErrors(), ChecksumErrors: r.GetChecksumErrors(),
		LastError: stampOf(l.reg.lastError(d.Chunk, id)), LatencyNanoseconds: r.GetLatencyNanoseconds(),
	}
	if !live.LastSeen.IsZero() {
		out.LastSeen = timestamppb.New(live.LastSeen)
	}
	switch {
	case d.State == metadb.DiskDraining && u.members+u.absent == 0:
		out.State, out.Message = diskStateDrained, "it holds nothing that is needed: it can be removed"
		if n := r.GetReplicas(); n > 0 && live.Present {
			out.Message = fmt.Sprintf("it holds nothing that is needed; deleting %s left on it", count(int(n), "replica"))
		}
	case d.State != metadb.DiskActive:
	case live.LastSeen.IsZero() && !live.Dead:
		out.Message = "its node has not been heard of since the leader changed a moment ago"
	case !live.Present:
		out.State, out.Message = diskStateMissing, "its node is offline"
	case full && r == nil:
		out.State, out.Message = diskStateMissing, "its node does not find it: check the disk, or remove it"
	case r != nil && r.GetState() != diskStateActive:
		out.State, out.Message = r.GetState(), r.GetMessage()
	case r != nil && r.GetMessage() != "":
		out.Message = r.GetMessage()
	}
	return out
}

// ListNodes implements the RPC of the same name.
func (cs *clusterService) ListNodes(ctx context.Context, _ *storagedv1.ListNodesRequest) (*storagedv1.ListNodesResponse, error) {
	l := leaderOf(ctx)
	out := &storagedv1.ListNodesResponse{}
	l.view(func(s *state) { out.Nodes = l.nodes(s) })
	return out, nil
}

// ListDisks implements the RPC of the same name.
func (cs *clusterService) ListDisks(ctx context.Context, req *storagedv1.ListDisksRequest) (*storagedv1.ListDisksResponse, error) {
	l := leaderOf(ctx)
	out := &storagedv1.ListDisksResponse{}
	l.view(func(s *state) { out.Disks = l.disks(s, req.GetNode()) })
	return out, nil
}

// GetCapacity implements the RPC of the same name.
func (cs *clusterService) GetCapacity(ctx context.Context, req *storagedv1.GetCapacityRequest) (*storagedv1.GetCapacityResponse, error) {
	l := leaderOf(ctx)
	factor := req.GetReplicaFactor()
	if factor == 0 {
		factor = 2
	}
	if factor > factorMax {
		return nil, failf(codes.InvalidArgument, "replica_factor: %d is not 1, 2 or 3", factor)
	}
	l.gather(ctx)
	var pool []diskRoom
	l.view(func(s *state) { pool = l.rooms(s) })
	n := capacity(pool, l.limits(), int(factor), req.GetThick(), req.GetTopologyNodes())
	return &storagedv1.GetCapacityResponse{AvailableBytes: n, MaximumVolumeBytes: min(n, uint64(sizeMax))}, nil
}

// SetNodeMode implements the RPC of the same name.
func (cs *clusterService) SetNodeMode(ctx context.Context, req *storagedv1.SetNodeModeRequest) (*storagedv1.Node, error) {
	l := leaderOf(ctx)
	var mode metadb.Mode
	switch req.GetMode() {
	case metadb.ModeActive.String():
	case metadb.ModeMaintenance.String():
		mode = metadb.ModeMaintenance
	default:
		return nil, failf(codes.InvalidArgument, "mode: %q is not active or maintenance", req.GetMode())
	}
	unlock, err := l.locks.lock(ctx, "node "+req.GetNode())
	if err != nil {
		return nil, err
	}
	defer unlock()
	known := false
	var n metadb.Node
	l.view(func(s *state) {
		_, known = s.chunkOfNode(req.GetNode())
		n = s.nodes[req.GetNode()]
	})
	if !known {
		return nil, failf(codes.NotFound, "node %q is not known: see the list of nodes", req.GetNode())
	}
	if n.Mode != mode {
		n.Name, n.Mode, n.Since = req.GetNode(), mode, l.now()
		if _, err := l.commit(ctx, metadb.PutNode(n)); err != nil {
			return nil, err
		}
		l.log.Info("node mode set", "node", n.Name, "mode", mode.String())
		l.reg.signal()
	}
	var out *storagedv1.Node
	l.view(func(s *state) {
		for _, node := range l.nodes(s) {
			if node.GetName() == req.GetNode() {
				out = node
			}
		}
	})
	return out, nil
}

// lockDisk serialises the calls that change one disk.
func (l *leader) lockDisk(ctx context.Context, text string) (metadb.Disk, func(), error) {
	id, err := block.ParseDiskID(text)
	if err != nil {
		return metadb.Disk{}, nil, failf(codes.InvalidArgument, "id: %v", err)
	}
	unlock, err := l.locks.lock(ctx, "disk "+id.String())
	if err != nil {
		return metadb.Disk{}, nil, err
	}
	var d metadb.Disk
	l.view(func(s *state) { d = s.disks[id] })
	return d, unlock, nil
}

// DrainDisk implements the RPC of the same name. The record is all there is to the drain: repair follows it.
func (cs *clusterService) DrainDisk(ctx context.Context, req *storagedv1.DrainDiskRequest) (*storagedv1.Disk, error) {
	l := leaderOf(ctx)
	d, unlock, err := l.lockDisk(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	switch {
	case d.Revision == 0:
		return nil, failf(codes.NotFound, "disk %s is not known: see the list of disks", req.GetId())
	case d.State == metadb.DiskFailed || d.State == metadb.DiskRemoved:
		return nil, failf(codes.FailedPrecondition, "disk %s is %s: its replicas are rebuilt elsewhere already", d.Name, d.State)
	}
	want := metadb.DiskDraining
	if req.GetCancel() {
		want = metadb.DiskActive
	}
	if d.State != want {
		d.State, d.Since, d.Message = want, l.now(), ""
		if _, err := l.commit(ctx, metadb.PutDisk(d)); err != nil {
			return nil, err
		}
		l.log.Info("disk state set", "disk", d.ID, "name", d.Name, "state", want.String())
	}
	var out *storagedv1.Disk
	l.view(func(s *state) { out = l.disk(s, d.ID, s.disks[d.ID]) })
	return out, nil
}

// RemoveDisk implements the RPC of the same name. A disk that a set has as a member is refused; one that is only remembered as
// absent may go if it is dead: its replicas are rebuilt elsewhere then.
func (cs *clusterService) RemoveDisk(ctx context.Context, req *storagedv1.RemoveDiskRequest) (*storagedv1.RemoveDiskResponse, error) {
	l := leaderOf(ctx)
	d, unlock, err := l.lockDisk(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if d.Revision == 0 || d.State == metadb.DiskRemoved {
		return &storagedv1.RemoveDiskResponse{}, nil
	}
	var refusal error
	l.view(func(s *state) { refusal = l.mayRemove(s, d) })
	if refusal != nil {
		return nil, refusal
	}
	d.State, d.Since, d.Message = metadb.DiskRemoved, l.now(), ""
	if _, err := l.commit(ctx, metadb.PutDisk(d)); err != nil {
		return nil, err
	}
	l.log.Info("disk removed", "disk", d.ID, "name", d.Name)
	return &storagedv1.RemoveDiskResponse{}, nil
}

func (l *leader) mayRemove(s *state, d metadb.Disk) error {
	u := s.usage[d.ID]
	rendered := l.disk(s, d.ID, d)
	dead := rendered.GetState() == diskStateMissing || d.State == metadb.DiskFailed
	if u.members == 0 && (u.absent == 0 || dead) {
		if u.absent == 0 && d.State == metadb.DiskActive && !dead {
			return failf(codes.FailedPrecondition, "disk %s is in use for new volumes: drain it first", d.Name)
		}
		return nil
	}
	var names []string
	for vid, list := range s.extents {
		if slices.ContainsFunc(list, func(e metadb.Extent) bool {
			return hasMember(&e, d.ID) || slices.ContainsFunc(e.Absent, func(a metadb.Absent) bool { return a.Disk == d.ID })
		}) {
			names = append(names, s.volumes[vid].Name)
		}
	}
	slices.Sort(names)
	more := ""
	if len(names) > 10 {
		more = ", …"
		names = names[:10]
	}
	next := "drain it and wait until its state is Drained"
	if d.State == metadb.DiskDraining || dead {
		next = "wait until they are rebuilt on other disks"
	}
	return failf(codes.FailedPrecondition, "disk %s holds replicas of %s (%s%s): %s", d.Name, count(u.members+u.absent, "extent"), strings.Join(names, ", "), more, next)
}

// RemoveNode implements the RPC of the same name.
func (cs *clusterService) RemoveNode(ctx context.Context, req *storagedv1.RemoveNodeRequest) (*storagedv1.RemoveNodeResponse, error) {
	l := leaderOf(ctx)
	unlock, err := l.locks.lock(ctx, "registration")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var c metadb.Chunk
	var ops []metadb.Op
	var refusal error
	l.view(func(s *state) {
		var ok bool
		if c, ok = s.chunkOfNode(req.GetNode()); !ok {
			return
		}
		var left []string
		for _, d := range s.disks {
			u := s.usage[d.ID]
			if d.Chunk == c.ID && (d.State != metadb.DiskRemoved || u.members+u.absent > 0) {
				left = append(left, d.Name)
			} else if d.Chunk == c.ID {
				ops = append(ops, metadb.DeleteDisk(d))
			}
		}
		slices.Sort(left)
		switch {
		case len(left) > 0:
			refusal = failf(codes.FailedPrecondition, "node %s has %s (%s): drain and remove them first", c.Node, count(len(left), "disk"), strings.Join(left, ", "))
		case l.reg.live(c.ID).Present:
			refusal = failf(codes.FailedPrecondition, "storaged runs on node %s: stop it first", c.Node)
		}
		ops = append(ops, metadb.DeleteChunk(c))
		if n, ok := s.nodes[c.Node]; ok {
			ops = append(ops, metadb.DeleteNode(n))
		}
	})
	if c.ID == 0 {
		return &storagedv1.RemoveNodeResponse{}, nil
	}
	if refusal != nil {
		return nil, refusal
	}
	if _, err := l.commit(ctx, ops...); err != nil {
		return nil, err
	}
	l.reg.forget(c.ID)
	l.log.Info("node removed", "node", c.Node, "chunk", c.ID)
	return &storagedv1.RemoveNodeResponse{}, nil
}

// ListTasks implements the RPC of the same name.
func (cs *clusterService) ListTasks(ctx context.Context, _ *storagedv1.ListTasksRequest) (*storagedv1.ListTasksResponse, error) {
	l := leaderOf(ctx)
	out := &storagedv1.ListTasksResponse{}
	l.view(func(s *state) { out.Tasks = l.tasks(s) })
	return out, nil
}

// tasks renders what is under way: copies as the owners report them, drains, moves, and deletions.
func (l *leader) tasks(s *state) []*storagedv1.Task {
	var out []*storagedv1.Task
	l.repair.mu.Lock()
	stuck := maps.Clone(l.repair.stuck)
	rebuilding := map[block.VolumeID]int{}
	for k := range l.repair.copies {
		rebuilding[k.extent.Volume]++
	}
	l.repair.mu.Unlock()
	for id, v := range s.volumes {
		o := s.owners[id]
		f, ok := l.reg.volume(o.Chunk, id)
		st := f.report.GetStatus()
		kind := "resync"
		if rebuilding[id] > 0 {
			kind = "rebuild"
		}
		if fresh := ok && f.report.GetEpoch() == uint64(o.Epoch) && l.now().Sub(f.at) <= reportFresh; fresh && st.GetResyncBytesLeft() > 0 || rebuilding[id] > 0 {
			out = append(out, &storagedv1.Task{
				Id: kind + "-" + id.String(), Kind: kind, Object: "volume/" + v.Name, State: "Running",
				BytesDone: st.GetResyncBytesDone(), BytesTotal: st.GetResyncBytesDone() + st.GetResyncBytesLeft(),
			})
		}
		if w, ok := stuck[id]; ok && l.now().Sub(w.at) < 2*repairAgain {
			out = append(out, &storagedv1.Task{Id: "rebuild-" + id.String(), Kind: "rebuild", Object: "volume/" + v.Name, State: "Waiting", Message: w.reason})
		}
	}
	for id, d := range s.disks {
		u := s.usage[id]
		if d.State != metadb.DiskDraining || u.members+u.absent == 0 {
			continue
		}
		out = append(out, &storagedv1.Task{
			Id: "drain-" + id.String(), Kind: "drain", Object: "disk/" + d.Name, State: "Running", Started: timestamppb.New(d.Since),
			Message: count(u.members+u.absent, "replica") + " left on it",
		})
	}
	l.moves.mu.Lock()
	for id, m := range l.moves.active {
		out = append(out, &storagedv1.Task{
			Id: "move-" + id.String(), Kind: "move", Object: "volume/" + s.volumes[id].Name, State: "Running", Started: timestamppb.New(m.since),
			Message: "from node " + s.nodeOf(m.from) + " to node " + s.nodeOf(m.to),
		})
	}
	l.moves.mu.Unlock()
	for id, t := range s.tombstones {
		var nodes []string
		for _, c := range t.Chunks {
			nodes = append(nodes, s.nodeOf(c))
		}
		out = append(out, &storagedv1.Task{
			Id: "collect-" + id.String(), Kind: "collect", Object: "volume/" + t.Name, State: "Running", Started: timestamppb.New(t.Created),
			Message: "replicas to delete on " + strings.Join(nodes, ", "),
		})
	}
	slices.SortFunc(out, func(a, b *storagedv1.Task) int { return strings.Compare(a.GetId(), b.GetId()) })
	return out
}
