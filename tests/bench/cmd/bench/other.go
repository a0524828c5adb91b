package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/iomesh/iomesh/tests/bench/suite"
)

const usage = `bench [compare] [flags]              our cluster against tgtd and the floor (the default)
bench scale [flags]                  along volumes, queue depth, volume size, snapshot chain, fill of the pool; -only picks one
bench fair [flags]                   a volume at depth 1 beside one at depth 128
bench rebuild [flags]                speed of a rebuild, and what it costs the clients
bench times [flags]                  snapshot, clone, failover, cold start, pauses of the garbage collector
bench builds [flags] NAME=PROGRAM…   builds of storaged against each other

`

type options struct {
	storaged, dir, only, json string
	span                      uint64
}

// runOther runs what is not a comparison with peers.
func runOther(ctx context.Context, r *suite.Runner, what string, args []string, o options) error {
	sub := filepath.Join(o.dir, what)
	var result any
	var missed []string
	var err error
	switch what {
	case "scale":
		var tables []*suite.Table
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		tables, err = r.Scale(ctx, o.storaged, sub, o.only)
		for _, t := range tables {
			t.WriteText(os.Stdout)
			if m := t.Missed(); m != "" {
				missed = append(missed, m)
			}
		}
		result = tables
	case "fair":
		var f suite.Fairness
		if f, err = r.Fair(ctx, o.storaged, sub); err == nil {
			f.WriteText(os.Stdout)
			if m := f.Missed(); m != "" {
				missed = append(missed, m)
			}
		}
		result = f
	case "rebuild":
		var b suite.Rebuild
		if b, err = r.Rebuilds(ctx, o.storaged, sub, o.span); err == nil {
			b.WriteText(os.Stdout)
			missed = b.Missed()
		}
		result = b
	case "times":
		var t suite.Times
		if t, err = r.Times(ctx, o.storaged, sub); err == nil {
			t.WriteText(os.Stdout)
			if m := t.Missed(); m != "" {
				missed = append(missed, m)
			}
		}
		result = t
	case "builds":
		return builds(ctx, r, args, o)
	default:
		return fmt.Errorf("there is no %q; -h lists what there is", what)
	}
	err = errors.Join(err, writeJSON(o.json, result))
	if err == nil && len(missed) > 0 {
		err = fmt.Errorf("%d bars missed:\n  %s", len(missed), strings.Join(missed, "\n  "))
	}
	return err
}

func builds(ctx context.Context, r *suite.Runner, args []string, o options) error {
	if len(args) < 2 {
		return errors.New("builds: at least two NAME=PROGRAM are needed; PROGRAM may begin with settings of the environment, VAR=value,…,path")
	}
	var names []string
	for _, a := range args {
		name, program, ok := strings.Cut(a, "=")
		if !ok || program == "" {
			return fmt.Errorf("builds: %q is not NAME=PROGRAM", a)
		}
		env := strings.Split(program, ",")
		program, env = env[len(env)-1], env[:len(env)-1]
		fmt.Fprintf(r.Progress, "starting %s and filling it\n", name)
		s, err := suite.StartBuild(ctx, suite.ClusterOptions{Storaged: program, Dir: filepath.Join(o.dir, name), Name: name, Env: env}, o.span)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		r.Subjects[name] = s
		names = append(names, name)
	}
	if err := r.Builds(ctx, names, o.only, os.Stdout); err != nil {
		return err
	}
	for name, s := range r.Subjects {
		if err := s.Verify(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
