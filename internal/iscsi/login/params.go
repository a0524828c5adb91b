package login

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Params are the operational parameters of a session (RFC 7143 §13). Lengths are bytes, times seconds.
type Params struct {
	HeaderDigest, DataDigest bool
	InitialR2T               bool
	ImmediateData            bool
	MaxBurst                 int
	FirstBurst               int
	MaxOutstandingR2T        int
	Time2Wait, Time2Retain   int
	// RecvMax is the longest data segment this side accepts, SendMax the longest the peer accepts.
	RecvMax, SendMax int
}

// Defaults are the values that hold without negotiation.
func Defaults() Params {
	return Params{InitialR2T: true, ImmediateData: true, MaxBurst: 262144, FirstBurst: 65536, MaxOutstandingR2T: 1,
		Time2Wait: 2, Time2Retain: 20, RecvMax: 8192, SendMax: 8192}
}

// Wishes are what this side wants; the outcome depends on the peer.
type Wishes struct {
	// HeaderDigest and DataDigest list "CRC32C" and "None" by preference. Empty: whatever the peer prefers.
	HeaderDigest, DataDigest []string
	InitialR2T               bool
	ImmediateData            bool
	MaxBurst, FirstBurst     int
	RecvMax                  int
	Time2Wait, Time2Retain   int
	MaxOutstandingR2T        int
}

// DefaultWishes are those of both our sides: unsolicited data as far as FirstBurst, large bursts, no waiting after loss.
func DefaultWishes() Wishes {
	return Wishes{InitialR2T: false, ImmediateData: true, MaxBurst: 1 << 20, FirstBurst: 64 << 10, RecvMax: 256 << 10,
		Time2Wait: 0, Time2Retain: 0, MaxOutstandingR2T: 1}
}

const (
	no            = "No"
	yes           = "Yes"
	none          = "None"
	crc32c        = "CRC32C"
	reject        = "Reject"
	irrelevant    = "Irrelevant"
	notUnderstood = "NotUnderstood"
)

func boolText(b bool) string {
	if b {
		return yes
	}
	return no
}

func parseNumber(key, v string, lo, hi int64) (int, error) {
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("%s=%s is not a number in [%d, %d]", key, v, lo, hi)
	}
	return int(n), nil
}

// answer negotiates one offered operational key as the responder and returns the value to send back ("" for declarative
// keys, which need none).
func (p *Params) answer(w Wishes, key, value string) (string, error) {
	switch key {
	case "HeaderDigest", "DataDigest":
		want, dst := w.HeaderDigest, &p.HeaderDigest
		if key == "DataDigest" {
			want, dst = w.DataDigest, &p.DataDigest
		}
		offered := strings.Split(value, ",")
		for _, o := range offered {
			if (o == crc32c || o == none) && (len(want) == 0 || slices.Contains(want, o)) {
				*dst = o == crc32c
				return o, nil
			}
		}
		return reject, fmt.Errorf("no common digest: %s=%s, wanted %v", key, value, want)
	case "InitialR2T":
		return p.answerBool(&p.InitialR2T, key, value, func(o bool) bool { return o || w.InitialR2T })
	case "ImmediateData":
		return p.answerBool(&p.ImmediateData, key, value, func(o bool) bool { return o && w.ImmediateData })
	case "DataPDUInOrder", "DataSequenceInOrder":
		var ignore bool
		return p.answerBool(&ignore, key, value, func(bool) bool { return true })
	case "IFMarker", "OFMarker":
		return no, nil
	case "IFMarkInt", "OFMarkInt":
		return irrelevant, nil
	case "MaxConnections":
		if _, err := parseNumber(key, value, 1, 65535); err != nil {
			return reject, err
		}
		return "1", nil
	case "ErrorRecoveryLevel":
		if _, err := parseNumber(key, value, 0, 2); err != nil {
			return reject, err
		}
		return "0", nil
	case "MaxRecvDataSegmentLength":
		n, err := parseNumber(key, value, 512, 1<<24-1)
		if err != nil {
			return reject, err
		}
		p.SendMax = n
		return "", nil
	case "MaxBurstLength":
		return p.answerMin(&p.MaxBurst, key, value, 512, 1<<24-1, w.MaxBurst)
	case "FirstBurstLength":
		return p.answerMin(&p.FirstBurst, key, value, 512, 1<<24-1, w.FirstBurst)
	case "MaxOutstandingR2T":
		return p.answerMin(&p.MaxOutstandingR2T, key, value, 1, 65535, w.MaxOutstandingR2T)
	case "DefaultTime2Retain":
		return p.answerMin(&p.Time2Retain, key, value, 0, 3600, w.Time2Retain)
	case "DefaultTime2Wait":
		n, err := parseNumber(key, value, 0, 3600)
		if err != nil {
			return reject, err
		}
		p.Time2Wait = max(n, w.Time2Wait)
		return strconv.Itoa(p.Time2Wait), nil
	case "TaskReporting":
		// RFC 7143 §13.23: only the RFC 3720 behaviour and response fence are offered by initiators; ours is RFC3720.
		if slices.Contains(strings.Split(value, ","), "RFC3720") {
			return "RFC3720", nil
		}
		return reject, nil
	case "iSCSIProtocolLevel":
		return "1", nil
	}
	return notUnderstood, nil
}

func (p *Params) answerBool(dst *bool, key, value string, join func(bool) bool) (string, error) {
	if value != yes && value != no {
		return reject, fmt.Errorf("%s=%s is neither Yes nor No", key, value)
	}
	*dst = join(value == yes)
	return boolText(*dst), nil
}

func (p *Params) answerMin(dst *int, key, value string, lo, hi int64, mine int) (string, error) {
	n, err := parseNumber(key, value, lo, hi)
	if err != nil {
		return reject, err
	}
	*dst = min(n, mine)
	return strconv.Itoa(*dst), nil
}

// offer is the initiator's side of the operational keys.
func (w Wishes) offer() Text {
	var t Text
	digests := func(d []string) string {
		if len(d) == 0 {
			return none
		}
		return strings.Join(d, ",")
	}
	t.Add("HeaderDigest", digests(w.HeaderDigest))
	t.Add("DataDigest", digests(w.DataDigest))
	t.Add("MaxConnections", "1")
	t.Add("InitialR2T", boolText(w.InitialR2T))
	t.Add("ImmediateData", boolText(w.ImmediateData))
	t.Add("MaxRecvDataSegmentLength", strconv.Itoa(w.RecvMax))
	t.Add("MaxBurstLength", strconv.Itoa(w.MaxBurst))
	t.Add("FirstBurstLength", strconv.Itoa(w.FirstBurst))
	t.Add("DefaultTime2Wait", strconv.Itoa(w.Time2Wait))
	t.Add("DefaultTime2Retain", strconv.Itoa(w.Time2Retain))
	t.Add("MaxOutstandingR2T", strconv.Itoa(w.MaxOutstandingR2T))
	t.Add("DataPDUInOrder", yes)
	t.Add("DataSequenceInOrder", yes)
	t.Add("ErrorRecoveryLevel", "0")
	return t
}

// accept takes the target's answer to one offered key, or a value the target declares.
func (p *Params) accept(key, value string) error {
	var err error
	flag := func(dst *bool) {
		if value != yes && value != no {
			err = fmt.Errorf("target answered %s=%s", key, value)
			return
		}
		*dst = value == yes
	}
	number := func(dst *int, lo, hi int64) {
		var n int
		if n, err = parseNumber(key, value, lo, hi); err == nil {
			*dst = n
		}
	}
	digest := func(dst *bool) {
		if value != crc32c && value != none {
			err = fmt.Errorf("target answered %s=%s: no common digest", key, value)
			return
		}
		*dst = value == crc32c
	}
	switch key {
	case "HeaderDigest":
		digest(&p.HeaderDigest)
	case "DataDigest":
		digest(&p.DataDigest)
	case "InitialR2T":
		flag(&p.InitialR2T)
	case "ImmediateData":
		flag(&p.ImmediateData)
	case "MaxRecvDataSegmentLength":
		number(&p.SendMax, 512, 1<<24-1)
	case "MaxBurstLength":
		number(&p.MaxBurst, 512, 1<<24-1)
	case "FirstBurstLength":
		number(&p.FirstBurst, 512, 1<<24-1)
	case "DefaultTime2Wait":
		number(&p.Time2Wait, 0, 3600)
	case "DefaultTime2Retain":
		number(&p.Time2Retain, 0, 3600)
	case "MaxOutstandingR2T":
		number(&p.MaxOutstandingR2T, 1, 65535)
	}
	return err
}
