//! What `--json` prints. Programs read it: field names stay.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::time;
use crate::grpc::proto::thinfs::admin::v1 as admin;

/// A snapshot: `prepare`, `view`, `commit`, `info`, `label`; a line each of `ls`.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    pub(super) namespace: String,
    pub(super) key: String,
    /// `active`, `view` or `committed`
    pub(super) kind: &'static str,
    pub(super) parent: Option<String>,
    pub(super) id: u32,
    pub(super) labels: BTreeMap<String, String>,
    /// RFC 3339, UTC
    pub(super) created: Option<String>,
    pub(super) updated: Option<String>,
    /// null where it was not measured
    pub(super) usage: Option<Usage>,
    pub(super) path: String,
}

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    pub(super) size: u64,
    pub(super) inodes: u64,
}

/// A line of `usage`.
#[derive(Debug, Serialize)]
pub(super) struct KeyUsage<'a> {
    pub(super) key: &'a str,
    pub(super) size: u64,
    pub(super) inodes: u64,
}

/// A line of `tree`: parents come before their children.
#[derive(Debug, Serialize)]
pub(super) struct TreeLine {
    pub(super) depth: usize,
    #[serde(flatten)]
    pub(super) snapshot: Snapshot,
}

/// A line of `diff`.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    /// `added`, `modified` or `deleted`
    pub(super) change: &'static str,
    pub(super) path: String,
    /// The path's bytes in hexadecimal, where they aren't UTF-8
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path_hex: Option<String>,
}

/// A line of `mounts`.
#[derive(Debug, Serialize)]
pub(super) struct Mount<'a> {
    pub(super) r#type: &'a str,
    pub(super) source: &'a str,
    pub(super) options: &'a [String],
}

/// `gc`.
#[derive(Debug, Serialize)]
pub(super) struct Gc<'a> {
    pub(super) destroyed: u64,
    pub(super) waiting: u64,
    pub(super) failed: &'a [String],
}

/// `check`.
#[derive(Debug, Serialize)]
pub(super) struct Check<'a> {
    pub(super) sound: bool,
    pub(super) problems: &'a [String],
}

/// `status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) started: Option<String>,
    pub(super) root: String,
    pub(super) mount: String,
    pub(super) socket: String,
    pub(super) containerd_namespace: String,
    pub(super) backend: String,
    /// What the backend says of itself
    pub(super) details: BTreeMap<String, String>,
    /// null where the backend can't say
    pub(super) capacity: Option<Capacity>,
    pub(super) namespaces: Vec<NamespaceCount>,
    /// Removed volumes that wait to be destroyed
    pub(super) pending: u64,
    /// Volumes that are activated
    pub(super) volumes: Vec<Volume>,
    /// Thin ids that are set aside
    pub(super) faulty: Vec<Faulty>,
    /// Removed volumes that wait for the reaper, one by one
    pub(super) reaper: Vec<Pending>,
}

/// Bytes; the metadata's are 0 where there is no pool.
#[derive(Debug, Serialize)]
pub(super) struct Capacity {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) block_size: u64,
    pub(super) metadata_total: u64,
    pub(super) metadata_used: u64,
}

/// A thin id that is set aside.
#[derive(Debug, Serialize)]
pub(super) struct Faulty {
    pub(super) thin_id: u32,
    pub(super) why: String,
    /// With --retry: it is set aside no more
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gone: Option<bool>,
}

/// A removed volume that is still there.
#[derive(Debug, Serialize)]
pub(super) struct Pending {
    pub(super) volume: u32,
    pub(super) tries: u32,
    /// queued, running, in use, failed
    pub(super) state: String,
    pub(super) reason: String,
}

/// How many snapshots a namespace has of each kind.
#[derive(Debug, Serialize)]
pub(super) struct NamespaceCount {
    pub(super) name: String,
    pub(super) active: u64,
    pub(super) view: u64,
    pub(super) committed: u64,
}

/// An activated volume.
#[derive(Debug, Serialize)]
pub(super) struct Volume {
    pub(super) id: u32,
    pub(super) read_only: bool,
    pub(super) pins: u64,
    pub(super) writers: u64,
}

impl From<admin::Snapshot> for Snapshot {
    fn from(snapshot: admin::Snapshot) -> Self {
        Self {
            kind: kind(snapshot.kind()),
            namespace: snapshot.namespace,
            key: snapshot.key,
            parent: Some(snapshot.parent).filter(|parent| !parent.is_empty()),
            id: snapshot.id,
            labels: snapshot.labels,
            created: snapshot.created.map(time),
            updated: snapshot.updated.map(time),
            usage: snapshot.usage.map(Usage::from),
            path: snapshot.path,
        }
    }
}

impl From<admin::Usage> for Usage {
    fn from(usage: admin::Usage) -> Self {
        Self { size: usage.size, inodes: usage.inodes }
    }
}

impl From<admin::StatusReply> for Status {
    fn from(status: admin::StatusReply) -> Self {
        Self {
            version: status.version,
            pid: status.pid,
            started: status.started.map(time),
            root: status.root,
            mount: status.mount,
            socket: status.socket,
            containerd_namespace: status.containerd_namespace,
            backend: status.backend,
            details: status.details.into_iter().map(|detail| (detail.name, detail.value)).collect(),
            capacity: status.capacity.map(Capacity::from),
            namespaces: status.namespaces.into_iter().map(NamespaceCount::from).collect(),
            pending: status.pending,
            volumes: status.volumes.into_iter().map(Volume::from).collect(),
            faulty: status.faulty.into_iter().map(|f| Faulty::new(f, None)).collect(),
            reaper: status.reaper.into_iter().map(Pending::from).collect(),
        }
    }
}

impl From<admin::Capacity> for Capacity {
    fn from(capacity: admin::Capacity) -> Self {
        Self {
            total: capacity.total,
            used: capacity.used,
            block_size: capacity.block_size,
            metadata_total: capacity.metadata_total,
            metadata_used: capacity.metadata_used,
        }
    }
}

impl From<admin::NamespaceStatus> for NamespaceCount {
    fn from(ns: admin::NamespaceStatus) -> Self {
        Self { name: ns.name, active: ns.active, view: ns.view, committed: ns.committed }
    }
}

impl From<admin::VolumeStatus> for Volume {
    fn from(volume: admin::VolumeStatus) -> Self {
        Self {
            id: volume.id,
            read_only: volume.read_only,
            pins: volume.pins,
            writers: volume.writers,
        }
    }
}

impl Faulty {
    pub(super) fn new(faulty: admin::FaultyId, gone: Option<bool>) -> Self {
        Self { thin_id: faulty.thin_id, why: faulty.why, gone }
    }
}

impl From<admin::PendingVolume> for Pending {
    fn from(pending: admin::PendingVolume) -> Self {
        let admin::PendingVolume { volume, tries, state, reason } = pending;
        Self { volume, tries, state, reason }
    }
}

/// The word for a kind.
pub(super) fn kind(kind: admin::Kind) -> &'static str {
    match kind {
        admin::Kind::Active => "active",
        admin::Kind::View => "view",
        admin::Kind::Committed => "committed",
        admin::Kind::Unspecified => "unknown",
    }
}
