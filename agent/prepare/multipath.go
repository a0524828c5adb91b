package prepare

import (
	"context"
	"fmt"
	"strings"
)

// multipathFile tells multipathd to leave our volumes alone.
const multipathFile = "/etc/multipath/conf.d/iomesh.conf"

// multipathText is what we put there. multipathd wants each word of a section on a line of its own; a blacklist on one line is silently
// without effect.
const multipathText = "# IOMesh: its volumes have one path each.\nblacklist {\n\tdevice {\n\t\tvendor \"IOMESH\"\n\t\tproduct \"VOLUME\"\n\t}\n}\n"

// multipathStep makes a running multipathd leave our volumes alone: it would claim them, as every SCSI disk.
type multipathStep struct{}

func (multipathStep) id() string { return "multipath" }

func wantMultipath(base []byte) []byte { return onNewLine(base, multipathText) }

// blacklisted says whether a configuration has our vendor in a section blacklist.
func blacklisted(text string) bool {
	var sections []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		word := strings.TrimSuffix(strings.Fields(line)[0], "{")
		switch {
		case line == "}":
			if len(sections) > 0 {
				sections = sections[:len(sections)-1]
			}
		case strings.HasSuffix(line, "{"):
			sections = append(sections, word)
		case word == "vendor" && len(sections) > 0 && sections[0] == "blacklist" && strings.Contains(line, `"IOMESH"`):
			return true
		}
	}
	return false
}

// onDisk says whether the files have it.
func (r *run) onDisk() (bool, error) {
	main, err := r.present("/etc/multipath.conf")
	if err != nil {
		return false, err
	}
	if main != nil && blacklisted(string(main.Bytes)) {
		return true, nil
	}
	for _, text := range r.configs("/etc/multipath/conf.d") {
		if blacklisted(text) {
			return true, nil
		}
	}
	return false, nil
}

// otherDir is the directory that multipath.conf has multipathd read instead of the usual one, "" for none.
func (r *run) otherDir() string {
	main, err := r.present("/etc/multipath.conf")
	if err != nil || main == nil {
		return ""
	}
	for line := range strings.Lines(string(main.Bytes)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "config_dir" {
			if dir := strings.TrimRight(strings.Trim(f[1], `"`), "/"); dir != "/etc/multipath/conf.d" {
				return dir
			}
		}
	}
	return ""
}

// inForce says whether the running daemon has it.
func (r *run) inForce(ctx context.Context) (bool, error) {
	out, err := r.ask(ctx, "multipathd", "show", "config")
	return blacklisted(out), err
}

func (multipathStep) look(ctx context.Context, r *run, e *entry) (Step, error) {
	pid := r.opts.Machine.Process("multipathd")
	if pid == "" {
		return Step{State: Done, Evidence: "multipathd does not run"}, nil
	}
	disk, err := r.onDisk()
	if err != nil {
		return Step{State: Impossible, Evidence: err.Error()}, nil
	}
	force, err := r.inForce(ctx)
	if err != nil {
		return Step{State: Impossible, Evidence: fmt.Sprintf("multipathd runs as process %s and cannot be asked for its configuration: %v", pid, err)}, nil
	}
	st := Step{State: Done, Evidence: "multipathd runs as process " + pid + ", and its blacklist names IOMESH"}
	if disk && force {
		r.lookForLitter(e, multipathFile, &st)
		return st, nil
	}
	if !disk {
		if dir := r.otherDir(); dir != "" {
			return Step{State: Impossible, Evidence: fmt.Sprintf("multipathd reads %s instead of /etc/multipath/conf.d; put this there by hand:\n%s", dir, multipathText)}, nil
		}
		now, err := r.present(multipathFile)
		if err != nil {
			return Step{State: Impossible, Evidence: err.Error()}, nil
		}
		st.File = &File{Path: multipathFile, Content: wantMultipath(e.fileNote().base(now))}
	}
	if !force || !disk { // what is in force without a file is gone with the next start of the daemon
		argv, err := r.command("multipathd", "reconfigure")
		if err != nil {
			return st, err
		}
		st.Commands = [][]string{argv}
	}
	st.State, st.Evidence = Needed, "multipathd runs as process "+pid+" and is not told to leave IOMESH volumes alone"
	if disk {
		st.Evidence = "multipathd runs as process " + pid + " and has not read its configuration that names IOMESH"
	}
	return st, nil
}

func (multipathStep) note(_ context.Context, r *run, old *entry) (*entry, error) {
	file, err := r.noteFile(old.fileNote(), multipathFile, wantMultipath)
	if err != nil {
		return nil, err
	}
	return &entry{File: file}, nil
}

func (s multipathStep) do(ctx context.Context, r *run, e *entry) error {
	st, err := s.look(ctx, r, e)
	if err != nil {
		return err
	}
	if err := r.sweep(multipathFile); err != nil {
		return err
	}
	if st.File != nil {
		if err := r.write(e.File, multipathFile, wantMultipath); err != nil {
			return err
		}
	}
	return r.perform(ctx, st.Commands)
}

func (multipathStep) lookBack(ctx context.Context, r *run, e *entry) (Step, error) {
	st := Step{State: Done}
	r.lookFileBack(e.File, multipathFile, &st)
	if r.opts.Machine.Process("multipathd") == "" {
		return st, nil // it reads its files when it starts
	}
	// With our file restored, or as it is: the daemon must have in force what the files then say.
	restored := st.File != nil
	disk, err := r.onDisk()
	if err != nil {
		st.Left = append(st.Left, err.Error())
		return st, nil
	}
	force, err := r.inForce(ctx)
	if err != nil {
		return st, err
	}
	if restored || disk != force {
		argv, err := r.command("multipathd", "reconfigure")
		if err != nil {
			return st, err
		}
		st.State, st.Commands = Needed, [][]string{argv}
	}
	return st, nil
}

func (s multipathStep) takeBack(ctx context.Context, r *run, e *entry) error {
	if err := r.restore(e.File, multipathFile); err != nil {
		return err
	}
	st, err := s.lookBack(ctx, r, e)
	if err != nil {
		return err
	}
	return r.perform(ctx, st.Commands)
}
