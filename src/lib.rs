//! thinfs: snapshots as plain directories, on device-mapper thin volumes or on plain directories.
//!
//! # One-minute map
//!
//! ```text
//! containerd ─gRPC─┐                    ┌── committed/<name>/…   (read-only)
//! thinfs CLI ─gRPC─┤  thinfs serve      ├── active/<key>/…       (read-write)
//! ls, cp, a bind ──┤  ── FUSE root ─────┴── view/<key>/…         (read-only)
//!                  │        │
//!                  │   snapshot rules ── RocksDB: snapshots, volumes, the pool's record
//!                  │        │
//!                  │     volumes (LRU of activated ones, pinned while in use)
//!                  │        ├── thin:   ext4 on a thin device of one thin-pool
//!                  │        └── native: a directory tree, reflinked or copied
//!                  ├── collector: roots → mark → sweep
//!                  └── reaper: tombstones → destroyed volumes → no record
//! ```
//!
//! Who may know whom, downward only:
//!
//! ```text
//! cli ─▶ daemon ─▶ { fuse, grpc, gc } ─▶ … ─▶ snapshot ─▶ { meta, volume } ─▶ … ─▶ sys
//!                    fuse ─▶ fs ─▶ { snapshot, volume }
//!              grpc ─▶ gc ─▶ snapshot          volume ─▶ { thin, tree } ─▶ sys
//!                    grpc ─▶ layer_store ─▶ { layer, gc, snapshot }
//! ```
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | [`types`] | keys, kinds, labels, ids, records as plain data | any I/O |
//! | [`crashpoint`] | named steps around which a test kills the process; any module may name it | what they do |
//! | [`sys`] | raw system calls and ioctls: the only unsafe code | what they are for |
//! | [`tree`] | whole directory trees by descriptor: copy, usage, difference, removal | volumes |
//! | [`thin`] | the thin-pool: messages, tables, status, its metadata read in process | keys, names, the store |
//! | [`volume`] | one filesystem each for one snapshot; activation, pins, seals | keys, names, RocksDB |
//! | [`meta`] | the store: records, indexes, synced batches, migrations | devices |
//! | [`events`] | readers of events: from any number on, never in anybody's way | snapshots, gRPC |
//! | [`snapshot`] | the rules, recovery, the reaper | FUSE, gRPC |
//! | [`fs`] | node ids, the virtual root, file operations | the protocol, RocksDB |
//! | [`fuse`] | the FUSE protocol, its adapter to `fs`, the session | the rules |
//! | [`gc`] | leases, namespaces, the collector and its scheduler | devices, FUSE, gRPC |
//! | [`grpc`] | containerd's service and the admin services | devices, the store |
//! | [`layer`] | OCI layers as streams: unpack, record, give back, difference | snapshots, the store |
//! | [`layer_store`] | layers, read-write layers and images on snapshots, with references | FUSE, gRPC |
//! | [`daemon`] | ordered start, recovery, stop | |
//! | [`cli`], [`config`] | commands, settings | |
//!
//! `fuse-tests/layers.rs` holds this table as a test.

pub mod cli;
pub mod config;
pub mod crashpoint;
pub mod daemon;
pub mod events;
pub mod fs;
pub mod fuse;
pub mod gc;
pub mod grpc;
pub mod layer;
pub mod layer_store;
pub mod meta;
pub mod snapshot;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod thin;
pub mod tree;
pub mod types;
pub mod volume;
