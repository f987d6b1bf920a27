//! Our own service, for the command line.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tonic::{Request, Response, Status, async_trait};

use super::call::{Answers, blocking, cancellable, stream};
use super::proto::thinfs::admin::v1::{
    Capacity, CheckReply, CheckRequest, CommitRequest, Detail, DiffReply, DiffRequest, FaultyId,
    GcReply, PendingVolume, RetryFaultyReply, RetryFaultyRequest,
    GcRequest, ListReply, ListRequest, MountsReply, MountsRequest, NamespaceStatus, PrepareRequest,
    RemoveReply, RemoveRequest, Snapshot, StatRequest, StatusReply, StatusRequest, UpdateRequest,
    UsageReply, UsageRequest, ViewRequest, VolumeStatus, admin_server,
};
use super::{Context, convert, diff, status};
use crate::snapshot::{self, LabelUpdate, Pending, PendingState};
use crate::types::Kind;
use crate::volume::Access;

type Reply<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Context>);

impl Admin {
    /// A service over `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self(context)
    }
}

#[async_trait]
impl admin_server::Admin for Admin {
    #[tracing::instrument(name = "prepare", skip_all, fields(key = request.get_ref().key))]
    async fn prepare(&self, request: Request<PrepareRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let snapshot = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let (key, parent) = (convert::key(request.key)?, convert::parent(request.parent)?);
            let info = context.snapshots.prepare(&ns, &key, parent.as_ref(), request.labels)?;
            (context.settle)();
            Ok(convert::admin_snapshot(&context, info))
        });
        Ok(Response::new(snapshot.await?))
    }

    #[tracing::instrument(name = "view", skip_all, fields(key = request.get_ref().key))]
    async fn view(&self, request: Request<ViewRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let snapshot = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let (key, parent) = (convert::key(request.key)?, convert::parent(request.parent)?);
            let info = context.snapshots.view(&ns, &key, parent.as_ref(), request.labels)?;
            (context.settle)();
            Ok(convert::admin_snapshot(&context, info))
        });
        Ok(Response::new(snapshot.await?))
    }

    #[tracing::instrument(name = "commit", skip_all, fields(key = request.get_ref().key))]
    async fn commit(&self, request: Request<CommitRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let snapshot = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let (name, key) = (convert::key(request.name)?, convert::key(request.key)?);
            let parent = convert::parent(request.parent)?;
            let info =
                context.snapshots.commit(&ns, &name, &key, request.labels, parent.as_ref())?;
            (context.settle)();
            Ok(convert::admin_snapshot(&context, info))
        });
        Ok(Response::new(snapshot.await?))
    }

    #[tracing::instrument(name = "remove", skip_all, fields(key = request.get_ref().key))]
    async fn remove(&self, request: Request<RemoveRequest>) -> Reply<RemoveReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let removed = blocking(move || {
            context
                .snapshots
                .remove(&convert::namespace(request.namespace)?, &convert::key(request.key)?)?;
            (context.settle)();
            Ok(RemoveReply {})
        });
        Ok(Response::new(removed.await?))
    }

    #[tracing::instrument(name = "mounts", skip_all, fields(key = request.get_ref().key))]
    async fn mounts(&self, request: Request<MountsRequest>) -> Reply<MountsReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let mounts = blocking(move || {
            let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
            Ok(convert::mounts(&context, &context.snapshots.mounts(&ns, &key)?))
        });
        Ok(Response::new(MountsReply { mounts: mounts.await? }))
    }

    #[tracing::instrument(name = "stat", skip_all, fields(key = request.get_ref().key))]
    async fn stat(&self, request: Request<StatRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let snapshot = blocking(move || {
            let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
            Ok(convert::admin_snapshot(&context, context.snapshots.stat(&ns, &key)?))
        });
        Ok(Response::new(snapshot.await?))
    }

    type ListStream = Answers<ListReply>;

    #[tracing::instrument(name = "list", skip_all)]
    async fn list(&self, request: Request<ListRequest>) -> Reply<Self::ListStream> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let encode = |snapshots| ListReply { snapshots };
        Ok(Response::new(stream(encode, move |batches, cancel| {
            let ns = convert::namespace(request.namespace).map_err(status::of)?;
            let mut visit = |mut info: snapshot::Info| {
                if request.usage {
                    fill_in_usage(&context, &mut info, cancel);
                }
                batches.push(convert::admin_snapshot(&context, info))
            };
            context.snapshots.walk(&ns, &request.filters, &mut visit).map_err(status::of)
        })))
    }

    #[tracing::instrument(name = "update", skip_all, fields(key = request.get_ref().key))]
    async fn update(&self, request: Request<UpdateRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let snapshot = blocking(move || {
            let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
            let change = if request.replace { LabelUpdate::Replace } else { LabelUpdate::Merge };
            let info = context.snapshots.update(&ns, &key, change(request.labels))?;
            Ok(convert::admin_snapshot(&context, info))
        });
        Ok(Response::new(snapshot.await?))
    }

    #[tracing::instrument(name = "usage", skip_all, fields(key = request.get_ref().key))]
    async fn usage(&self, request: Request<UsageRequest>) -> Reply<UsageReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let usage = cancellable(move |cancel| {
            let (ns, key) = (convert::namespace(request.namespace)?, convert::key(request.key)?);
            context.snapshots.usage(&ns, &key, cancel).map(convert::admin_usage)
        });
        Ok(Response::new(UsageReply { usage: Some(usage.await?) }))
    }

    type DiffStream = Answers<DiffReply>;

    #[tracing::instrument(name = "diff", skip_all, fields(a = request.get_ref().a, b = request.get_ref().b))]
    async fn diff(&self, request: Request<DiffRequest>) -> Reply<Self::DiffStream> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let encode = |changes| DiffReply { changes };
        Ok(Response::new(stream(encode, move |batches, cancel| {
            diff::diff(&context, request, batches, cancel)
        })))
    }

    #[tracing::instrument(name = "gc", skip_all)]
    async fn gc(&self, _: Request<GcRequest>) -> Reply<GcReply> {
        let context = Arc::clone(&self.0);
        let reaped = blocking(move || context.snapshots.cleanup()).await?;
        let (destroyed, waiting) = (reaped.destroyed as u64, reaped.waiting as u64);
        Ok(Response::new(GcReply { destroyed, waiting, failed: reaped.failed }))
    }

    #[tracing::instrument(name = "check", skip_all)]
    async fn check(&self, _: Request<CheckRequest>) -> Reply<CheckReply> {
        let context = Arc::clone(&self.0);
        let problems = blocking(move || context.snapshots.check()).await?;
        Ok(Response::new(CheckReply { problems }))
    }

    #[tracing::instrument(name = "retry faulty", skip_all)]
    async fn retry_faulty(&self, request: Request<RetryFaultyRequest>) -> Reply<RetryFaultyReply> {
        let (context, ids) = (Arc::clone(&self.0), request.into_inner().thin_ids);
        let retried = blocking(move || {
            let volumes = context.snapshots.volumes();
            Ok(volumes.backend().retry_faulty(&ids)?)
        });
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for retried in retried.await? {
            match retried.failure {
                None => gone.push(retried.thin_id),
                Some(why) => left.push(FaultyId { thin_id: retried.thin_id, why }),
            }
        }
        Ok(Response::new(RetryFaultyReply { gone, left }))
    }

    #[tracing::instrument(name = "status", skip_all)]
    async fn status(&self, _: Request<StatusRequest>) -> Reply<StatusReply> {
        let context = Arc::clone(&self.0);
        Ok(Response::new(blocking(move || daemon_status(&context)).await?))
    }
}

/// A listing goes on without a usage that can't be had: its error is in the log.
fn fill_in_usage(context: &Context, info: &mut snapshot::Info, cancel: &AtomicBool) {
    if info.snapshot.usage.is_none() {
        let usage = context.snapshots.usage(&info.namespace, &info.key, cancel);
        info.snapshot.usage = usage.map_err(status::of).ok();
    }
}

fn daemon_status(context: &Context) -> snapshot::Result<StatusReply> {
    let volumes = context.snapshots.volumes();
    let backend = volumes.backend();
    let details = backend.describe().into_iter().map(|(name, value)| Detail { name, value });
    Ok(StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: Some(context.started.into()),
        root: context.root.display().to_string(),
        mount: context.mount.display().to_string(),
        socket: context.socket.display().to_string(),
        containerd_namespace: context.containerd_namespace.as_str().to_owned(),
        backend: backend.name().to_owned(),
        details: details.collect(),
        // A pool that can't say how full it is is what somebody asks for the status of.
        capacity: backend.capacity().map(capacity).map_err(|error| status::of(error.into())).ok(),
        namespaces: namespaces(context)?,
        pending: context.snapshots.pending()? as u64,
        volumes: volumes.status().into_iter().map(volume_status).collect(),
        faulty: backend.faulty().into_iter().map(faulty_id).collect(),
        reaper: context.snapshots.reaper_queue().into_iter().map(pending_volume).collect(),
    })
}

fn faulty_id(faulty: crate::types::FaultyId) -> FaultyId {
    FaultyId { thin_id: faulty.thin_id, why: faulty.why }
}

fn pending_volume(pending: Pending) -> PendingVolume {
    let (state, reason) = match pending.state {
        PendingState::Queued => ("queued", String::new()),
        PendingState::Running => ("running", String::new()),
        PendingState::FilesAreOpen => ("in use", String::new()),
        PendingState::Failed(reason) => ("failed", reason),
    };
    let state = state.to_owned();
    PendingVolume { volume: pending.volume.0, tries: pending.tries, state, reason }
}

fn capacity(capacity: crate::volume::Capacity) -> Capacity {
    Capacity {
        total: capacity.total,
        used: capacity.used,
        block_size: capacity.block_size,
        metadata_total: capacity.metadata_total,
        metadata_used: capacity.metadata_used,
    }
}

fn namespaces(context: &Context) -> snapshot::Result<Vec<NamespaceStatus>> {
    let count = |ns: crate::types::Namespace| {
        let mut status =
            NamespaceStatus { name: ns.as_str().to_owned(), ..NamespaceStatus::default() };
        context.snapshots.walk(&ns, &[], &mut |info| {
            match info.snapshot.kind {
                Kind::Active => status.active += 1,
                Kind::View => status.view += 1,
                Kind::Committed => status.committed += 1,
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(status)
    };
    context.snapshots.namespaces()?.into_iter().map(count).collect()
}

fn volume_status(volume: crate::volume::VolumeStatus) -> VolumeStatus {
    VolumeStatus {
        id: volume.id.0,
        read_only: volume.access == Access::ReadOnly,
        pins: volume.pins as u64,
        writers: volume.writers as u64,
    }
}
