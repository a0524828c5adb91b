package meta

import (
	"bytes"
	"testing"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

func TestAFullDatabaseTakesWritesAgainAfterUpkeep(t *testing.T) {
	o := Options{Name: "m", Members: []Member{{Name: "m", GRPC: freePort(t), Client: freePort(t), Peer: freePort(t)}}, DataDir: t.TempDir(), QuotaBytes: 24 << 20, Log: testLog(t)}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	s := &server{opts: o, log: o.Log, mirror: newMirror(), conns: newConns(nil)}
	defer s.conns.close()
	e, err := s.startEtcd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	cli := v3client.New(e.Server)
	defer cli.Close()

	// One key written over and over: all history, which compaction can drop.
	value := string(bytes.Repeat([]byte("x"), 1<<20))
	for err == nil {
		_, err = cli.Put(t.Context(), "/k", value)
	}
	if text := alarmText(e); text == "" {
		t.Fatalf("no alarm stands after %v", err)
	}
	if _, err := cli.Put(t.Context(), "/k", "y"); err == nil {
		t.Fatal("a full database takes writes")
	}
	s.upkeep(t.Context(), e, cli)
	if _, err := cli.Put(t.Context(), "/k", "y"); err != nil || alarmText(e) != "" {
		t.Errorf("after upkeep: %v, alarm %q", err, alarmText(e))
	}
}

func TestDefragmentationIsWorthItOnlyForLargeHalfEmptyFiles(t *testing.T) {
	for _, c := range []struct {
		size, used int64
		want       bool
	}{{100 << 20, 1 << 20, false}, {256 << 20, 200 << 20, false}, {256 << 20, 100 << 20, true}, {4 << 30, 3 << 30, false}} {
		if worthDefragmenting(c.size, c.used) != c.want {
			t.Errorf("%d of %d used: not %v", c.used, c.size, c.want)
		}
	}
}
