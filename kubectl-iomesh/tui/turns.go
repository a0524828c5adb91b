package tui

import (
	"time"

	tea "charm.land/bubbletea/v2"
)

// turns makes a model read again and again. Each read begins the time to the next one anew, also one that a key asked for: else every such key would
// add a row of reads of its own.
type turns struct{ turn int }

// tick says that the time of a turn is over.
type tick struct{ turn int }

// next begins a turn, which ends after d.
func (t *turns) next(d time.Duration) tea.Cmd {
	t.turn++
	end := tick{t.turn}
	return tea.Tick(d, func(time.Time) tea.Msg { return end })
}

// due reports whether the turn that has ended is the last that was begun.
func (t *turns) due(end tick) bool { return end.turn == t.turn }
