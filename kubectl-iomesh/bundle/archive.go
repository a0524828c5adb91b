package bundle

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Limits of a bundle.
type Limits struct {
	FileBytes  int           // of one file; the rest is cut off at the front
	TotalBytes int           // of all files, uncompressed
	LogLines   int64         // of each container
	Time       time.Duration // of the whole collection
	CallTime   time.Duration // of one question
}

// DefaultLimits fit into a mail.
var DefaultLimits = Limits{FileBytes: 8 << 20, TotalBytes: 256 << 20, LogLines: 20000, Time: 3 * time.Minute, CallTime: 30 * time.Second}

// Entry is a file in the archive.
type Entry struct {
	Path  string `json:"path"`
	Bytes int    `json:"bytes"`
	Cut   bool   `json:"cut,omitempty"` // its beginning is missing
}

// Missing is what is not in the archive, and why.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Index says what a bundle holds.
type Index struct {
	output.Meta
	Cluster   string    `json:"cluster"`
	Namespace string    `json:"namespace"`
	Client    string    `json:"client"`
	Taken     time.Time `json:"taken"`
	Files     []Entry   `json:"files"`
	Missing   []Missing `json:"missing"`
}

type file struct {
	path string
	data []byte
}

// collection is a bundle in the making.
type collection struct {
	limits Limits
	index  Index
	files  []file
	total  int
}

// add takes a file in, within the limits.
func (c *collection) add(path string, data []byte) {
	e := Entry{Path: path}
	if len(data) > c.limits.FileBytes {
		data, e.Cut = data[len(data)-c.limits.FileBytes:], true
	}
	if c.total+len(data) > c.limits.TotalBytes {
		c.miss(path, fmt.Sprintf("the bundle would be larger than %d MiB", c.limits.TotalBytes>>20))
		return
	}
	c.total += len(data)
	e.Bytes = len(data)
	c.files = append(c.files, file{path, data})
	c.index.Files = append(c.index.Files, e)
}

// miss notes what is missing.
func (c *collection) miss(what, why string) {
	c.index.Missing = append(c.index.Missing, Missing{what, why})
}

// write makes the archive; times in it are the index's, so that equal contents make equal archives.
func (c *collection) write(w io.Writer) error {
	index, err := json.MarshalIndent(c.index, "", "  ")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, f := range append([]file{{"index.json", append(index, '\n')}}, c.files...) {
		if err := t.WriteHeader(&tar.Header{Name: "iomesh-bundle/" + f.path, Mode: 0o600, Size: int64(len(f.data)), ModTime: c.index.Taken, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}
