package metadb

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

func TestCopyCheckedFindsEveryDamage(t *testing.T) {
	data := bytes.Repeat([]byte("metadata"), 20000)
	sum := sha256.Sum256(data)
	whole := append(bytes.Clone(data), sum[:]...)
	var out bytes.Buffer
	if n, err := copyChecked(&out, bytes.NewReader(whole)); err != nil || n != int64(len(whole)) || !bytes.Equal(out.Bytes(), whole) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for _, cut := range []int{0, 5, 31, 32, len(whole) / 2, len(whole) - 1} {
		if _, err := copyChecked(&out, bytes.NewReader(whole[:cut])); err == nil {
			t.Errorf("cut to %d bytes: accepted", cut)
		}
	}
	for _, at := range []int{0, len(whole) / 2, len(whole) - 40, len(whole) - 1} {
		bad := bytes.Clone(whole)
		bad[at] ^= 1
		if _, err := copyChecked(&out, bytes.NewReader(bad)); err == nil {
			t.Errorf("bit flipped at %d: accepted", at)
		}
	}
}
