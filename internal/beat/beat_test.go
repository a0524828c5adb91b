package beat_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
)

func TestBeatsStartedAtDifferentTimesFallTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, late := range []time.Duration{0, time.Millisecond, 137 * time.Millisecond, 999 * time.Millisecond, time.Second - 1} {
			<-time.After(late)
			b := beat.Every(250 * time.Millisecond)
			for n := range 5 {
				before := time.Now()
				now := <-b.C
				if now.UnixNano()%int64(250*time.Millisecond) != 0 {
					t.Errorf("started %s late, beat %d at %s is not a multiple of the interval", late, n, now)
				}
				least, most := 250*time.Millisecond, 250*time.Millisecond
				if n == 0 {
					least, most = 125*time.Millisecond, 375*time.Millisecond
				}
				if d := now.Sub(before); d < least || d > most {
					t.Errorf("started %s late, beat %d came after %s", late, n, d)
				}
			}
			b.Stop()
		}
	})
}

func TestUntilIsNeverZero(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC)
	for after, want := range map[time.Duration]time.Duration{0: time.Second, 1: time.Second - 1, time.Second - 1: 1} {
		if got := beat.Until(now.Add(after), time.Second); got != want {
			t.Errorf("%s after a multiple: %s, want %s", after, got, want)
		}
	}
}

func TestAStoppedBeatIsSilentAndAMissedOneIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := beat.Every(time.Second)
		<-time.After(time.Minute + 300*time.Millisecond)
		<-b.C
		start := time.Now()
		if d := (<-b.C).Sub(start); d <= 0 || d > time.Second {
			t.Errorf("the beat after a minute of missed ones comes after %s", d)
		}
		b.Stop()
		select {
		case at := <-b.C:
			t.Errorf("a beat at %s after Stop", at)
		case <-time.After(time.Minute):
		}
	})
}
