package main

import (
	"archive/tar"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// epoch is the time of everything that has no odd time of its own.
var epoch = time.Date(2020, 2, 20, 20, 20, 20, 0, time.UTC)

func bytesReader(text string) io.Reader { return strings.NewReader(text) }

// layer writes one layer's tar; the first error is kept and everything after it does nothing.
type layer struct {
	raw io.Writer
	tar *tar.Writer
	err error
}

func newLayer(w io.Writer) *layer {
	return &layer{raw: w, tar: tar.NewWriter(w)}
}

func (l *layer) close() error {
	if l.err == nil {
		l.err = l.tar.Close()
	}
	return l.err
}

// entry writes one entry. Zero fields get plain values: owner root, time epoch.
func (l *layer) entry(h tar.Header, body []byte) {
	if h.ModTime.IsZero() {
		h.ModTime = epoch
	}
	if h.Format == tar.FormatUnknown {
		h.Format = tar.FormatPAX
	}
	h.Size = int64(len(body))
	if l.err == nil {
		l.err = l.tar.WriteHeader(&h)
	}
	if l.err == nil {
		_, l.err = l.tar.Write(body)
	}
	if l.err != nil {
		l.err = fmt.Errorf("%q: %w", h.Name, l.err)
	}
}

func (l *layer) dir(name string, mode int64) {
	l.entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (l *layer) file(name string, mode int64, body []byte) {
	l.entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, body)
}

func (l *layer) text(name, text string) { l.file(name, 0o644, []byte(text)) }

func (l *layer) symlink(name, target string) {
	l.entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) hardlink(name, target string) {
	l.entry(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil)
}

// whiteout removes a name of a lower layer.
func (l *layer) whiteout(dir, name string) { l.text(dir+"/.wh."+name, "") }

// opaque hides everything that lower layers have in a directory.
func (l *layer) opaque(dir string) { l.text(dir+"/.wh..wh..opq", "") }

// random writes a file of seeded bytes, the same ones on each run.
func (l *layer) random(name string, seed int64, size int) {
	body := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(body)
	l.file(name, 0o644, body)
}

// island is a stretch of data in a sparse file.
type island struct {
	offset int64
	data   string
}

// sparse writes what `tar --sparse --format=pax` would (GNU sparse 1.0): archive/tar reads such entries but can't
// write them. The stored body is the map of islands in decimal lines, padded to a block, then their data.
func (l *layer) sparse(name string, size int64, islands ...island) {
	islands = append(islands, island{offset: size}) // GNU tar ends the map with an empty island
	body := fmt.Sprintln(len(islands))
	for _, i := range islands {
		body += fmt.Sprintf("%d\n%d\n", i.offset, len(i.data))
	}
	body = padded(body)
	for _, i := range islands {
		body += i.data
	}
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name, fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		records += paxRecord(r)
	}
	if l.err == nil {
		l.err = l.tar.Flush()
	}
	for _, part := range []string{block("x", 'x', len(records)), padded(records), block("GNUSparseFile.0/"+path.Base(name), '0', len(body)), padded(body)} {
		if l.err == nil {
			_, l.err = io.WriteString(l.raw, part)
		}
	}
}

// paxRecord is "<length> <record>\n", where the length counts its own digits.
func paxRecord(record string) string {
	for n := len(record) + 3; ; n++ {
		if line := fmt.Sprintf("%d %s\n", n, record); len(line) == n {
			return line
		}
	}
}

// padded fills up to a multiple of tar's block.
func padded(text string) string { return text + strings.Repeat("\x00", (512-len(text)%512)%512) }

// block is a ustar header.
func block(name string, typeflag byte, size int) string {
	const sumAt = 148
	header := fmt.Sprintf("%-100s%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00%8s%c", name, 0o644, 0, 0, size, epoch.Unix(), "", typeflag)
	header = strings.Replace(header, name+strings.Repeat(" ", 100-len(name)), name+strings.Repeat("\x00", 100-len(name)), 1)
	header += strings.Repeat("\x00", 100) + "ustar\x0000"
	sum := 0
	for _, b := range []byte(header) {
		sum += int(b)
	}
	return padded(header[:sumAt] + fmt.Sprintf("%06o\x00 ", sum) + header[sumAt+8:])
}

// programs are the executables of the image.
type programs struct{ busybox, probe []byte }

func readPrograms(probe, busybox string) (programs, error) {
	var p programs
	var err error
	if p.busybox, err = os.ReadFile(busybox); err != nil {
		return p, fmt.Errorf("%w (Debian: busybox-static)", err)
	}
	p.probe, err = os.ReadFile(probe)
	return p, err
}

// numbered is a name with a number that sorts.
func numbered(stem string, n int) string {
	return stem + strconv.Itoa(1000 + n)[1:]
}
