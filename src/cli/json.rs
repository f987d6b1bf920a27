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
    /// Bytes that removing it would free, and that others have, too; null where nothing is shared
    pub(super) exclusive: Option<u64>,
    pub(super) shared: Option<u64>,
}

/// A line of `trim`.
#[derive(Debug, Serialize)]
pub(super) struct Trimmed<'a> {
    pub(super) key: &'a str,
    pub(super) bytes: u64,
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
pub(super) struct Gc {
    pub(super) destroyed: u64,
    pub(super) waiting: u64,
    pub(super) failed: Vec<String>,
    /// With `--dry-run`: what would be
    pub(super) collected: Vec<GcItem>,
    /// Garbage that was busy
    pub(super) stayed: Vec<GcItem>,
    /// Leases, `namespace/id`
    pub(super) expired: Vec<String>,
    /// Microseconds
    pub(super) mark_us: u64,
    pub(super) sweep_us: u64,
}

/// A resource, and why it goes or stays.
#[derive(Debug, Serialize)]
pub(super) struct GcItem {
    pub(super) namespace: String,
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) why: String,
}

/// `lease create`, `lease info`; a line each of `lease ls`, there without resources.
#[derive(Debug, Serialize)]
pub(super) struct Lease {
    pub(super) namespace: String,
    pub(super) id: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) created: Option<String>,
    /// null: never
    pub(super) expires: Option<String>,
    pub(super) resources: Vec<Resource>,
}

/// What a lease holds.
#[derive(Debug, Serialize)]
pub(super) struct Resource {
    pub(super) kind: String,
    pub(super) id: String,
}

/// A line of `namespace ls`.
#[derive(Debug, Serialize)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// null where it was never made
    pub(super) created: Option<String>,
}

/// All collections since the daemon's start; times in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct GcStatus {
    pub(super) runs: u64,
    pub(super) failed: u64,
    /// By kind
    pub(super) collected: BTreeMap<String, u64>,
    pub(super) expired: u64,
    pub(super) mark_us: u64,
    pub(super) sweep_us: u64,
    pub(super) longest_us: u64,
    pub(super) last: Option<String>,
    pub(super) last_mark_us: u64,
    pub(super) last_sweep_us: u64,
    /// Busy garbage that the last run left
    pub(super) stayed: u64,
    /// Why the last run failed
    pub(super) error: Option<String>,
}

/// `check`.
#[derive(Debug, Serialize)]
pub(super) struct Check<'a> {
    pub(super) sound: bool,
    /// A line for each finding
    pub(super) problems: &'a [String],
    pub(super) findings: Vec<Finding<'a>>,
    /// What --repair did
    pub(super) mended: Vec<Finding<'a>>,
}

/// One disagreement.
#[derive(Debug, Serialize)]
pub(super) struct Finding<'a> {
    pub(super) object: &'a str,
    pub(super) problem: &'a str,
    pub(super) remedy: &'a str,
    /// Whether --repair does that
    pub(super) mendable: bool,
}

impl<'a> From<&'a admin::Finding> for Finding<'a> {
    fn from(finding: &'a admin::Finding) -> Self {
        let admin::Finding { object, problem, remedy, mendable } = finding;
        Self { object, problem, remedy, mendable: *mendable }
    }
}

/// A line of `events`.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    /// Rises by one from event to event, over restarts
    pub(super) sequence: u64,
    /// RFC 3339, UTC
    pub(super) at: Option<String>,
    pub(super) topic: String,
    pub(super) namespace: Option<String>,
    pub(super) key: Option<String>,
    pub(super) details: BTreeMap<String, String>,
}

/// A line of `events`: these events were missed
#[derive(Debug, Serialize)]
pub(super) struct Gone {
    pub(super) gone: Range,
}

/// Both ends included.
#[derive(Debug, Serialize)]
pub(super) struct Range {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl From<admin::Event> for Event {
    fn from(event: admin::Event) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            sequence: event.sequence,
            at: event.at.map(time),
            topic: event.topic,
            namespace: some(event.namespace),
            key: some(event.key),
            details: event.details,
        }
    }
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
    pub(super) gc: Option<GcStatus>,
    /// How often volumes were activated and deactivated since the start
    pub(super) activity: Activity,
}

/// Since the start.
#[derive(Debug, Serialize)]
pub(super) struct Activity {
    pub(super) activations: u64,
    pub(super) failures: u64,
    pub(super) deactivations: u64,
}

impl From<admin::Activity> for Activity {
    fn from(activity: admin::Activity) -> Self {
        Self {
            activations: activity.activations,
            failures: activity.failures,
            deactivations: activity.deactivations,
        }
    }
}

/// `status --fuse`.
#[derive(Debug, Serialize)]
pub(super) struct Fuse {
    /// Every kind of request, with its count
    pub(super) requests: BTreeMap<String, u64>,
    pub(super) synchronous: u64,
    pub(super) waited: u64,
    pub(super) passthrough: u64,
}

impl From<admin::FuseStatus> for Fuse {
    fn from(fuse: admin::FuseStatus) -> Self {
        Self {
            requests: fuse
                .requests
                .into_iter()
                .map(|request| (request.name, request.count))
                .collect(),
            synchronous: fuse.synchronous,
            waited: fuse.waited,
            passthrough: fuse.passthrough,
        }
    }
}

/// Bytes; the metadata's are 0 where there is no pool.
#[derive(Debug, Serialize)]
pub(super) struct Capacity {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) block_size: u64,
    pub(super) metadata_total: u64,
    pub(super) metadata_used: u64,
    /// What total can grow to by itself
    pub(super) most: u64,
    /// Bytes by which used grows in a second, over the last minute
    pub(super) rate: i64,
    /// Seconds until it is full at that pace; null: not within a year
    pub(super) full_in: Option<u64>,
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
            activity: status.activity.unwrap_or_default().into(),
            gc: status.gc.map(GcStatus::from),
        }
    }
}

impl From<admin::GcReply> for Gc {
    fn from(reply: admin::GcReply) -> Self {
        Self {
            destroyed: reply.destroyed,
            waiting: reply.waiting,
            failed: reply.failed,
            collected: reply.collected.into_iter().map(GcItem::from).collect(),
            stayed: reply.stayed.into_iter().map(GcItem::from).collect(),
            expired: reply.expired,
            mark_us: reply.mark_us,
            sweep_us: reply.sweep_us,
        }
    }
}

impl From<admin::GcItem> for GcItem {
    fn from(item: admin::GcItem) -> Self {
        Self { namespace: item.namespace, kind: item.kind, id: item.id, why: item.why }
    }
}

impl From<admin::Lease> for Lease {
    fn from(lease: admin::Lease) -> Self {
        let resource = |r: admin::Resource| Resource { kind: r.kind, id: r.id };
        Self {
            namespace: lease.namespace,
            id: lease.id,
            labels: lease.labels,
            created: lease.created.map(time),
            expires: lease.expires.map(time),
            resources: lease.resources.into_iter().map(resource).collect(),
        }
    }
}

impl From<admin::Namespace> for Namespace {
    fn from(ns: admin::Namespace) -> Self {
        Self { name: ns.name, labels: ns.labels, created: ns.created.map(time) }
    }
}

impl From<admin::GcStatus> for GcStatus {
    fn from(gc: admin::GcStatus) -> Self {
        Self {
            runs: gc.runs,
            failed: gc.failed,
            collected: gc.collected,
            expired: gc.expired,
            mark_us: gc.mark_us,
            sweep_us: gc.sweep_us,
            longest_us: gc.longest_us,
            last: gc.last.map(time),
            last_mark_us: gc.last_mark_us,
            last_sweep_us: gc.last_sweep_us,
            stayed: gc.stayed,
            error: Some(gc.error).filter(|error| !error.is_empty()),
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
            most: capacity.most,
            rate: capacity.rate,
            full_in: capacity.full_in,
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
