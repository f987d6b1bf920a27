// Command image writes an OCI image archive that is awkward to unpack: whiteouts, opaque directories, hard links,
// device nodes, capabilities, set-user-id files, a sparse file, odd names and deep paths, in ten layers.
//
//	image -probe PROBE [-bulk MIB] -o ARCHIVE
//
// The archive is the same, byte for byte, for the same PROBE and MIB, and is made without a network. Everything in it
// comes from busybox-static, from the probe program beside this one, or from a seeded generator.
package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Name under which containerd files the imported image.
const imageName = "thinfs.test/awkward:1"

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func main() {
	probe := flag.String("probe", "", "the static probe program that goes into the image")
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox")
	bulk := flag.Int("bulk", 0, "MiB of bulk data in the image")
	out := flag.String("o", "", "the archive to write")
	flag.Parse()
	if err := build(*out, *probe, *busybox, *bulk); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(out, probe, busybox string, bulk int) error {
	if out == "" || probe == "" {
		return fmt.Errorf("-o and -probe must be given")
	}
	work, err := os.MkdirTemp(filepath.Dir(out), "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	programs, err := readPrograms(probe, busybox)
	if err != nil {
		return err
	}
	store := &blobs{dir: work}
	var layers []descriptor
	var diffIDs []string
	for i, fill := range allLayers(programs, bulk) {
		// Every third layer is compressed: both forms are met in the wild.
		layer, diffID, err := store.layer(fill, i%3 == 2)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		layers, diffIDs = append(layers, layer), append(diffIDs, diffID)
	}
	manifest, err := store.manifest(layers, diffIDs)
	if err != nil {
		return err
	}
	return store.archive(out, manifest)
}

// blobs collects content-addressed files in a directory.
type blobs struct {
	dir   string
	order []descriptor
}

func (b *blobs) layer(fill func(*layer), compress bool) (descriptor, string, error) {
	file, err := os.CreateTemp(b.dir, "layer-")
	if err != nil {
		return descriptor{}, "", err
	}
	defer file.Close()
	blob, diff := sha256.New(), sha256.New()
	mediaType := "application/vnd.oci.image.layer.v1.tar"
	var body io.Writer = io.MultiWriter(file, blob)
	var zip *gzip.Writer
	if compress {
		mediaType += "+gzip"
		if zip, err = gzip.NewWriterLevel(body, gzip.BestSpeed); err != nil {
			return descriptor{}, "", err
		}
		body = zip
	}
	l := newLayer(io.MultiWriter(body, diff))
	fill(l)
	if err := l.close(); err != nil {
		return descriptor{}, "", err
	}
	if zip != nil {
		if err := zip.Close(); err != nil {
			return descriptor{}, "", err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return descriptor{}, "", err
	}
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(blob.Sum(nil)), Size: info.Size()}
	return d, "sha256:" + hex.EncodeToString(diff.Sum(nil)), b.keep(d, file.Name())
}

func (b *blobs) keep(d descriptor, path string) error {
	b.order = append(b.order, d)
	return os.Rename(path, filepath.Join(b.dir, d.Digest[len("sha256:"):]))
}

func (b *blobs) json(mediaType string, value interface{}) (descriptor, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(text)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(text))}
	path := filepath.Join(b.dir, "json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return descriptor{}, err
	}
	return d, b.keep(d, path)
}

type object = map[string]interface{}

func (b *blobs) manifest(layers []descriptor, diffIDs []string) (descriptor, error) {
	config, err := b.json("application/vnd.oci.image.config.v1+json", object{
		"architecture": "amd64",
		"os":           "linux",
		"created":      epoch.Format(time.RFC3339),
		"config":       object{"Env": []string{"PATH=/bin:/usr/bin"}, "Cmd": []string{"/bin/sh"}},
		"rootfs":       object{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return descriptor{}, err
	}
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	return b.json(mediaType, object{"schemaVersion": 2, "mediaType": mediaType, "config": config, "layers": layers})
}

// archive writes the image layout as one tar, as `ctr images import` reads it.
func (b *blobs) archive(out string, manifest descriptor) error {
	manifest.Platform = map[string]string{"architecture": "amd64", "os": "linux"}
	manifest.Annotations = map[string]string{"io.containerd.image.name": imageName, "org.opencontainers.image.ref.name": "1"}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	partial := filepath.Join(b.dir, "archive")
	file, err := os.Create(partial)
	if err != nil {
		return err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	put := func(name string, size int64, body io.Reader) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch})
		}
		if err == nil {
			_, err = io.Copy(w, body)
		}
	}
	put("oci-layout", int64(len(ociLayout)), bytesReader(ociLayout))
	put("index.json", int64(len(index)), bytesReader(string(index)))
	for _, d := range b.order {
		hash := d.Digest[len("sha256:"):]
		blob, openErr := os.Open(filepath.Join(b.dir, hash))
		if openErr != nil {
			return openErr
		}
		put("blobs/sha256/"+hash, d.Size, blob)
		blob.Close()
	}
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.Rename(partial, out)
}

const ociLayout = `{"imageLayoutVersion":"1.0.0"}`
