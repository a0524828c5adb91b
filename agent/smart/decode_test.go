package smart

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"unsafe"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestRequestsHaveTheKernelsLayout(t *testing.T) {
	if n := unsafe.Sizeof(adminCommand{}); n != 72 {
		t.Errorf("struct nvme_admin_cmd has 72 bytes, ours %d", n)
	}
	if n := unsafe.Sizeof(sgHeader{}); n != 88 {
		t.Errorf("struct sg_io_hdr has 88 bytes, ours %d", n)
	}
	if at := unsafe.Offsetof(sgHeader{}.status); at != 64 {
		t.Errorf("status of struct sg_io_hdr is at 64, ours at %d", at)
	}
}

// nvmeLog is a log with these bytes set.
func nvmeLog(set map[int]byte) []byte {
	p := make([]byte, nvmeLogBytes)
	binary.LittleEndian.PutUint16(p[1:], 273+41)
	p[3], p[4], p[5] = 100, 10, 7
	binary.LittleEndian.PutUint64(p[128:], 8766)
	for at, b := range set {
		p[at] = b
	}
	return p
}

func TestNVMeHealthLogs(t *testing.T) {
	good := Report{Verdict: Passed, LifeLeft: of[int32](93), Temperature: of[int32](41), PowerOnHours: of[int64](8766), MediaErrors: of[int64](0)}
	with := func(f func(*Report)) Report {
		r := good
		f(&r)
		return r
	}
	for _, c := range []struct {
		name string
		log  []byte
		want Report
	}{
		{"a good disk", nvmeLog(nil), good},
		{"more than its life is used", nvmeLog(map[int]byte{5: 255}), with(func(r *Report) { r.LifeLeft = of[int32](0) })},
		{"spare blocks run out", nvmeLog(map[int]byte{0: 1, 3: 9}), with(func(r *Report) {
			r.Verdict, r.Reasons = Failed, []string{"spare blocks are down to 9 %, below the disk's threshold of 10 %"}
		})},
		{"read-only and unreliable", nvmeLog(map[int]byte{0: 4 | 8}), with(func(r *Report) {
			r.Verdict, r.Reasons = Failed, []string{"the disk's reliability is degraded by media or internal errors", "the disk has made itself read-only"}
		})},
		{"heat is no failure", nvmeLog(map[int]byte{0: 2, 1: 0x6a, 2: 1}), with(func(r *Report) {
			r.Temperature, r.Reasons = of[int32](89), []string{"its temperature of 89 °C is outside the disk's limits"}
		})},
		{"media errors", nvmeLog(map[int]byte{160: 3}), with(func(r *Report) { r.MediaErrors = of[int64](3) })},
		{"a counter beyond 64 bits", nvmeLog(map[int]byte{170: 1}), with(func(r *Report) { r.MediaErrors = of[int64](1<<63 - 1) })},
	} {
		got, err := decodeNVMe(c.log)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := decodeNVMe(make([]byte, 100)); err == nil {
		t.Error("a short log is accepted")
	}
}

// attr is an attribute of a test.
type attr struct {
	id, value byte
	raw       uint64
}

func ataData(selfTest byte, attrs ...attr) []byte {
	p := make([]byte, ataSectorBytes)
	p[0] = 16
	for i, a := range attrs {
		e := p[2+i*ataAttrBytes:]
		e[0], e[3], e[4] = a.id, a.value, a.value
		binary.LittleEndian.PutUint32(e[5:], uint32(a.raw))
		binary.LittleEndian.PutUint16(e[9:], uint16(a.raw>>32))
	}
	p[363] = selfTest
	var sum byte
	for _, b := range p {
		sum += b
	}
	p[511] = -sum
	return p
}

func TestATAAttributes(t *testing.T) {
	all := []attr{{5, 100, 8}, {9, 90, 0x0001_0000_2233}, {194, 60, 0x0020_000f_0028}, {197, 100, 2}, {177, 88, 120}, {231, 250, 0}}
	want := Report{SelfTest: Passed, ReallocatedSectors: of[int64](8), PendingSectors: of[int64](2), PowerOnHours: of[int64](0x2233), Temperature: of[int32](40)}
	hdd, err := decodeATA(ataData(0, all...), false)
	if err != nil || !reflect.DeepEqual(hdd, want) {
		t.Errorf("a disk that turns: %+v, %v", hdd, err)
	}
	ssd, err := decodeATA(ataData(0, all...), true)
	if want.LifeLeft = of[int32](100); err != nil || !reflect.DeepEqual(ssd, want) {
		t.Errorf("an SSD whose value of life begins above 100: %+v, %v", ssd, err)
	}
	if r, _ := decodeATA(ataData(0, attr{177, 12, 0}), true); r.LifeLeft == nil || *r.LifeLeft != 12 {
		t.Errorf("life by wear levelling: %+v", r)
	}
	for status, w := range map[byte]Verdict{0x00: Passed, 0x10: Unknown, 0x28: Unknown, 0x39: Failed, 0x70: Failed, 0x8f: Failed, 0xf4: Unknown} {
		if r, _ := decodeATA(ataData(status), true); r.SelfTest != w || r.Failing() != (w == Failed) {
			t.Errorf("self-test status %#x: %s, want %s", status, r.SelfTest, w)
		}
	}
	bad := ataData(0, all...)
	bad[20]++
	if _, err := decodeATA(bad, true); err == nil {
		t.Error("data with a wrong checksum is believed")
	}
}

// returned is sense data with an ATA Status Return descriptor, after another descriptor.
func returned(mid, high byte) []byte {
	d := []byte{0x09, 12, 0, 0, 0, 0, 0, 0, 0, mid, 0, high, 0, 0x50}
	other := []byte{0x00, 2, 1, 2}
	return append(append([]byte{0x72, 1, 0, 0x1d, 0, 0, 0, byte(len(other) + len(d))}, other...), d...)
}

func TestATAStatus(t *testing.T) {
	for _, c := range []struct {
		name  string
		sense []byte
		want  Verdict
	}{
		{"passed", returned(0x4f, 0xc2), Passed},
		{"threshold exceeded", returned(0xf4, 0x2c), Failed},
		{"registers of another command", returned(0, 0), Unknown},
		{"fixed format", []byte{0x70, 0, 1, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0}, Unknown},
		{"cut off", returned(0x4f, 0xc2)[:20], Unknown},
		{"none", nil, Unknown},
	} {
		if got, err := decodeStatus(c.sense); got != c.want || (err == nil) != (got != Unknown) {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

func statistics(flags, used byte) []byte {
	p := make([]byte, ataSectorBytes)
	p[0], p[2], p[8], p[15] = 1, 7, used, flags
	return p
}

func TestPercentageUsed(t *testing.T) {
	if l := decodeStatistics(statistics(0xc0, 30)); l == nil || *l != 70 {
		t.Error("30 % used are not 70 % left")
	}
	for name, p := range map[string][]byte{"not valid": statistics(0x80, 30), "another page": make([]byte, ataSectorBytes), "short": {1, 0, 7}} {
		if decodeStatistics(p) != nil {
			t.Errorf("%s: taken for an answer", name)
		}
	}
}

// fake answers commands by their CDB's first bytes.
type fake struct {
	log    []byte
	data   map[string][]byte
	sense  []byte
	closed bool
}

func (f *fake) Close() error { f.closed = true; return nil }

func (f *fake) NVMeLog(page byte, data []byte) error {
	if f.log == nil || page != 2 {
		return errors.New("no NVMe")
	}
	copy(data, f.log)
	return nil
}

func (f *fake) SCSI(cdb, data []byte) ([]byte, error) {
	name := ""
	switch {
	case cdb[0] == 0x85 && cdb[14] == ataSMART && cdb[4] == smartStatus:
		return f.sense, errors.New("check condition")
	case cdb[0] == 0x85 && cdb[14] == ataSMART && cdb[4] == smartReadData && cdb[10] == 0x4f && cdb[12] == 0xc2 && cdb[1] == 8:
		name = "smart"
	case cdb[0] == 0x85 && cdb[14] == ataReadLogExt && cdb[8] == 4 && cdb[10] == 7 && cdb[1] == 9:
		name = "statistics"
	case cdb[0] == 0x4d && cdb[2] == 1<<6|pageExceptions:
		name = "exceptions"
	case cdb[0] == 0x4d && cdb[2] == 1<<6|pageSolidState:
		name = "solid state"
	}
	p := f.data[name]
	if p == nil {
		return nil, errors.New("invalid command")
	}
	copy(data, p)
	return nil, nil
}

func TestEachKindOfDiskIsAskedInItsOwnWay(t *testing.T) {
	exceptions := []byte{0x2f, 0, 0, 7, 0, 0, 3, 3, 0x5d, 0x10, 33}
	wear := []byte{0x11, 0, 0, 8, 0, 1, 3, 4, 0, 0, 0, 61}
	ata := map[string][]byte{"smart": ataData(0, attr{177, 50, 0}), "statistics": statistics(0xc0, 8)}
	for _, c := range []struct {
		name string
		dev  blockdev.Device
		disk *fake
		want Report
	}{
		{"NVMe", blockdev.Device{Transport: "nvme", Drive: v1alpha1.DriveNVMe}, &fake{log: nvmeLog(nil)},
			Report{Verdict: Passed, LifeLeft: of[int32](93), Temperature: of[int32](41), PowerOnHours: of[int64](8766), MediaErrors: of[int64](0)}},
		{"SATA, with the standard's page", blockdev.Device{Transport: "sata", Drive: v1alpha1.DriveSSD}, &fake{data: ata, sense: returned(0x4f, 0xc2)},
			Report{Verdict: Passed, SelfTest: Passed, LifeLeft: of[int32](92)}},
		{"SATA that fails, without it", blockdev.Device{Transport: "sata", Drive: v1alpha1.DriveSSD}, &fake{data: map[string][]byte{"smart": ata["smart"]}, sense: returned(0xf4, 0x2c)},
			Report{Verdict: Failed, SelfTest: Passed, LifeLeft: of[int32](50), Reasons: []string{"a S.M.A.R.T. attribute of the disk has fallen below its threshold"}}},
		{"SATA at a SAS controller", blockdev.Device{Transport: "sas", Drive: v1alpha1.DriveHDD}, &fake{data: map[string][]byte{"smart": ata["smart"]}, sense: returned(0x4f, 0xc2)},
			Report{Verdict: Passed, SelfTest: Passed}},
		{"SAS", blockdev.Device{Transport: "sas", Drive: v1alpha1.DriveSSD}, &fake{data: map[string][]byte{"exceptions": exceptions, "solid state": wear}},
			Report{Verdict: Failed, Temperature: of[int32](33), LifeLeft: of[int32](39), Reasons: []string{"the disk predicts its failure (additional sense 5dh/10h)"}}},
	} {
		got, err := Read(func(string) (Commands, error) { return c.disk, nil }, &c.dev)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
		if !c.disk.closed {
			t.Errorf("%s: left open", c.name)
		}
	}
	if _, err := Read(func(string) (Commands, error) { return &fake{}, nil }, &blockdev.Device{Transport: "sas"}); err == nil {
		t.Error("a disk behind a controller that answers nothing has a report")
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(nvmeLog(nil))
	f.Add(ataData(0, attr{5, 1, 2}))
	f.Add(returned(0x4f, 0xc2))
	f.Add([]byte{0x2f, 0, 0, 7, 0, 0, 3, 3, 0x5d, 0x10, 33})
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, r := range []Report{first(decodeNVMe(p)), first(decodeATA(p, true)), scsi(p)} {
			if r.LifeLeft != nil && (*r.LifeLeft < 0 || *r.LifeLeft > 100) {
				t.Errorf("%d %% of a life are left", *r.LifeLeft)
			}
		}
		_, _ = decodeStatus(p)
		_ = decodeStatistics(p)
	})
}

func first(r Report, _ error) Report { return r }

func scsi(p []byte) (r Report) {
	_ = decodeExceptions(p, &r)
	_ = decodeSolidState(p, &r)
	return r
}
