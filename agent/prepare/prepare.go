package prepare

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/iomesh/iomesh/agent/host"
)

// State of a step.
type State int

// States. After a run, Needed means that it was not reached.
const (
	Done       State = iota + 1 // nothing is to be done, or it was just done
	Needed                      // will be changed
	Impossible                  // lacking, and cannot be made good from here; the evidence says why and what to do
	Failed                      // was tried, and the evidence says what happened
)

// Step is one part of a plan, or of the report on a run.
type Step struct {
	ID       string
	State    State
	Evidence string // what the state rests on
	// File is what is written or removed, nil for nothing.
	File *File
	// Commands are run after that, in this order. They are lists of arguments.
	Commands [][]string
	// Left names what is not put back, each with the reason; only when taking back.
	Left []string
	// Changed says that this run did it.
	Changed bool
}

// File is a change of a file of the machine.
type File struct {
	Path    string
	Content []byte // whole
	Remove  bool   // instead
}

// Plan is what a run would do. Its ID stands for everything in it: a run is given the ID of what was reviewed.
type Plan struct {
	ID    string
	Undo  bool
	Steps []Step
	// Recorded says that something was prepared before and can be taken back.
	Recorded bool
}

// Errors that decide what a caller does next.
var (
	// ErrChanged: the machine is not any more as the plan said. Nothing was done.
	ErrChanged = errors.New("the machine has changed since the plan was made, nothing was done; make a new plan")
	// ErrInUse: volumes are attached by what would be taken back. Nothing was done.
	ErrInUse = errors.New("nothing is taken back while volumes are attached by the kernel's initiator")
)

// Options of a Preparer.
type Options struct {
	Machine  host.Machine
	StateDir string // holds the record; is made if it is not there
	// Runner runs programs of the machine; nil means in the namespaces of its first process.
	Runner Runner
	// Wait passes the time between two looks for a result; nil means the real time.
	Wait func(ctx context.Context, d time.Duration) error
}

// Preparer plans and carries out. It is not safe for concurrent use, and a machine must have one only.
type Preparer struct {
	opts Options
	// before is called in front of every change of the machine or the record; tests end the run there.
	before func(what string)
	// flush makes a file or directory stable on disk.
	flush func(*os.File) error
}

// New returns a Preparer. It does nothing yet.
func New(o Options) *Preparer {
	if o.Runner == nil {
		o.Runner = namespaces{proc: o.Machine.Proc()}
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	return &Preparer{opts: o, before: func(string) {}, flush: (*os.File).Sync}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is one plan or execution: the machine's files, opened, and the record.
type run struct {
	*Preparer
	root  *os.Root // of the machine
	state *os.Root // the state directory
	rec   *record
}

// step is one kind of preparation. Looking changes nothing. Doing looks again and does what is lacking.
type step interface {
	id() string
	// look says what is there and what do would change. The entry may be nil.
	look(ctx context.Context, r *run, e *entry) (Step, error)
	// note returns the entry to record before do: the old one, if there is one, brought up to date.
	note(ctx context.Context, r *run, old *entry) (*entry, error)
	do(ctx context.Context, r *run, e *entry) error
	// lookBack says what takeBack would change.
	lookBack(ctx context.Context, r *run, e *entry) (Step, error)
	takeBack(ctx context.Context, r *run, e *entry) error
}

// steps in their order: the module is there before the daemon wants it.
func steps() []step { return []step{moduleStep{}, iscsidStep{}, multipathStep{}} }

// open opens the machine and reads the record.
func (p *Preparer) open() (*run, error) {
	if err := os.MkdirAll(p.opts.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	root, err := os.OpenRoot(p.opts.Machine.Root("/"))
	if err != nil {
		return nil, fmt.Errorf("open the machine's root directory: %w (does the pod have hostPID?)", err)
	}
	state, err := os.OpenRoot(p.opts.StateDir)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	r := &run{Preparer: p, root: root, state: state}
	if r.rec, err = loadRecord(state); err != nil {
		r.close()
		return nil, fmt.Errorf("%s: %w", filepath.Join(p.opts.StateDir, recordName), err)
	}
	return r, nil
}

func (r *run) close() { r.root.Close(); r.state.Close() }

// Plan looks at the machine and changes nothing.
func (p *Preparer) Plan(ctx context.Context, undo bool) (*Plan, error) {
	r, err := p.open()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.plan(ctx, undo)
}

func (r *run) plan(ctx context.Context, undo bool) (*Plan, error) {
	out := &Plan{Undo: undo, Recorded: r.rec != nil}
	if undo && r.rec != nil {
		if err := r.idle(); err != nil {
			return nil, err
		}
	}
	for _, s := range r.order(undo) {
		look, err := r.looked(ctx, s, undo)
		if err != nil {
			return nil, err
		}
		out.Steps = append(out.Steps, look)
	}
	id, err := out.digest()
	if err != nil {
		return nil, err
	}
	out.ID = id
	return out, nil
}

// digest covers all that would be done, and nothing that varies without meaning, such as the id of a process.
func (p *Plan) digest() (string, error) {
	what := Plan{Undo: p.Undo, Steps: slices.Clone(p.Steps)}
	for i := range what.Steps {
		what.Steps[i].Evidence = ""
	}
	b, err := json.Marshal(what)
	if err != nil {
		return "", fmt.Errorf("encode plan: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// order is the steps to look at: all to prepare, and those in the record from its end to take back.
func (r *run) order(undo bool) []step {
	if !undo {
		return steps()
	}
	var out []step
	if r.rec != nil {
		for _, e := range slices.Backward(r.rec.Entries) {
			for _, s := range steps() {
				if s.id() == e.Step {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

func (r *run) looked(ctx context.Context, s step, undo bool) (Step, error) {
	look := s.look
	if undo {
		look = s.lookBack
	}
	st, err := look(ctx, r, r.rec.entry(s.id()))
	if err != nil {
		return st, fmt.Errorf("look at %s: %w", s.id(), err)
	}
	st.ID = s.id()
	switch {
	case !undo || st.Evidence != "":
	case st.State == Needed:
		st.Evidence = "was changed by an earlier preparation"
	case len(st.Left) > 0:
		st.Evidence = "as it was before, but for what is left alone"
	default:
		st.Evidence = "as it was before"
	}
	return st, nil
}

// Execute carries a plan out, if it is still the plan of that ID, and returns its steps with what became of them. A step that fails does not
// keep the others from being tried, but nothing is done that cannot be recorded first. The error is of the whole run.
func (p *Preparer) Execute(ctx context.Context, undo bool, id string) (*Plan, error) {
	r, err := p.open()
	if err != nil {
		return nil, err
	}
	defer r.close()
	plan, err := r.plan(ctx, undo)
	if err != nil {
		return nil, err
	}
	if plan.ID != id {
		return nil, ErrChanged
	}
	failed := false
	for i, s := range r.order(undo) {
		st := &plan.Steps[i]
		if st.State != Needed {
			continue
		}
		if err := ctx.Err(); err != nil {
			return plan, fmt.Errorf("interrupted before %s; run it again to finish: %w", s.id(), err)
		}
		if !undo {
			if err := r.note(ctx, s); err != nil {
				st.State, st.Evidence = Failed, err.Error()
				break
			}
		}
		if err := r.change(ctx, s, st, undo); err != nil {
			st.State, st.Evidence = Failed, err.Error()
			failed = true
		}
	}
	if undo && !failed {
		if err := r.forget(); err != nil {
			return plan, err
		}
	}
	plan.Recorded = r.rec != nil
	return plan, nil
}

// note records the state before a step. Without it nothing may be changed.
func (r *run) note(ctx context.Context, s step) error {
	e, err := s.note(ctx, r, r.rec.entry(s.id()))
	if err != nil {
		return fmt.Errorf("record the state before %s: %w", s.id(), err)
	}
	e.Step = s.id()
	if err := r.save(e); err != nil {
		return fmt.Errorf("record the state before %s: %w", s.id(), err)
	}
	return nil
}

// A daemon answers before it is ready, so the result is looked for some times.
const (
	looksMax   = 20
	betweenMax = 500 * time.Millisecond
)

// change does a step and verifies it by looking again.
func (r *run) change(ctx context.Context, s step, st *Step, undo bool) error {
	act := s.do
	if undo {
		act = s.takeBack
	}
	if err := act(ctx, r, r.rec.entry(s.id())); err != nil {
		return err
	}
	for n := 1; ; n++ {
		now, err := r.looked(ctx, s, undo)
		if err != nil {
			return err
		}
		if now.State == Done {
			st.State, st.Evidence, st.Left, st.Changed = Done, now.Evidence, now.Left, true
			return nil
		}
		if n == looksMax {
			return fmt.Errorf("it was done and had no effect: %s", now.Evidence)
		}
		if err := r.opts.Wait(ctx, betweenMax); err != nil {
			return err
		}
	}
}

// volumePrefix begins the names of our iSCSI targets.
const volumePrefix = "iqn.2016-02.com.iomesh:"

// sessions are the names of the targets that the kernel's initiator is logged in to.
func (r *run) sessions() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(r.opts.Machine.Sys(), "class/iscsi_session/session*/targetname"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // one that ended meanwhile
			return nil, err
		}
		if name := strings.TrimSpace(string(b)); name != "" {
			out = append(out, name)
		}
	}
	return out, nil
}

// idle refuses while volumes of IOMesh are attached.
func (r *run) idle() error {
	names, err := r.sessions()
	if err != nil {
		return fmt.Errorf("look for iSCSI sessions: %w", err)
	}
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, volumePrefix) {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%w: sessions to IOMesh: %d; move the pods that use volumes to other nodes first (kubectl drain)", ErrInUse, n)
	}
	return nil
}
