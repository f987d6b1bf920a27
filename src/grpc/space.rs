//! Sizes and space, for the command line.

use std::sync::atomic::AtomicBool;

use super::proto::thinfs::admin::v1::{
    Capacity, PoolSpace, ResizeRequest, Snapshot, SnapshotSpace, SpaceReply, SpaceRequest,
    TrimReply, TrimRequest,
};
use super::{Context, convert};
use crate::snapshot::Result;

pub(super) fn resize(context: &Context, request: ResizeRequest) -> Result<Snapshot> {
    let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
    Ok(convert::admin_snapshot(context, context.snapshots.resize(&ns, &key, request.size)?))
}

pub(super) fn trim(context: &Context, request: TrimRequest) -> Result<TrimReply> {
    let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
    Ok(TrimReply { bytes: context.snapshots.trim(&ns, &key)? })
}

pub(super) fn space(
    context: &Context,
    request: SpaceRequest,
    cancel: &AtomicBool,
) -> Result<SpaceReply> {
    let ns = convert::namespace(request.namespace)?;
    let Some(space) = context.snapshots.space(&ns, cancel)? else {
        return Ok(SpaceReply::default());
    };
    let line = |(key, share): (crate::types::SnapshotKey, crate::volume::Share)| SnapshotSpace {
        key: key.as_str().to_owned(),
        exclusive: share.exclusive,
        shared: share.shared,
    };
    let pool =
        PoolSpace { used: space.pool.used, shared: space.pool.shared, others: space.pool.others };
    Ok(SpaceReply { snapshots: space.snapshots.into_iter().map(line).collect(), pool: Some(pool) })
}

pub(super) fn capacity(capacity: crate::volume::Capacity) -> Capacity {
    Capacity {
        total: capacity.total,
        used: capacity.used,
        block_size: capacity.block_size,
        metadata_total: capacity.metadata_total,
        metadata_used: capacity.metadata_used,
        most: capacity.most,
        rate: capacity.rate,
        full_in: capacity.full_in.map(|left| left.as_secs()),
    }
}
