// Command tool does through containerd's client what ctr 1.6 has no subcommand for.
//
//	tool ADDRESS NAMESPACE commit CONTAINER IMAGE   makes an image of a container's image and its changes
//	tool ADDRESS NAMESPACE view SNAPSHOTTER IMAGE   unpacks an image where needed, makes a view of it and prints its key
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/diff"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/platforms"
	"github.com/containerd/containerd/rootfs"
	"github.com/containerd/containerd/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("usage: tool ADDRESS NAMESPACE commit CONTAINER IMAGE | view SNAPSHOTTER IMAGE")
	}
	client, err := containerd.New(args[0], containerd.WithTimeout(30*time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(context.Background(), args[1])
	switch args[2] {
	case "commit":
		return commit(ctx, client, args[3], args[4])
	case "view":
		return view(ctx, client, args[3], args[4])
	}
	return fmt.Errorf("unknown command %s", args[2])
}

// view labels what it makes as a root of collection: `ctr snapshots view` doesn't, and containerd's next collection
// takes its view away.
func view(ctx context.Context, client *containerd.Client, snapshotter, name string) error {
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done(ctx)
	image, err := client.GetImage(ctx, name)
	if err != nil {
		return err
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return err
	}
	diffIDs, err := image.RootFS(ctx)
	if err != nil {
		return err
	}
	key := "view-of-" + strings.NewReplacer("/", "-", ":", "-").Replace(name) // ctr prints mounts unquoted
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	if _, err := client.SnapshotService(snapshotter).View(ctx, key, identity.ChainID(diffIDs).String(), root); err != nil {
		return err
	}
	fmt.Println(key)
	return nil
}

// commit is what `nerdctl commit` does: hold the container still, take the difference between its snapshot and that
// snapshot's parent as a layer, and add the layer to a copy of the image.
func commit(ctx context.Context, client *containerd.Client, id, name string) error {
	ctx, done, err := client.WithLease(ctx) // else the collector takes the layer before the image refers to it
	if err != nil {
		return err
	}
	defer done(ctx)
	container, err := client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	info, err := container.Info(ctx)
	if err != nil {
		return err
	}
	layer, err := layerOf(ctx, client, container, info.Snapshotter, info.SnapshotKey)
	if err != nil {
		return fmt.Errorf("take the difference: %w", err)
	}
	base, err := container.Image(ctx)
	if err != nil {
		return err
	}
	target, err := withLayer(ctx, client.ContentStore(), base.Target(), layer)
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	_, err = client.ImageService().Create(ctx, images.Image{Name: name, Target: target})
	return err
}

func layerOf(ctx context.Context, client *containerd.Client, container containerd.Container, snapshotter, key string) (ocispec.Descriptor, error) {
	task, err := container.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err): // nothing runs
	case err != nil:
		return ocispec.Descriptor{}, err
	default:
		if err := task.Pause(ctx); err != nil {
			return ocispec.Descriptor{}, err
		}
		defer task.Resume(ctx)
	}
	plain := diff.WithMediaType(ocispec.MediaTypeImageLayer)
	return rootfs.CreateDiff(ctx, key, client.SnapshotService(snapshotter), client.DiffService(), plain)
}

// withLayer writes a configuration and a manifest with one more layer. The layer is an uncompressed tar, so its digest
// is its diff id.
func withLayer(ctx context.Context, store content.Store, base, layer ocispec.Descriptor) (ocispec.Descriptor, error) {
	manifest, err := images.Manifest(ctx, store, base, platforms.Default())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	text, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return ocispec.Descriptor{}, err
	}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	manifest.Layers = append(manifest.Layers, layer)
	if manifest.Config, err = write(ctx, store, ocispec.MediaTypeImageConfig, config, nil); err != nil {
		return ocispec.Descriptor{}, err
	}
	// The collector follows these labels from the manifest to what it consists of.
	labels := map[string]string{"containerd.io/gc.ref.content.config": manifest.Config.Digest.String()}
	for i, l := range manifest.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return write(ctx, store, ocispec.MediaTypeImageManifest, manifest, labels)
}

func write(ctx context.Context, store content.Store, mediaType string, value interface{}, labels map[string]string) (ocispec.Descriptor, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	return d, content.WriteBlob(ctx, store, "tool-"+d.Digest.String(), bytes.NewReader(text), d, content.WithLabels(labels))
}
