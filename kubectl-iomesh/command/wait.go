package command

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// pollEvery is how often something waited for is looked at.
const pollEvery = time.Second

// lookMax bounds one look, so that an API server that hangs is one failed look and not the end.
const lookMax = 15 * time.Second

// await looks until done, printing each change of the state as a line. When time runs out the error tells the last state that was seen. A
// look that fails is a state too: an API server that restarts ends no wait.
func (e *Env) await(ctx context.Context, timeout time.Duration, look func(context.Context) (state string, done bool, err error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	start, last, seen := e.Now(), "", ""
	for {
		lookCtx, cancel := context.WithTimeout(ctx, lookMax)
		state, done, err := look(lookCtx)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			state = err.Error()
		} else {
			seen = state
		}
		if state != last {
			e.say("%5.0fs  %s", e.Now().Sub(start).Seconds(), state)
			last = state
		}
		if err == nil && done {
			return nil
		}
		if e.Now().Sub(start) >= timeout {
			if seen == "" {
				seen = last
			}
			return fault.TimedOut("not done within %s: %s", timeout, seen)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

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
