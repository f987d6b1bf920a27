//! `Diff`: the paths in which two snapshots differ, while both are held open.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::AtomicBool;

use tonic::Status;

use super::call::Batches;
use super::proto::thinfs::admin::v1::{Change, ChangeKind, DiffReply, DiffRequest};
use super::{Context, convert, status};
use crate::snapshot::{self, Opened};
use crate::tree::{self, DiffOptions};
use crate::types::Namespace;

pub(super) fn diff(
    context: &Context,
    request: DiffRequest,
    batches: &mut Batches<Change, DiffReply>,
    cancel: &AtomicBool,
) -> Result<(), Status> {
    let [a, b] = open(context, request).map_err(status::of)?;
    if a.info.snapshot.volume == b.info.snapshot.volume {
        return Ok(());
    }
    // `same_lineage` stays off: a parent may have been given at commit, and then the two
    // filesystems never were copies of each other.
    let mut visit = |change: tree::Change<'_>| batches.push(encode(change));
    tree::diff(a.pin.root(), b.pin.root(), DiffOptions::default(), cancel, &mut visit)
        .map_err(|error| status::of(snapshot::Error::Volume(error.into())))
}

fn open(context: &Context, request: DiffRequest) -> snapshot::Result<[Opened; 2]> {
    let ns = convert::namespace(request.namespace)?;
    Ok([open_one(context, &ns, request.a)?, open_one(context, &ns, request.b)?])
}

fn open_one(context: &Context, ns: &Namespace, key: String) -> snapshot::Result<Opened> {
    let info = context.snapshots.stat(ns, &convert::key(key)?)?;
    context.snapshots.open(info.snapshot.id)
}

fn encode(change: tree::Change<'_>) -> Change {
    let kind = match change.kind {
        tree::ChangeKind::Added => ChangeKind::Added,
        tree::ChangeKind::Modified => ChangeKind::Modified,
        tree::ChangeKind::Deleted => ChangeKind::Deleted,
    };
    let path = change.path.as_os_str();
    // The root's own attributes differ: it has no name but this.
    let path = if path.is_empty() { b".".to_vec() } else { path.as_bytes().to_vec() };
    Change { kind: kind as i32, path }
}
