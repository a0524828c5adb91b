package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// power kills all processes at once under load, and starts them again, without any command after that.
func power(ctx context.Context, r *run) error {
	rounds := 20
	if r.quick {
		rounds = 3
	}
	b, err := up(ctx, r, 2<<30)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.standard(ctx, r); err != nil {
		return err
	}
	var slowest time.Duration
	for i := range rounds {
		// At another place in the life of journal and checkpoints each time.
		if err := pause(ctx, time.Duration(2000+(i*377)%3000)*time.Millisecond); err != nil {
			return err
		}
		before := b.writes()
		if err := b.KillAll(); err != nil {
			return err
		}
		start := time.Now()
		if err := b.StartAll(); err != nil {
			return err
		}
		for j, v := range b.volumes {
			want := before[j] + 20 // more than could have been on their way
			for {
				if _, w, _, _ := v.Counts(); w > want {
					break
				}
				if time.Since(start) > 60*time.Second {
					return errors.Join(fmt.Errorf("round %d: no I/O on volume %s 60 s after all processes were started again", i+1, v.Name), b.verdict(r))
				}
				if err := pause(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
		}
		took := time.Since(start)
		slowest = max(slowest, took)
		r.say("round %d of %d: everything killed; all volumes write again %.2f s after the start", i+1, rounds, took.Seconds())
		if err := b.healthy(ctx, 120*time.Second); err != nil {
			return errors.Join(fmt.Errorf("round %d: %w", i+1, err), b.verdict(r))
		}
		for _, v := range b.volumes {
			if _, n := v.Problems(); n > 0 {
				return b.verdict(r)
			}
		}
	}
	r.say("slowest return of I/O: %.2f s", slowest.Seconds())
	return b.finish(ctx, r)
}

func (b *bench) writes() []uint64 {
	var out []uint64
	for _, v := range b.volumes {
		_, w, _, _ := v.Counts()
		out = append(out, w)
	}
	return out
}
