package chunk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/ctl"
	"github.com/iomesh/iomesh/storaged/target"
)

// An export is the content of one moment: of a snapshot, however the volume goes on, or of the live volume, with holes where it is zero.
func TestExportIsTheContentOfOneMoment(t *testing.T) {
	c := newTestCluster(t, 2, 1)
	const size = 64 << 20
	v := c.create("image", size, 2)
	owner := c.serving(v.Id)
	model := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	write := func() {
		for range 30 {
			p := make([]byte, 4096*(1+rnd.IntN(40)))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			off := 4096 * rnd.IntN((size-len(p))/4096)
			for {
				res, _ := owner.do(target.OpWrite, uint64(off), uint64(len(p)), p)
				if res.Kind == target.OK {
					break
				}
				// On a busy machine a chunk may be taken for dead, and the volume moves: an initiator would follow.
				if res.Kind != target.Lost {
					t.Fatalf("write: %+v", res)
				}
				owner = c.serving(v.Id)
			}
			copy(model[off:], p)
		}
	}
	export := func(file string, args ...string) (stdout, stderr string, err error) {
		cmd := ctl.NewCommand()
		var out, errs bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errs)
		cmd.SetArgs(append([]string{"--meta", c.grpc, "--tls-dir", c.tls(mtls.RoleAdmin), "volume", "export", "image", "-f", file}, args...))
		err = cmd.ExecuteContext(t.Context())
		return out.String(), errs.String(), err
	}
	write()
	if _, err := c.volumes.CreateSnapshot(t.Context(), &storagedv1.CreateSnapshotRequest{VolumeId: v.Id, Name: "before"}); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(model)
	write()

	dir := t.TempDir()
	for _, x := range []struct {
		what string
		want []byte
		args []string
	}{{"snapshot", before, []string{"--snapshot", "before"}}, {"live", model, nil}} {
		file := filepath.Join(dir, x.what)
		if out, errs, err := export(file, x.args...); err != nil {
			t.Fatalf("%s: %v %s %s", x.what, err, out, errs)
		}
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, x.want) {
			t.Errorf("%s: %d bytes, %v: not the content", x.what, len(got), err)
		}
		if out, _, err := export("-", x.args...); err != nil || out != string(x.want) {
			t.Errorf("%s to standard output: %v, %d bytes", x.what, err, len(out))
		}
	}
	if _, _, err := export(filepath.Join(dir, "live")); err == nil {
		t.Error("an existing file was written over")
	}
	list, err := c.volumes.ListSnapshots(t.Context(), &storagedv1.ListSnapshotsRequest{VolumeId: v.Id})
	if err != nil || len(list.Snapshots) != 1 {
		t.Errorf("%v, %v: the snapshots made for exports stay", list, err)
	}
}
