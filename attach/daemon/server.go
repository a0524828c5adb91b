package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/loop"
	"golang.org/x/sys/unix"
)

// Server is the gRPC face of a daemon.
type Server struct {
	attachv1.UnimplementedAttacherServer
	Daemon *Daemon
}

// Attach implements attachv1.AttacherServer.
func (s Server) Attach(ctx context.Context, in *attachv1.AttachRequest) (*attachv1.Attachment, error) {
	t, err := targetOf(in)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	v, err := s.Daemon.attach(ctx, t)
	if err != nil {
		return nil, statusOf(err)
	}
	return v.status(), nil
}

// Detach implements attachv1.AttacherServer.
func (s Server) Detach(ctx context.Context, in *attachv1.DetachRequest) (*attachv1.DetachResponse, error) {
	if err := checkVolumeID(in.GetVolumeId()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.Daemon.detach(ctx, in.GetVolumeId()); err != nil {
		return nil, statusOf(err)
	}
	return &attachv1.DetachResponse{}, nil
}

// Resize implements attachv1.AttacherServer.
func (s Server) Resize(ctx context.Context, in *attachv1.ResizeRequest) (*attachv1.Attachment, error) {
	if err := checkVolumeID(in.GetVolumeId()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	v, err := s.Daemon.resize(ctx, in.GetVolumeId())
	if err != nil {
		return nil, statusOf(err)
	}
	return v.status(), nil
}

// List implements attachv1.AttacherServer.
func (s Server) List(context.Context, *attachv1.ListRequest) (*attachv1.ListResponse, error) {
	out := &attachv1.ListResponse{}
	d := s.Daemon
	d.mu.Lock()
	volumes, broken := maps.Clone(d.volumes), maps.Clone(d.broken)
	d.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(volumes)) {
		out.Attachments = append(out.Attachments, volumes[id].status())
	}
	for _, id := range slices.Sorted(maps.Keys(broken)) {
		out.Attachments = append(out.Attachments, broken[id].status())
	}
	return out, nil
}

// status is the volume as List shows it. It may be called while a call works on the volume.
func (v *volume) status() *attachv1.Attachment {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.rec.status()
	a.State, a.Message = attachv1.State_STATE_ATTACHED, ""
	a.Major, a.Minor = v.major, v.minor
	a.SizeBytes = uint64(v.sizeBytes)
	if v.file != nil {
		a.IoErrors, a.LastError = v.file.Errors()
	}
	if err := v.alive(); err != nil {
		a.State, a.Message = attachv1.State_STATE_BROKEN, err.Error()
	}
	if v.detaching != "" {
		a.State, a.Message = attachv1.State_STATE_DETACHING, v.detaching+"; it vanishes with its last user"
	}
	return a
}

// status is what is known of a volume of an earlier process.
func (r record) status() *attachv1.Attachment {
	a := &attachv1.Attachment{
		VolumeId: r.VolumeID, Device: r.Device, SizeBytes: uint64(r.SizeBytes), ReadOnly: r.ReadOnly,
		Iqn: r.IQN, Initiator: r.Initiator, Since: timestamppb.New(r.Since),
		State:   attachv1.State_STATE_BROKEN,
		Message: "the attacher was restarted while the device was in use; its I/O fails: delete the pods that use the volume",
	}
	var st unix.Stat_t
	if unix.Stat(r.Device, &st) == nil {
		a.Major, a.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return a
}

// targetOf checks a request.
func targetOf(in *attachv1.AttachRequest) (Target, error) {
	t := Target{
		VolumeID: in.GetVolumeId(), IQN: in.GetIqn(), LUN: in.GetLun(), Portals: in.GetPortals(), Initiator: in.GetInitiator(), ReadOnly: in.GetReadOnly(),
		Credentials: Credentials{
			User: in.GetChapUser(), Secret: in.GetChapSecret(), MutualUser: in.GetMutualUser(), MutualSecret: in.GetMutualSecret(),
		},
	}
	if err := checkVolumeID(t.VolumeID); err != nil {
		return t, err
	}
	for what, name := range map[string]string{"target": t.IQN, "initiator": t.Initiator} {
		if !isISCSIName(name) {
			return t, fmt.Errorf("%s name %q: want an iSCSI name (iqn., eui. or naa.; RFC 7143 section 4.2.7) of at most 223 bytes", what, name)
		}
	}
	if len(t.Portals) == 0 || len(t.Portals) > 64 {
		return t, fmt.Errorf("%d portals: want 1 to 64 of host:port", len(t.Portals))
	}
	for _, p := range t.Portals {
		if _, port, err := net.SplitHostPort(p); err != nil || port == "" {
			return t, fmt.Errorf("portal %q: want host:port", p)
		}
	}
	if t.LUN > 16383 {
		return t, fmt.Errorf("lun %d: want 0 to 16383", t.LUN)
	}
	c := t.Credentials
	if (c.User == "") != (c.Secret == "") || (c.MutualUser == "") != (c.MutualSecret == "") || c.User == "" && c.MutualUser != "" {
		return t, errors.New("CHAP: user and secret go together, and mutual ones need the other ones")
	}
	return t, nil
}

// isISCSIName checks the form of RFC 7143 section 4.2.7; what the target makes of the name is its business.
func isISCSIName(name string) bool {
	if len(name) > 223 || !(strings.HasPrefix(name, "iqn.") || strings.HasPrefix(name, "eui.") || strings.HasPrefix(name, "naa.")) {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' })
}

// statusOf is the one table of error to gRPC code.
func statusOf(err error) error {
	for _, row := range []struct {
		is   error
		code codes.Code
	}{
		{errBusy, codes.Aborted},
		{errConflict, codes.FailedPrecondition},
		{loop.ErrInUse, codes.FailedPrecondition},
		{errNotAttached, codes.NotFound},
		{errClosed, codes.Unavailable},
		{ErrCredentials, codes.Unauthenticated},
		{ErrNotFound, codes.NotFound},
		{ErrUnreachable, codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
	} {
		if errors.Is(err, row.is) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
