package server

import (
	"context"
	"errors"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/iomesh/iomesh/agent/prepare"
	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Prepare implements the interface.
func (s *Server) Prepare(ctx context.Context, req *agentv1.PrepareRequest) (*agentv1.PrepareResponse, error) {
	select {
	case s.preparing <- struct{}{}:
		defer func() { <-s.preparing }()
	default:
		return nil, status.Errorf(codes.Aborted, "node %s is being prepared by another call; try again when that has ended", s.opts.Node)
	}
	p := prepare.New(prepare.Options{Machine: s.opts.Machine, StateDir: filepath.Join(s.opts.StateDir, "agent"), Runner: s.opts.Runner})
	var plan *prepare.Plan
	var err error
	if req.Plan == "" {
		plan, err = p.Plan(ctx, req.Undo)
	} else {
		plan, err = p.Execute(ctx, req.Undo, req.Plan)
	}
	switch {
	case errors.Is(err, prepare.ErrChanged), errors.Is(err, prepare.ErrInUse):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	mode, reason := s.opts.Machine.Attach(v1alpha1.AttachAuto)
	out := &agentv1.PrepareResponse{Node: s.opts.Node, Plan: plan.ID, Recorded: plan.Recorded, Attach: string(mode), AttachReason: reason}
	for _, st := range plan.Steps {
		step := &agentv1.PrepareStep{Id: st.ID, State: agentv1.PrepareState(st.State), Evidence: st.Evidence, Left: st.Left, Changed: st.Changed}
		if f := st.File; f != nil {
			step.File = &agentv1.PrepareFile{Path: f.Path, Content: f.Content, Remove: f.Remove}
		}
		for _, argv := range st.Commands {
			step.Commands = append(step.Commands, &agentv1.PrepareCommand{Arguments: argv})
		}
		out.Steps = append(out.Steps, step)
	}
	return out, nil
}
