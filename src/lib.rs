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
//!                  └── reaper: tombstones → destroyed volumes → no record
//! ```
//!
//! Who may know whom, downward only:
//!
//! ```text
//! cli ─▶ daemon ─▶ { fuse, grpc } ─▶ … ─▶ snapshot ─▶ { meta, volume } ─▶ … ─▶ sys
//!                    fuse ─▶ fs ─▶ { snapshot, volume }
//!                    grpc ─▶ snapshot          volume ─▶ { thin, tree } ─▶ sys
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
//! | [`snapshot`] | the rules, recovery, the reaper | FUSE, gRPC |
//! | [`fs`] | node ids, the virtual root, file operations | fuser, RocksDB |
//! | [`fuse`] | the adapter of fuser, the session, invalidation | the rules |
//! | [`grpc`] | containerd's service and the admin service | devices, the store |
//! | [`layer`] | OCI layers as streams: unpack, record, give back, difference (no command uses it yet) | snapshots, the store |
//! | [`daemon`] | ordered start, recovery, stop | |
//! | [`cli`], [`config`] | commands, settings | |
//!
//! `fuse-tests/layers.rs` holds this table as a test.

pub mod cli;
pub mod config;
pub mod crashpoint;
pub mod daemon;
pub mod fs;
pub mod fuse;
pub mod grpc;
pub mod layer;
pub mod meta;
pub mod snapshot;
pub mod sys;
pub mod thin;
pub mod tree;
pub mod types;
pub mod volume;
