package store

import (
	"context"
	"errors"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// Store is one open disk.
type Store struct{}

type writeState struct{}

func format(context.Context, vdisk.Disk, FormatOptions) error   { return errors.ErrUnsupported }
func probe(vdisk.Disk) (Superblock, error)                      { return Superblock{}, errors.ErrUnsupported }
func open(context.Context, vdisk.Disk, Options) (*Store, error) { return nil, errors.ErrUnsupported }
func (s *Store) close() error                                   { return errors.ErrUnsupported }
func (s *Store) super() Superblock                              { return Superblock{} }
func (s *Store) submit(w *Write)                                { s.submitBatch([]*Write{w}) }
func (s *Store) submitBatch(ws []*Write) {
	for _, w := range ws {
		w.Err = errors.ErrUnsupported
	}
	if len(ws) > 0 {
		ws[0].Completer.Complete(ws)
	}
}
func (s *Store) read(block.ExtentID, block.SnapSeq, block.Range, []byte, []BlockInfo) error {
	return errors.ErrUnsupported
}
func (s *Store) listStamps(block.ExtentID, block.SnapSeq, block.No, block.No, block.Stamp, []StampRun) ([]StampRun, block.No, error) {
	return nil, 0, errors.ErrUnsupported
}
func (s *Store) ensureReplica(context.Context, ReplicaSpec) error    { return errors.ErrUnsupported }
func (s *Store) deleteReplica(context.Context, block.ExtentID) error { return errors.ErrUnsupported }
func (s *Store) listReplicas() []ReplicaInfo                         { return nil }
func (s *Store) replicaInfo(block.ExtentID) (ReplicaInfo, error) {
	return ReplicaInfo{}, errors.ErrUnsupported
}
func (s *Store) fence(context.Context, []VolumeFence) error        { return errors.ErrUnsupported }
func (s *Store) fenceOf(block.VolumeID) VolumeFence                { return VolumeFence{} }
func (s *Store) fences() []VolumeFence                             { return nil }
func (s *Store) forgetFence(context.Context, block.VolumeID) error { return errors.ErrUnsupported }
func (s *Store) setGeneration(context.Context, block.ExtentID, block.Generation) error {
	return errors.ErrUnsupported
}
func (s *Store) setWatermark(block.ExtentID, block.Stamp) {}
func (s *Store) setJoin(context.Context, block.ExtentID, block.Stamp) error {
	return errors.ErrUnsupported
}
func (s *Store) setSnapshots(context.Context, block.VolumeID, []block.SnapSeq) error {
	return errors.ErrUnsupported
}
func (s *Store) clone(context.Context, CloneSpec) error { return errors.ErrUnsupported }
func (s *Store) sync(context.Context) error             { return errors.ErrUnsupported }
func (s *Store) stats() Stats                           { return Stats{} }
