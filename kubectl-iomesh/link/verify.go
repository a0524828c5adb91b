package link

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Verification is how far the reading of all replicas of a volume is.
type Verification struct {
	Volume         string     `json:"volume"`
	State          string     `json:"state"` // None, Running, Done
	Node           string     `json:"node"`
	Extents        int        `json:"extents"`
	ExtentsDone    int        `json:"extentsDone"`
	ExtentsPassed  int        `json:"extentsPassed"`
	BytesRead      int64      `json:"bytesRead"`
	BlocksBad      int64      `json:"blocksBad"`
	BlocksRepaired int64      `json:"blocksRepaired"`
	BlocksLost     int64      `json:"blocksLost"`
	ReplicasBehind int        `json:"replicasBehind"`
	Started        *time.Time `json:"started,omitempty"`
	Ended          *time.Time `json:"ended,omitempty"`
}

// Verify asks how far the verification of a volume is; with start it begins one, unless one runs.
func (l *Link) Verify(ctx context.Context, volume string, start bool) (*Verification, error) {
	how := "--progress"
	if start {
		how = "--start"
	}
	out, err := l.Ctl(ctx, "volume", "verify", how, "--", volume)
	if err != nil {
		return nil, err
	}
	var v Verification
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("decode the verification: %w", err)
	}
	return &v, nil
}

// SelftestStep is one step of the use of a scratch volume.
type SelftestStep struct {
	Step    string  `json:"step"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Selftest makes, uses and deletes a scratch volume from within a pod, and tells each step as it ends. A step that failed is no error.
func (l *Link) Selftest(ctx context.Context, replicas int, step func(SelftestStep)) error {
	var bad error
	err := l.CtlLines(ctx, func(line []byte) {
		var s SelftestStep
		if err := json.Unmarshal(line, &s); err != nil {
			bad = fmt.Errorf("decode a step of the test: %w", err)
			return
		}
		step(s)
	}, "--timeout", "10m", "selftest", "--replicas", fmt.Sprint(replicas))
	if err != nil {
		return err
	}
	return bad
}
