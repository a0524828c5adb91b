package login

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Secrets of CHAP (RFC 7143 §12.1.3). The initiator proves Secret under the name User; the target, if asked, MutualSecret
// under MutualUser.
type Secrets struct{ User, Secret, MutualUser, MutualSecret string }

// String keeps secrets out of logs.
func (Secrets) String() string { return "CHAP(redacted)" }

// GoString keeps secrets out of logs.
func (Secrets) GoString() string { return "CHAP(redacted)" }

const (
	chapMD5        = "5" // algorithm number of MD5, the one every initiator has
	challengeBytes = 16
)

// chapResponse is MD5(identifier, secret, challenge) of RFC 1994 §4.1.
func chapResponse(id byte, secret string, challenge []byte) []byte {
	h := md5.New()
	h.Write([]byte{id})
	h.Write([]byte(secret))
	h.Write(challenge)
	return h.Sum(nil)
}

type challenge struct {
	id    byte
	bytes []byte
}

func newChallenge() challenge {
	b := make([]byte, challengeBytes+1)
	rand.Read(b)
	return challenge{id: b[0], bytes: b[1:]}
}

// verify checks a peer's CHAP_R in constant time.
func (c challenge) verify(secret, response string) bool {
	got, err := decodeBinary(response)
	if err != nil || secret == "" {
		return false
	}
	return subtle.ConstantTimeCompare(got, chapResponse(c.id, secret, c.bytes)) == 1
}

// parseChallenge reads CHAP_I and CHAP_C of a peer.
func parseChallenge(id, value string) (challenge, error) {
	n, err := strconv.ParseUint(id, 0, 8)
	if err != nil {
		return challenge{}, fmt.Errorf("CHAP_I=%s is not a number below 256", id)
	}
	b, err := decodeBinary(value)
	if err != nil {
		return challenge{}, fmt.Errorf("CHAP_C: %w", err)
	}
	if len(b) == 0 || len(b) > 1024 {
		return challenge{}, fmt.Errorf("CHAP_C has %d bytes, expected 1 to 1024", len(b))
	}
	return challenge{id: byte(n), bytes: b}, nil
}

func encodeBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// decodeBinary reads the large binary values of RFC 7143 §6.1: 0x… or 0b….
func decodeBinary(s string) ([]byte, error) {
	if len(s) < 2 {
		return nil, fmt.Errorf("binary value is too short")
	}
	switch strings.ToLower(s[:2]) {
	case "0x":
		d := s[2:]
		if len(d)%2 == 1 {
			d = "0" + d
		}
		return hex.DecodeString(d)
	case "0b":
		return base64.StdEncoding.DecodeString(s[2:])
	}
	return nil, fmt.Errorf("binary value does not begin with 0x or 0b")
}
