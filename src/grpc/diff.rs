//! `Diff`: the paths in which two snapshots differ, while both are held open.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::AtomicBool;

use tonic::Status;

use super::call::Batches;
use super::proto::thinfs::admin::v1::{Change, ChangeKind, DiffReply, DiffRequest};
use super::{Context, convert, status};
use crate::snapshot::{self, Info, Opened};
use crate::tree::{self, DiffOptions};
use crate::types::Namespace;
use crate::volume;

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
    let lineage = context.snapshots.lineage(&a, &b, cancel).map_err(status::of)?;
    let options = DiffOptions {
        same_lineage: lineage.same,
        changed: lineage.changed.as_ref(),
        content: false,
    };
    let mut visit = |change: tree::Change<'_>| batches.push(encode(change));
    tree::diff(a.pin.root(), b.pin.root(), options, cancel, &mut visit)
        .map_err(|error| status::of(failed(error, &a.info, &b.info)))
}

fn failed(error: tree::Error, a: &Info, b: &Info) -> snapshot::Error {
    let context = format!("comparing {:?} with {:?}", a.key.as_str(), b.key.as_str());
    snapshot::Error::Volume(match error {
        tree::Error::Cancelled => volume::Error::Cancelled(context),
        error => volume::Error::Backend { context, source: error.into() },
    })
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
