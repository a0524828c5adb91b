package link

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// lenient takes answers of newer and older versions: unknown fields are left out.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

// StorageStatus asks the block service for its status.
func (l *Link) StorageStatus(ctx context.Context) (*storagedv1.ClusterStatus, error) {
	out, err := l.Ctl(ctx, "status")
	if err != nil {
		return nil, err
	}
	var s storagedv1.ClusterStatus
	if err := lenient.Unmarshal(out, &s); err != nil {
		return nil, fmt.Errorf("decode the block service's status: %w", err)
	}
	return &s, nil
}

// Volumes asks for all volumes.
func (l *Link) Volumes(ctx context.Context) ([]*storagedv1.Volume, error) {
	out, err := l.Ctl(ctx, "volume", "list")
	if err != nil {
		return nil, err
	}
	return decodeList(out, "volumes", func() *storagedv1.Volume { return &storagedv1.Volume{} })
}

// Volume asks for one volume, with its extents.
func (l *Link) Volume(ctx context.Context, name string) (*storagedv1.Volume, error) {
	out, err := l.Ctl(ctx, "volume", "show", name, "--extents")
	if err != nil {
		return nil, err
	}
	var v storagedv1.Volume
	if err := lenient.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("decode the volume: %w", err)
	}
	return &v, nil
}

// decodeList reads {"key": [...]} or a bare list.
func decodeList[M proto.Message](data []byte, key string, make func() M) ([]M, error) {
	var raw []json.RawMessage
	data = bytes.TrimSpace(data)
	if len(data) > 0 && data[0] == '{' {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(data, &object); err != nil {
			return nil, fmt.Errorf("decode the list of %s: %w", key, err)
		}
		data = object[key]
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &raw); err != nil {
			return nil, fmt.Errorf("decode the list of %s: %w", key, err)
		}
	}
	out := []M{}
	for _, r := range raw {
		m := make()
		if err := lenient.Unmarshal(r, m); err != nil {
			return nil, fmt.Errorf("decode the list of %s: %w", key, err)
		}
		out = append(out, m)
	}
	return out, nil
}
