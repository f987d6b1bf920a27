//! Our own service, for the command line.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tonic::{Request, Response, Status, async_trait};

use super::call::{Answers, blocking, cancellable, follow, stream};
use super::proto::thinfs::admin::v1::{
    Activity, BackupReply, BackupRequest, CheckReply, CheckRequest, CommitRequest, Detail,
    DiffReply, DiffRequest, EventsReply, EventsRequest, FaultyId, FuseRequests, FuseStatus,
    GcReply, GcRequest, ListReply, ListRequest, MountsReply, MountsRequest, NamespaceStatus,
    PendingVolume, PrepareRequest, RemoveReply, RemoveRequest, ResizeRequest, RetryFaultyReply,
    RetryFaultyRequest, Snapshot, SpaceReply, SpaceRequest, StatRequest, StatusReply,
    StatusRequest, TrimReply, TrimRequest, UpdateRequest, UsageReply, UsageRequest, ViewRequest,
    VolumeStatus, admin_server,
};
use super::{Context, convert, diff, events, gc, space, status};
use crate::snapshot::{self, LabelUpdate, Pending, PendingState};
use crate::types::{Counts, Namespace};
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
            let (labels, lease) = (request.labels, convert::lease(request.lease)?);
            let info = context.snapshots.prepare_under(
                &ns,
                &key,
                parent.as_ref(),
                labels,
                lease.as_ref(),
            )?;
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
            let (labels, lease) = (request.labels, convert::lease(request.lease)?);
            let info =
                context.snapshots.view_under(&ns, &key, parent.as_ref(), labels, lease.as_ref())?;
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
            let lease = convert::lease(request.lease)?;
            let info = context.snapshots.commit_under(
                &ns,
                &name,
                &key,
                request.labels,
                parent.as_ref(),
                lease.as_ref(),
            )?;
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
            convert::mounts(&context, &context.snapshots.mounts(&ns, &key)?)
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
            let after = convert::parent(request.after).map_err(status::of)?;
            let mut left = request.limit;
            let mut visit = |mut info: snapshot::Info| {
                if request.usage {
                    fill_in_usage(&context, &mut info, cancel);
                }
                let read_on = batches.push(convert::admin_snapshot(&context, info));
                left = left.wrapping_sub(1); // without a limit it never gets to 0
                if left == 0 { ControlFlow::Break(()) } else { read_on }
            };
            context
                .snapshots
                .walk_after(&ns, &request.filters, after.as_ref(), &mut visit)
                .map_err(status::of)
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
    async fn gc(&self, request: Request<GcRequest>) -> Reply<GcReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let reply = cancellable(move |cancel| gc::collect(&context, request, cancel));
        Ok(Response::new(reply.await?))
    }

    #[tracing::instrument(name = "check", skip_all)]
    async fn check(&self, request: Request<CheckRequest>) -> Reply<CheckReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let (mended, left) = blocking(move || {
            if !request.repair {
                return Ok((Vec::new(), context.snapshots.check()?));
            }
            let snapshot::Repair { mended, left } = context.snapshots.repair()?;
            (context.settle)();
            Ok((mended, left))
        })
        .await?;
        Ok(Response::new(CheckReply {
            problems: left.iter().map(ToString::to_string).collect(),
            findings: left.into_iter().map(convert::finding).collect(),
            mended: mended.into_iter().map(convert::finding).collect(),
        }))
    }

    #[tracing::instrument(name = "backup", skip_all, fields(dir = request.get_ref().dir))]
    async fn backup(&self, request: Request<BackupRequest>) -> Reply<BackupReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        blocking(move || {
            let dir = Path::new(&request.dir);
            if !dir.is_absolute() {
                let text = format!("{:?} is not an absolute path", request.dir);
                return Err(snapshot::Error::InvalidArgument(text));
            }
            if dir.exists() {
                return Err(snapshot::Error::AlreadyExists(request.dir));
            }
            Ok(context.snapshots.store().backup(dir)?)
        })
        .await?;
        Ok(Response::new(BackupReply {}))
    }

    type EventsStream = Answers<EventsReply>;

    #[tracing::instrument(name = "events", skip_all)]
    async fn events(&self, request: Request<EventsRequest>) -> Reply<Self::EventsStream> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let encode = |items| EventsReply { items };
        let answers = follow(encode, move |batches, cancel| {
            events::follow(&context, request, batches, cancel)
        });
        Ok(Response::new(answers?))
    }

    #[tracing::instrument(name = "resize", skip_all, fields(key = request.get_ref().key))]
    async fn resize(&self, request: Request<ResizeRequest>) -> Reply<Snapshot> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(blocking(move || space::resize(&context, request)).await?))
    }

    #[tracing::instrument(name = "trim", skip_all, fields(key = request.get_ref().key))]
    async fn trim(&self, request: Request<TrimRequest>) -> Reply<TrimReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(blocking(move || space::trim(&context, request)).await?))
    }

    #[tracing::instrument(name = "space", skip_all)]
    async fn space(&self, request: Request<SpaceRequest>) -> Reply<SpaceReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let space = cancellable(move |cancel| space::space(&context, request, cancel));
        Ok(Response::new(space.await?))
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
    let keeping = context.snapshots.store().keeping()?;
    let keeping = keeping.map(|reason| ("unnamed volumes".to_owned(), format!("kept: {reason}")));
    let lines = backend.describe().into_iter().chain(keeping);
    let details = lines.map(|(name, value)| Detail { name, value });
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
        capacity: backend
            .capacity()
            .map(space::capacity)
            .map_err(|error| status::of(error.into()))
            .ok(),
        namespaces: context.snapshots.counts().into_iter().map(namespace_status).collect(),
        pending: context.snapshots.pending()? as u64,
        volumes: volumes.status().into_iter().map(volume_status).collect(),
        faulty: backend.faulty().into_iter().map(faulty_id).collect(),
        reaper: context.snapshots.reaper_queue().into_iter().map(pending_volume).collect(),
        fuse: Some(fuse_status((context.requests)())),
        activity: Some(activity(volumes.activity())),
        gc: Some(gc::status(context.collector.totals())),
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

fn activity(activity: crate::volume::Activity) -> Activity {
    Activity {
        activations: activity.activations,
        failures: activity.failures,
        deactivations: activity.deactivations,
    }
}

fn fuse_status(requests: super::Requests) -> FuseStatus {
    let count = |(name, count): (&str, u64)| FuseRequests { name: name.to_owned(), count };
    FuseStatus {
        requests: requests.counts.into_iter().map(count).collect(),
        synchronous: requests.synchronous,
        waited: requests.waited,
        passthrough: requests.passthrough,
    }
}

fn namespace_status((ns, counts): (Namespace, Counts)) -> NamespaceStatus {
    let Counts { active, view, committed } = counts;
    NamespaceStatus { name: ns.as_str().to_owned(), active, view, committed }
}

fn volume_status(volume: crate::volume::VolumeStatus) -> VolumeStatus {
    VolumeStatus {
        id: volume.id.0,
        read_only: volume.access == Access::ReadOnly,
        pins: volume.pins as u64,
        writers: volume.writers as u64,
    }
}
