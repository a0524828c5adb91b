package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// matrix runs the faults and returns the table, and how many were not told as they should be.
func (o *observer) matrix(ctx context.Context, only string, from int) (string, int) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tSTATUS AFTER\tALERTS\tWHY NAMES FIRST\tOK AGAIN AFTER\t")
	run, wrong, named := 0, 0, 0
	for i, f := range o.faults() {
		if i+1 < from || !strings.Contains(f.name, only) || ctx.Err() != nil {
			continue
		}
		run++
		r := o.try(ctx, f)
		if r.first {
			named++
		}
		verdict := "ok"
		if len(r.wrong) > 0 {
			wrong++
			verdict = "WRONG: " + strings.Join(r.wrong, "; ")
		}
		fmt.Printf("%3d %-45s status %5.1fs  alerts %-60s why %-28s ok again %5.1fs  %s\n", i+1, f.name, r.status.Seconds(), strings.Join(r.alerts, ","), r.cause, r.again.Seconds(), verdict)
		fmt.Fprintf(tw, "%s\t%.1f s\t%s\t%s\t%.1f s\t%s\n", f.name, r.status.Seconds(), strings.Join(r.alerts, ", "), r.cause, r.again.Seconds(), verdict)
	}
	_ = tw.Flush()
	fmt.Fprintf(&b, "%d faults, %d not told as they should be; why named the cause first in %d (%.0f %%)\n", run, wrong, named, float64(named)*100/float64(max(run, 1)))
	return b.String(), wrong
}

type result struct {
	status, again time.Duration
	alerts        []string // that fired
	cause         string
	first         bool
	wrong         []string
}

// try does one fault.
func (o *observer) try(ctx context.Context, f fault) (r result) {
	bad := func(format string, args ...any) { r.wrong = append(r.wrong, fmt.Sprintf(format, args...)) }
	mend, err := f.inject(ctx)
	defer func() {
		if mend != nil {
			if err := mend(); err != nil {
				bad("not mended: %v", err)
			}
		}
		var ok bool
		if r.again, ok = o.awaitOK(ctx); !ok {
			bad("not OK again: %s", o.last(ctx))
		}
	}()
	if err != nil {
		bad("not injected: %v", err)
		return r
	}
	var w why
	var ok bool
	if r.status, ok = await(ctx, 2*statusWithin, func() bool { w = o.why(ctx); return w.has(f.cause, f.object) }); !ok {
		bad("the status does not tell: %s", o.last(ctx))
	} else if r.status > statusWithin {
		bad("the status changed after %s", r.status.Round(100*time.Millisecond))
	}
	// Alerts: all that belong to it, and over a few seconds more none besides.
	missing := func() []string {
		var out []string
		now := firing(ctx)
		for _, a := range now {
			if !slices.Contains(r.alerts, a) {
				r.alerts = append(r.alerts, a)
			}
		}
		for _, a := range f.alerts {
			if !slices.Contains(r.alerts, a) {
				out = append(out, a)
			}
		}
		return out
	}
	await(ctx, alertsWithin, func() bool { return len(missing()) == 0 })
	await(ctx, 4*time.Second, func() bool { missing(); return false })
	if m := missing(); len(m) > 0 {
		bad("alerts that do not fire: %s", strings.Join(m, ", "))
	}
	slices.Sort(r.alerts)
	for _, a := range r.alerts {
		if !slices.Contains(f.alerts, a) && !slices.Contains(f.may, a) && !slices.Contains(passing, a) {
			bad("alert %s fires besides", a)
		}
	}
	// why, when all has settled.
	if w = o.why(ctx); len(w.Causes) > 0 {
		c := w.Causes[0]
		r.cause = strings.TrimSuffix(c.Code+" "+c.Object.Name, " ")
		r.first = c.Code == f.cause && (f.object == "*" || c.Object.Name == f.object)
	}
	return r
}
