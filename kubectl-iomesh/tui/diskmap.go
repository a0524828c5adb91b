package tui

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/diskmap"
)

// refreshEvery is how often the devices are read again.
const refreshEvery = 4 * time.Second

// Source reads the devices.
type Source func(context.Context) ([]v1alpha1.BlockDevice, error)

// Result is what the user decided.
type Result struct {
	// Done: the choice is to be planned. Otherwise the user left.
	Done   bool
	Choice diskmap.Choice
}

// DiskMap is the model.
type DiskMap struct {
	screen
	turns
	ctx     context.Context
	cluster *v1alpha1.IOMeshCluster
	source  Source
	now     func() time.Time

	devices  []v1alpha1.BlockDevice // by node and path
	readAt   time.Time
	stale    string // why the last read failed, "" when it went through
	chosen   map[string]bool
	mount    int // index into mountTypes
	cursor   int
	onlyGood bool
	help     bool
	message  string
	result   Result
}

var mountTypes = []v1alpha1.MountType{v1alpha1.DataStoreWithJournal, v1alpha1.CacheWithJournal, v1alpha1.DataStore}

// NewDiskMap returns the model. The devices are read at once.
func NewDiskMap(ctx context.Context, c *v1alpha1.IOMeshCluster, source Source, now func() time.Time) *DiskMap {
	m := &DiskMap{ctx: ctx, cluster: c, source: source, now: now, chosen: map[string]bool{}, screen: screen{width: 80, height: 24}}
	if len(c.Spec.Chunk.DeviceMap) > 0 && c.Spec.DiskDeploymentMode == v1alpha1.HybridFlash {
		m.mount = 2
	}
	return m
}

// Result is valid after the program has ended.
func (m *DiskMap) Result() Result { return m.result }

type devicesRead struct {
	devices []v1alpha1.BlockDevice
	err     error
}

func (m *DiskMap) read() tea.Msg {
	ctx, cancel := context.WithTimeout(m.ctx, 10*time.Second)
	defer cancel()
	d, err := m.source(ctx)
	return devicesRead{d, err}
}

// Init implements tea.Model.
func (m *DiskMap) Init() tea.Cmd { return m.read }

// Update implements tea.Model.
func (m *DiskMap) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case devicesRead:
		m.take(msg)
		return m, m.next(refreshEvery)
	case tick:
		if m.due(msg) {
			return m, m.read
		}
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

// take keeps the cursor on its device over a change of the list.
func (m *DiskMap) take(r devicesRead) {
	if r.err != nil {
		m.stale = oneLine(r.err)
		return
	}
	at := ""
	if d := m.current(); d != nil {
		at = d.Name
	}
	m.stale, m.readAt = "", m.now()
	m.devices = slices.Clone(r.devices)
	slices.SortFunc(m.devices, func(a, b v1alpha1.BlockDevice) int {
		if c := strings.Compare(a.Spec.Node, b.Spec.Node); c != 0 {
			return c
		}
		if c := len(a.Spec.Path) - len(b.Spec.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Spec.Path, b.Spec.Path)
	})
	for i, d := range m.visible() {
		if d.Name == at {
			m.cursor = i
		}
	}
	for name := range m.chosen {
		i := slices.IndexFunc(m.devices, func(d v1alpha1.BlockDevice) bool { return d.Name == name })
		if i < 0 || !free(&m.devices[i]) {
			delete(m.chosen, name)
			m.message = "a chosen disk is not eligible any more and was taken out of the choice"
		}
	}
	m.clamp()
}

// free reports whether a device can be chosen.
func free(d *v1alpha1.BlockDevice) bool {
	return d.Status.Eligible && d.Status.State == v1alpha1.DeviceActive && d.Spec.Claim == nil
}

// visible are the devices in the list.
func (m *DiskMap) visible() []*v1alpha1.BlockDevice {
	var out []*v1alpha1.BlockDevice
	for i := range m.devices {
		if !m.onlyGood || free(&m.devices[i]) {
			out = append(out, &m.devices[i])
		}
	}
	return out
}

func (m *DiskMap) current() *v1alpha1.BlockDevice {
	if v := m.visible(); m.cursor < len(v) {
		return v[m.cursor]
	}
	return nil
}

func (m *DiskMap) clamp() { m.cursor = max(0, min(m.cursor, len(m.visible())-1)) }

// key does what a key says.
func (m *DiskMap) key(k string) tea.Cmd {
	m.message = ""
	if m.help && k != "ctrl+c" {
		m.help = false
		return nil
	}
	page := max(1, m.listHeight())
	switch k {
	case "q", "esc", "ctrl+c":
		return tea.Quit
	case "?":
		m.help = true
	case "up", "k":
		m.cursor--
	case "down", "j":
		m.cursor++
	case "pgup":
		m.cursor -= page
	case "pgdown":
		m.cursor += page
	case "home", "g":
		m.cursor = 0
	case "end", "G":
		m.cursor = len(m.devices)
	case "space", " ", "x":
		m.toggle()
	case "a":
		for i := range m.devices {
			if free(&m.devices[i]) {
				m.chosen[m.devices[i].Name] = true
			}
		}
	case "n":
		m.chosen = map[string]bool{}
	case "e":
		m.onlyGood = !m.onlyGood
	case "m":
		m.mount = (m.mount + 1) % len(mountTypes)
	case "r":
		return m.read
	case "enter":
		return m.finish()
	}
	m.clamp()
	return nil
}

func (m *DiskMap) toggle() {
	d := m.current()
	switch {
	case d == nil:
	case m.chosen[d.Name]:
		delete(m.chosen, d.Name)
	case free(d):
		m.chosen[d.Name] = true
	default:
		m.message = d.Spec.Path + " cannot be chosen: " + whyNot(d)
	}
}

func (m *DiskMap) finish() tea.Cmd {
	switch {
	case len(m.chosen) == 0:
		m.message = "no disk is chosen: space chooses the one under the cursor, a all eligible ones"
		return nil
	case m.stale != "":
		m.message = "the list is stale: wait until the cluster answers"
		return nil
	}
	if _, err := m.plan(); err != nil {
		m.message = err.Error()
		return nil
	}
	m.result = Result{Done: true, Choice: m.choice()}
	return tea.Quit
}

// choice is what would be planned.
func (m *DiskMap) choice() diskmap.Choice {
	c := diskmap.Choice{MountType: mountTypes[m.mount]}
	for i := range m.devices {
		if m.chosen[m.devices[i].Name] {
			c.Devices = append(c.Devices, m.devices[i].Name)
		}
	}
	return c
}

func (m *DiskMap) plan() (*diskmap.Plan, error) {
	return diskmap.Make(m.cluster, m.devices, m.choice())
}

func whyNot(d *v1alpha1.BlockDevice) string {
	var out []string
	if d.Status.State != v1alpha1.DeviceActive {
		out = append(out, "it is not there")
	}
	for _, r := range d.Status.Reasons {
		out = append(out, r.Message)
	}
	if len(out) == 0 {
		return "its agent has not judged it yet"
	}
	return strings.Join(out, "; ")
}

// CommandLine is the command that does the same.
func (m *DiskMap) CommandLine() string {
	c := m.choice()
	if len(c.Devices) == 0 {
		return ""
	}
	line := "kubectl iomesh disk map -n " + m.cluster.Namespace + " --mount-type " + string(c.MountType)
	for _, d := range c.Devices {
		line += " --device " + d
	}
	return fmt.Sprintf("%s --confirm %s", line, m.cluster.Name)
}
