package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// pollEvery is how often something waited for is looked at.
const pollEvery = time.Second

// await looks until done, printing each change of the state as a line. When time runs out the error tells the last state. Passing errors of
// a look are part of the state: an API server that restarts ends no wait.
func (e *Env) await(ctx context.Context, timeout time.Duration, look func(context.Context) (state string, done bool, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	start, last := e.Now(), ""
	for {
		state, done, err := look(ctx)
		if err != nil && ctx.Err() == nil {
			state = err.Error()
		}
		if ctx.Err() == nil || done {
			if state != last {
				e.say("%5.0fs  %s", e.Now().Sub(start).Seconds(), state)
				last = state
			}
			if done {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errTimeout) {
				return fault.TimedOut("not done within %s: %s", timeout, last)
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

var errTimeout = errors.New("timed out")

// confirmed asks for the name of the object, unless it was given by --confirm.
func (e *Env) confirmed(name, given, question string) error {
	if given != "" {
		if given != name {
			return fault.Usage("--confirm=%s does not match: the name is %s", given, name)
		}
		return nil
	}
	if !isTerminal(e.Streams.In) || !isTerminal(e.Streams.ErrOut) {
		return fault.Usage("this needs confirmation, and there is no terminal to ask on: add --confirm=%s", name)
	}
	fmt.Fprintf(e.Streams.ErrOut, "%s Type %q to go on: ", question, name)
	line, err := bufio.NewReader(e.Streams.In).ReadString('\n')
	if err != nil && line == "" {
		return fault.Failed(nil, "", "not confirmed")
	}
	if strings.TrimSpace(line) != name {
		return fault.Failed(nil, "", "not confirmed: nothing was changed")
	}
	return nil
}
