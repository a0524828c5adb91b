package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/iomesh/iomesh/agent/host"
	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
)

// modprobe is a machine that can do nothing but load a module, and waits for leave to do so.
type modprobe struct {
	sys            string
	entered, leave chan struct{}
}

func (m modprobe) Run(_ context.Context, argv []string) ([]byte, error) {
	if argv[0] != "/sbin/modprobe" {
		return nil, errors.New("no such program")
	}
	m.entered <- struct{}{}
	<-m.leave
	return nil, os.MkdirAll(filepath.Join(m.sys, "module/iscsi_tcp"), 0o755)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestAPlanIsCarriedOutOnceAndByOneCallOnly(t *testing.T) {
	dir := t.TempDir()
	machine := host.Machine{ProcDir: filepath.Join(dir, "proc"), SysDir: filepath.Join(dir, "sys")}
	run := modprobe{machine.Sys(), make(chan struct{}), make(chan struct{})}
	s := New(Options{Node: "n1", Machine: machine, StateDir: filepath.Join(dir, "state"), Runner: run, Now: time.Now})
	write(t, machine.Proc("sys/kernel/osrelease"), "6.1\n")
	write(t, machine.Root("/lib/modules/6.1/modules.dep"), "kernel/iscsi_tcp.ko:\n")
	write(t, machine.Root("/sbin/modprobe"), "")
	ctx := context.Background()

	plan, err := s.Prepare(ctx, &agentv1.PrepareRequest{})
	if err != nil {
		t.Fatal(err)
	}
	st := plan.Steps[0]
	if plan.Node != "n1" || plan.Recorded || plan.Attach != "userspace" || st.Id != "iscsi-module" || st.State != agentv1.PrepareState_PREPARE_STATE_NEEDED ||
		st.File.GetPath() != "/etc/modules-load.d/iomesh.conf" || !strings.Contains(string(st.File.GetContent()), "iscsi_tcp") || len(st.Commands) != 1 {
		t.Errorf("plan %v", plan)
	}
	if _, err := s.Prepare(ctx, &agentv1.PrepareRequest{Plan: "other"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another plan: %v", err)
	}
	type answer struct {
		resp *agentv1.PrepareResponse
		err  error
	}
	answered := make(chan answer)
	go func() {
		resp, err := s.Prepare(ctx, &agentv1.PrepareRequest{Plan: plan.Plan})
		answered <- answer{resp, err}
	}()
	<-run.entered
	if _, err := s.Prepare(ctx, &agentv1.PrepareRequest{}); status.Code(err) != codes.Aborted {
		t.Errorf("two at once: %v", err)
	}
	close(run.leave)
	a := <-answered
	if a.err != nil {
		t.Fatal(a.err)
	}
	if st := a.resp.Steps[0]; st.State != agentv1.PrepareState_PREPARE_STATE_DONE || !st.Changed || !a.resp.Recorded {
		t.Errorf("result %v", a.resp)
	}
	if _, err := s.Prepare(ctx, &agentv1.PrepareRequest{Plan: plan.Plan}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the same plan again: %v", err)
	}
	write(t, filepath.Join(machine.Sys(), "class/iscsi_session/session1/targetname"), "iqn.2016-02.com.iomesh:x")
	if _, err := s.Prepare(ctx, &agentv1.PrepareRequest{Undo: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("taken back under a volume: %v", err)
	}
}
