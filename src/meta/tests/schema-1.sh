#!/bin/bash
# Makes the store of schema 1 that migrating.rs migrates: schema-1.sh THINFS DIR
# THINFS is the program of a release that wrote schema 1 (commit 730a95a); as root, on the native backend.
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
t prepare base-1 --label stage=build
t commit base-1 base --label owner=ci --label stage=done
t prepare web --parent base --label owner=web
t prepare top-1 --parent base
t commit top-1 top --label owner=ci
t view look --parent top
stop
serve # replays the log into tables, so that the store has both
t prepare "k8s.io/12/extract-1 sha256:$(printf '0%.0s' {1..64})" --label containerd.io/gc.root=now --label 'quoted"key=ü'
t --namespace other prepare alone --label owner=other
t prepare gone
t rm gone
stop
mkdir -p "$dir"
cd "$root/meta"
cp CURRENT IDENTITY MANIFEST-* ./*.log ./*.sst "$dir"
