package prepare

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// iscsidUnits are the units of the daemon. The socket starts the service at the first use; some distributions enable the one, some the other.
// Taking back, the socket is stopped first, because it would start the service again.
var iscsidUnits = []string{"iscsid.socket", "iscsid.service"}

const iscsidService = "iscsid.service"

// iscsidStep enables and starts iscsid.
type iscsidStep struct{}

func (iscsidStep) id() string { return "iscsid" }

// unitState is what systemctl show says.
type unitState struct {
	Load   string // loaded, not-found, masked
	File   string // enabled, disabled, static, …
	Active string // active, inactive, failed, activating, …
}

func (u unitState) enabled() bool {
	return u.File == "enabled" || u.File == "static" || u.File == "generated"
}
func (u unitState) active() bool {
	return u.Active == "active" || u.Active == "activating" || u.Active == "reloading"
}

// known says whether the state is one of those between which we change.
func (u unitState) known() bool {
	return u.Load == "loaded" && slices.Contains([]string{"enabled", "disabled", "static", "indirect", "generated"}, u.File)
}

func (r *run) unitState(ctx context.Context, name string) (unitState, error) {
	out, err := r.ask(ctx, "systemctl", "show", "--property=LoadState", "--property=UnitFileState", "--property=ActiveState", name)
	if err != nil {
		return unitState{}, err
	}
	var u unitState
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			u.Load = value
		case "UnitFileState":
			u.File = value
		case "ActiveState":
			u.Active = value
		}
	}
	if u.Load == "" || u.Active == "" {
		return u, fmt.Errorf("systemctl show %s: unexpected answer %.100q", name, out)
	}
	return u, nil
}

func (iscsidStep) look(ctx context.Context, r *run, _ *entry) (Step, error) {
	if r.program("iscsiadm") == "" {
		return Step{State: Impossible, Evidence: "iscsiadm is not installed; " + r.howToInstall()}, nil
	}
	pid := r.opts.Machine.Process("iscsid")
	runs := "runs as process " + pid
	if pid == "" {
		runs = "does not run"
	}
	state, err := r.unitState(ctx, iscsidService)
	switch {
	case err != nil && pid != "":
		return Step{State: Done, Evidence: runs + "; whether it is started at each start is not known: " + err.Error()}, nil
	case err != nil:
		return Step{State: Impossible, Evidence: fmt.Sprintf("%s, and systemd cannot be asked to start it: %v; start it as this machine starts its services", runs, err)}, nil
	case state.Load == "not-found" && pid != "":
		return Step{State: Done, Evidence: runs + ", though systemd has no unit " + iscsidService}, nil
	case !state.known():
		return Step{State: Impossible, Evidence: fmt.Sprintf("%s: unit %s is %s %s, which is not changed from here; enable and start it by hand", runs, iscsidService, state.Load, state.File)}, nil
	}
	enabled := iscsidService + " is " + state.File
	if !state.enabled() {
		enabled = ""
		if socket, err := r.unitState(ctx, iscsidUnits[0]); err == nil && socket.Load == "loaded" && socket.File == "enabled" {
			enabled = iscsidUnits[0] + " is enabled"
		}
	}
	st := Step{State: Done, Evidence: runs}
	if enabled != "" {
		st.Evidence += "; " + enabled
	} else {
		argv, err := r.command("systemctl", "enable", iscsidService)
		if err != nil {
			return st, err
		}
		st.State, st.Commands = Needed, append(st.Commands, argv)
		st.Evidence += "; it is not started at each start of the machine"
	}
	if pid == "" {
		argv, err := r.command("systemctl", "start", iscsidService)
		if err != nil {
			return st, err
		}
		st.State, st.Commands = Needed, append(st.Commands, argv)
	}
	return st, nil
}

func (iscsidStep) note(ctx context.Context, r *run, old *entry) (*entry, error) {
	if old != nil {
		return old, nil
	}
	e := &entry{}
	for _, name := range iscsidUnits {
		u, err := r.unitState(ctx, name)
		if err != nil {
			return nil, err
		}
		if u.Load == "loaded" {
			e.Units = append(e.Units, unit{Name: name, Enabled: u.enabled(), Active: u.active()})
		}
	}
	return e, nil
}

func (s iscsidStep) do(ctx context.Context, r *run, e *entry) error {
	st, err := s.look(ctx, r, e)
	if err != nil {
		return err
	}
	return r.perform(ctx, st.Commands)
}

func (iscsidStep) lookBack(ctx context.Context, r *run, e *entry) (Step, error) {
	st := Step{State: Done}
	sessions, err := r.sessions()
	if err != nil {
		return st, err
	}
	var stop, disable [][]string
	for _, before := range e.Units {
		now, err := r.unitState(ctx, before.Name)
		if err != nil {
			return st, err
		}
		if !now.known() {
			st.Left = append(st.Left, fmt.Sprintf("unit %s is %s %s now", before.Name, now.Load, now.File))
			continue
		}
		switch {
		case before.Active || !now.active():
		case len(sessions) > 0:
			st.Left = append(st.Left, before.Name+" goes on: iSCSI sessions to other storage need it")
		default:
			argv, err := r.command("systemctl", "stop", before.Name)
			if err != nil {
				return st, err
			}
			stop = append(stop, argv)
		}
		// A static unit has nothing to disable.
		if !before.Enabled && now.File == "enabled" {
			argv, err := r.command("systemctl", "disable", before.Name)
			if err != nil {
				return st, err
			}
			disable = append(disable, argv)
		}
	}
	if st.Commands = append(disable, stop...); len(st.Commands) > 0 {
		st.State = Needed
	}
	return st, nil
}

func (s iscsidStep) takeBack(ctx context.Context, r *run, e *entry) error {
	st, err := s.lookBack(ctx, r, e)
	if err != nil {
		return err
	}
	return r.perform(ctx, st.Commands)
}
