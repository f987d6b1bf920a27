#!/bin/bash
# Makes the store of schema 2 that migrating.rs migrates: schema-2.sh THINFS DIR
# THINFS is the program of a release that wrote schema 2 (commit 918abfc); as root, on the native backend.
set -euo pipefail
thinfs=$1 dir=$2
root=$(mktemp -d) mount=$(mktemp -d)
t() { "$thinfs" --socket "$root/socket" "$@" >/dev/null; }
serve() {
    "$thinfs" serve --root "$root" --mount "$mount" --socket "$root/socket" --backend native 2>/dev/null &
    daemon=$!
    until t status 2>/dev/null; do sleep 0.1; done
}
stop() { kill "$daemon" && wait "$daemon"; }
trap 'rm -rf "$root" "$mount"' EXIT

serve
t lease create --id l
t prepare base-1 --lease l
t commit base-1 base
t prepare top-1 --parent base --lease l
t commit top-1 top --label containerd.io/gc.ref.snapshot.thinfs=aside --label owner=ci
t prepare aside-1 --lease l
t commit aside-1 aside --label containerd.io/gc.bref.snapshot.thinfs=base
stop
serve # replays the log into tables, so that the store has both
t prepare web --parent top --label containerd.io/gc.ref.snapshot.thinfs/1=aside --label containerd.io/gc.ref.layer=sha256:1
t prepare gone --label containerd.io/gc.ref.snapshot.thinfs=base
t rm gone
stop
mkdir -p "$dir"
cd "$root/meta"
cp CURRENT IDENTITY MANIFEST-* ./*.log ./*.sst "$dir"
