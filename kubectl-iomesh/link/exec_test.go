package link

import (
	"io"
	"strings"
	"testing"
)

func TestAnAnswerThatIsTooLongIsNotCopied(t *testing.T) {
	l := &limited{max: 100}
	// As remotecommand does. The reader has no WriteTo, so that copying would use a ReadFrom of the buffer.
	_, err := io.Copy(l, struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 1000))})
	if err == nil || l.Len() > 100 {
		t.Errorf("error %v, %d bytes", err, l.Len())
	}
}
