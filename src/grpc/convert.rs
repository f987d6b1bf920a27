//! Between the protos' words and ours. An empty string in a message stands for "none".

use prost_types::Timestamp;

use super::Context;
use super::proto::containerd::services::snapshots::v1 as containerd;
use super::proto::containerd::types::Mount;
use super::proto::thinfs::admin::v1 as admin;
use crate::snapshot::{self, Info, Result};
use crate::types::{Finding, Kind, LeaseId, MountForm, Namespace, SnapshotKey, Usage};

pub(super) fn key(text: String) -> Result<SnapshotKey> {
    Ok(SnapshotKey::new(text)?)
}

pub(super) fn parent(text: String) -> Result<Option<SnapshotKey>> {
    if text.is_empty() { Ok(None) } else { key(text).map(Some) }
}

/// The lease that a request names.
pub(super) fn lease(text: String) -> Result<Option<LeaseId>> {
    if text.is_empty() { Ok(None) } else { Ok(Some(LeaseId::new(text)?)) }
}

pub(super) fn namespace(text: String) -> Result<Namespace> {
    if text.is_empty() { Ok(Namespace::default()) } else { Ok(Namespace::new(text)?) }
}

/// containerd's record of a snapshot.
pub(super) fn containerd_info(info: Info) -> containerd::Info {
    let snapshot = info.snapshot;
    containerd::Info {
        name: info.key.as_str().to_owned(),
        parent: snapshot.parent.map(|parent| parent.as_str().to_owned()).unwrap_or_default(),
        kind: match snapshot.kind {
            Kind::Active => containerd::Kind::Active,
            Kind::View => containerd::Kind::View,
            Kind::Committed => containerd::Kind::Committed,
        } as i32,
        created_at: Some(Timestamp::from(snapshot.created)),
        updated_at: Some(Timestamp::from(snapshot.updated)),
        labels: snapshot.labels,
    }
}

/// The command line's record of a snapshot.
pub(super) fn admin_snapshot(context: &Context, info: Info) -> admin::Snapshot {
    let path = context.directory(&info);
    let snapshot = info.snapshot;
    admin::Snapshot {
        namespace: info.namespace.as_str().to_owned(),
        key: info.key.as_str().to_owned(),
        kind: match snapshot.kind {
            Kind::Active => admin::Kind::Active,
            Kind::View => admin::Kind::View,
            Kind::Committed => admin::Kind::Committed,
        } as i32,
        parent: snapshot.parent.map(|parent| parent.as_str().to_owned()).unwrap_or_default(),
        id: snapshot.id.0,
        labels: snapshot.labels,
        created: Some(Timestamp::from(snapshot.created)),
        updated: Some(Timestamp::from(snapshot.updated)),
        usage: snapshot.usage.map(admin_usage),
        path,
    }
}

pub(super) fn admin_usage(usage: Usage) -> admin::Usage {
    admin::Usage { size: usage.size, inodes: usage.inodes }
}

/// What a check found.
pub(super) fn finding(finding: Finding) -> admin::Finding {
    let Finding { object, problem, remedy, mendable } = finding;
    admin::Finding { object, problem, remedy, mendable }
}

/// How to reach a snapshot's files: a bind mount of its directory, or a mount of its block device, which
/// is handed out by this.
pub(super) fn mounts(context: &Context, info: &Info) -> Result<Vec<Mount>> {
    match form(context, info)? {
        MountForm::Bind => {
            context.snapshots.take_back(&info.namespace, &info.key)?;
            Ok(bind(context, info))
        }
        MountForm::Block => {
            let device = context.snapshots.hand_out(&info.namespace, &info.key)?;
            (context.settle)();
            let options = std::iter::once(access(info)).chain(device.options).collect();
            Ok(mount(device.filesystem, device.path.display().to_string(), options))
        }
    }
}

/// The same for a snapshot that was just made, where it takes no work: nobody has been handed its block device yet.
pub(super) fn mounts_of_new(context: &Context, info: &Info) -> Option<Vec<Mount>> {
    let form = form(context, info).ok()?;
    (form == MountForm::Bind).then(|| bind(context, info))
}

fn form(context: &Context, info: &Info) -> Result<MountForm> {
    Ok(snapshot::mount_form(&info.snapshot.labels)?.unwrap_or(context.mount_form))
}

fn access(info: &Info) -> String {
    if info.snapshot.kind == Kind::Active { "rw" } else { "ro" }.to_owned()
}

fn bind(context: &Context, info: &Info) -> Vec<Mount> {
    mount("bind", context.directory(info), vec!["rbind".to_owned(), access(info)])
}

fn mount(r#type: &str, source: String, options: Vec<String>) -> Vec<Mount> {
    vec![Mount { r#type: r#type.to_owned(), source, target: String::new(), options }]
}
