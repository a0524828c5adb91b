package tui

import (
	"context"
	"fmt"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// upgradeEvery is how often the progress is read again.
const upgradeEvery = 2 * time.Second

// UpgradeSource reads how far an upgrade is.
type UpgradeSource func(context.Context) (*report.Upgrade, error)

// UpgradeAction is what the user may ask for; it returns what to say.
type UpgradeAction func(context.Context) (string, error)

// UpgradeActions of the screen.
type UpgradeActions struct {
	Pause, Resume, Rollback UpgradeAction
}

// Upgrade is the model of the screen that follows a rolling update.
type Upgrade struct {
	screen
	turns
	ctx     context.Context
	source  UpgradeSource
	actions UpgradeActions
	now     func() time.Time

	at      *report.Upgrade
	readAt  time.Time
	stale   string
	begun   time.Time
	pace    pace
	cursor  int
	help    bool
	asking  string // "pause", "resume" or "rollback": y is waited for
	busy    string // an action under way
	message string
	done    bool
}

// pace learns how long a node takes.
type pace struct {
	updated int
	since   time.Time
	sum     time.Duration
	nodes   int
}

func (p *pace) see(u *report.Upgrade, now time.Time) {
	switch {
	case p.since.IsZero(), u.Updated < p.updated: // the first look, or another target
		*p = pace{updated: u.Updated, since: now}
	case u.Paused != "":
		p.since = now // a pause is no work
	case u.Updated > p.updated:
		p.sum += now.Sub(p.since)
		p.nodes += u.Updated - p.updated
		p.updated, p.since = u.Updated, now
	}
}

// left is the time that the rest will take, 0 where nothing is known yet.
func (p *pace) left(u *report.Upgrade, now time.Time) time.Duration {
	if p.nodes == 0 || u.Updated >= u.Total {
		return 0
	}
	each := p.sum / time.Duration(p.nodes)
	return max(time.Second, each*time.Duration(u.Total-u.Updated)-min(each, now.Sub(p.since)))
}

// NewUpgrade returns the model.
func NewUpgrade(ctx context.Context, source UpgradeSource, actions UpgradeActions, now func() time.Time) *Upgrade {
	return &Upgrade{ctx: ctx, source: source, actions: actions, now: now, begun: now(), screen: screen{width: 80, height: 24}}
}

// Done reports whether everything ran the new version when the screen was left.
func (m *Upgrade) Done() bool { return m.done }

type upgradeRead struct {
	u   *report.Upgrade
	err error
}

type acted struct {
	text string
	err  error
}

func (m *Upgrade) read() tea.Msg {
	ctx, cancel := context.WithTimeout(m.ctx, 10*time.Second)
	defer cancel()
	u, err := m.source(ctx)
	return upgradeRead{u, err}
}

// Init implements tea.Model.
func (m *Upgrade) Init() tea.Cmd { return m.read }

// Update implements tea.Model.
func (m *Upgrade) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case upgradeRead:
		m.take(msg)
		return m, m.next(upgradeEvery)
	case tick:
		if m.due(msg) {
			return m, m.read
		}
	case acted:
		m.busy, m.message = "", msg.text
		if msg.err != nil {
			m.message = oneLine(msg.err)
		}
		return m, nil
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

func (m *Upgrade) take(r upgradeRead) {
	if r.err != nil {
		m.stale = oneLine(r.err)
		return
	}
	m.at, m.stale, m.readAt, m.done = r.u, "", m.now(), r.u.Complete
	m.pace.see(r.u, m.readAt)
	m.clamp()
}

func (m *Upgrade) clamp() {
	n := 0
	if m.at != nil {
		n = len(m.at.Nodes)
	}
	m.cursor = max(0, min(m.cursor, n-1))
}

func (m *Upgrade) key(k string) tea.Cmd {
	if k == "ctrl+c" {
		return tea.Quit
	}
	if m.asking != "" {
		return m.answer(k)
	}
	m.message = ""
	if m.help {
		m.help = false
		return nil
	}
	switch k {
	case "q", "esc":
		return tea.Quit
	case "?":
		m.help = true
	case "up", "k":
		m.cursor--
	case "down", "j":
		m.cursor++
	case "home", "g":
		m.cursor = 0
	case "end", "G":
		m.cursor = 1 << 20
	case "r":
		return m.read
	case "p":
		m.ask("pause")
		if m.at != nil && m.at.Paused != "" {
			m.ask("resume")
		}
	case "a", "b":
		m.ask("rollback")
	}
	m.clamp()
	return nil
}

// ask waits for y, if the action makes sense.
func (m *Upgrade) ask(what string) {
	switch {
	case m.busy != "":
		m.message = m.busy + " is under way"
	case m.at == nil || m.stale != "":
		m.message = "the cluster does not answer: nothing can be changed now"
	case what == "pause" && m.at.Complete:
		m.message = "nothing is being updated"
	default:
		m.asking = what
	}
}

func (m *Upgrade) answer(k string) tea.Cmd {
	what := m.asking
	m.asking = ""
	if k != "y" && k != "Y" {
		m.message = "nothing was changed"
		return nil
	}
	do := map[string]UpgradeAction{"pause": m.actions.Pause, "resume": m.actions.Resume, "rollback": m.actions.Rollback}[what]
	m.busy = what
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, 2*time.Minute)
		defer cancel()
		text, err := do(ctx)
		return acted{text, err}
	}
}

// question says what y would do.
func (m *Upgrade) question() string {
	switch m.asking {
	case "pause":
		return "Pause: the node under way is finished, no other is begun. y/n"
	case "resume":
		return "Go on with the next node. y/n"
	case "rollback":
		return "Return to the version before: nodes that were updated go back, one by one. y/n"
	}
	return ""
}

// CommandLine is the command that does what the keys do.
func (m *Upgrade) CommandLine() string {
	verb := "--watch"
	switch {
	case m.asking == "rollback" || m.busy == "rollback":
		verb = "--rollback"
	case m.asking == "resume" || m.busy == "resume":
		verb = "--resume"
	case m.asking == "pause" || m.busy == "pause":
		verb = "--pause"
	}
	ns := "iomesh-system"
	if m.at != nil {
		ns = m.at.Namespace
	}
	return fmt.Sprintf("kubectl iomesh upgrade -n %s %s", ns, verb)
}
