//! containerd's `Snapshots` service. Works in one thinfs namespace, whatever namespace a request's
//! header names: containerd's keys carry their namespace already, and its garbage collector sends
//! no header at all.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::call::{Answers, blocking, cancellable, stream};
use super::proto::containerd::services::snapshots::v1::{
    self as containerd, CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest,
    ListSnapshotsResponse, MountsRequest, MountsResponse, PrepareSnapshotRequest,
    PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
    UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
    ViewSnapshotRequest, ViewSnapshotResponse, snapshots_server,
};
use super::proto::containerd::types::Mount;
use super::together::{Caller, Together};
use super::{Context, convert, status};
use crate::snapshot::{self, Info, LabelUpdate, Wish};
use crate::types::Labels;

type Reply<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub struct Snapshots {
    context: Arc<Context>,
    prepares: Arc<Together<Wish, Vec<Mount>>>,
}

impl Snapshots {
    /// A service over `context`.
    pub fn new(context: Arc<Context>) -> Self {
        let inside = Arc::clone(&context);
        let prepares = Together::new(move |calls| prepare_together(&inside, calls));
        Self { context, prepares }
    }
}

#[async_trait]
impl snapshots_server::Snapshots for Snapshots {
    #[tracing::instrument(name = "prepare", skip_all, fields(key = request.get_ref().key))]
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Reply<PrepareSnapshotResponse> {
        let (context, wish) = (Arc::clone(&self.context), wish(request.into_inner())?);
        let mounts = match context.snapshots.prepares_together() {
            true => self.prepares.call(wish).await?,
            false => blocking(move || prepare_alone(&context, wish)).await?,
        };
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    #[tracing::instrument(name = "view", skip_all, fields(key = request.get_ref().key))]
    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Reply<ViewSnapshotResponse> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let mounts = blocking(move || {
            let (key, parent) = (convert::key(request.key)?, convert::parent(request.parent)?);
            let ns = &context.containerd_namespace;
            let info = context.snapshots.view(ns, &key, parent.as_ref(), request.labels)?;
            (context.settle)();
            reachable(&context, &info)
        });
        Ok(Response::new(ViewSnapshotResponse { mounts: mounts.await? }))
    }

    #[tracing::instrument(name = "mounts", skip_all, fields(key = request.get_ref().key))]
    async fn mounts(&self, request: Request<MountsRequest>) -> Reply<MountsResponse> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let mounts = blocking(move || {
            let key = convert::key(request.key)?;
            let info = context.snapshots.mounts(&context.containerd_namespace, &key)?;
            convert::mounts(&context, &info)
        });
        Ok(Response::new(MountsResponse { mounts: mounts.await? }))
    }

    #[tracing::instrument(name = "commit", skip_all, fields(key = request.get_ref().key))]
    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Reply<()> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let committed = blocking(move || {
            let (name, key) = (convert::key(request.name)?, convert::key(request.key)?);
            let parent = convert::parent(request.parent)?;
            let ns = &context.containerd_namespace;
            context.snapshots.commit(ns, &name, &key, request.labels, parent.as_ref())?;
            (context.settle)();
            Ok(())
        });
        Ok(Response::new(committed.await?))
    }

    #[tracing::instrument(name = "remove", skip_all, fields(key = request.get_ref().key))]
    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Reply<()> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let removed = blocking(move || {
            context.snapshots.remove(&context.containerd_namespace, &convert::key(request.key)?)?;
            (context.settle)();
            Ok(())
        });
        Ok(Response::new(removed.await?))
    }

    #[tracing::instrument(name = "stat", skip_all, fields(key = request.get_ref().key))]
    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Reply<StatSnapshotResponse> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let info = blocking(move || {
            let key = convert::key(request.key)?;
            context
                .snapshots
                .stat(&context.containerd_namespace, &key)
                .map(convert::containerd_info)
        });
        Ok(Response::new(StatSnapshotResponse { info: Some(info.await?) }))
    }

    #[tracing::instrument(name = "update", skip_all)]
    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Reply<UpdateSnapshotResponse> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let info = blocking(move || {
            let info = request.info.unwrap_or_default();
            let key = convert::key(info.name.clone())?;
            let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
            let update = label_update(info, &paths)?;
            context
                .snapshots
                .update(&context.containerd_namespace, &key, update)
                .map(convert::containerd_info)
        });
        Ok(Response::new(UpdateSnapshotResponse { info: Some(info.await?) }))
    }

    type ListStream = Answers<ListSnapshotsResponse>;

    #[tracing::instrument(name = "list", skip_all)]
    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        let (context, filters) = (Arc::clone(&self.context), request.into_inner().filters);
        let encode = |info| ListSnapshotsResponse { info };
        Ok(Response::new(stream(encode, move |batches, _| {
            let mut visit = |info| batches.push(convert::containerd_info(info));
            context
                .snapshots
                .walk(&context.containerd_namespace, &filters, &mut visit)
                .map_err(status::of)
        })))
    }

    #[tracing::instrument(name = "usage", skip_all, fields(key = request.get_ref().key))]
    async fn usage(&self, request: Request<UsageRequest>) -> Reply<UsageResponse> {
        let (context, request) = (Arc::clone(&self.context), request.into_inner());
        let usage = cancellable(move |cancel| {
            let key = convert::key(request.key)?;
            context.snapshots.usage(&context.containerd_namespace, &key, cancel)
        });
        let usage = usage.await?;
        Ok(Response::new(UsageResponse { size: signed(usage.size), inodes: signed(usage.inodes) }))
    }

    #[tracing::instrument(name = "cleanup", skip_all)]
    async fn cleanup(&self, _: Request<CleanupRequest>) -> Reply<()> {
        let context = Arc::clone(&self.context);
        blocking(move || context.snapshots.cleanup()).await?;
        Ok(Response::new(()))
    }
}

fn wish(request: PrepareSnapshotRequest) -> Result<Wish, Status> {
    let key = convert::key(request.key).map_err(status::of)?;
    let parent = convert::parent(request.parent).map_err(status::of)?;
    Ok(Wish { key, parent, labels: request.labels })
}

fn prepare_alone(context: &Context, wish: Wish) -> snapshot::Result<Vec<Mount>> {
    let (ns, parent) = (&context.containerd_namespace, wish.parent.as_ref());
    let info = context.snapshots.prepare(ns, &wish.key, parent, wish.labels)?;
    (context.settle)();
    reachable(context, &info)
}

/// Answers all calls; those that would keep the others waiting, on threads of their own.
fn prepare_together(context: &Arc<Context>, calls: Vec<(Wish, Caller<Vec<Mount>>)>) {
    let (wishes, callers): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    let outcomes = context.snapshots.prepare_together(&context.containerd_namespace, &wishes);
    (context.settle)();
    for ((wish, caller), outcome) in wishes.into_iter().zip(callers).zip(outcomes) {
        let context = Arc::clone(context);
        match outcome.transpose() {
            Err(error) => caller.answer(Err(error)),
            Ok(None) => caller.answer_later(move || prepare_alone(&context, wish)),
            Ok(Some(info)) => match convert::mounts_of_new(&context, &info) {
                Some(mounts) => caller.answer(Ok(mounts)),
                None => caller.answer_later(move || reachable(&context, &info)),
            },
        }
    }
}

/// The mounts of a snapshot just made. One that can't be mounted is not left behind: its caller hears of an
/// error, and expects nothing.
fn reachable(context: &Context, info: &Info) -> snapshot::Result<Vec<Mount>> {
    convert::mounts(context, info).inspect_err(|_| {
        if let Err(error) = context.snapshots.remove(&info.namespace, &info.key) {
            tracing::warn!(key = %info.key, %error, "a snapshot that can't be mounted stays");
        }
    })
}

/// Which labels an Update changes. Only labels can be changed, so a mask that names another field
/// is refused; without a mask other fields are silently left as they are.
fn label_update(info: containerd::Info, paths: &[String]) -> snapshot::Result<LabelUpdate> {
    let mut merged = Labels::new();
    let mut replace = paths.is_empty();
    for path in paths {
        match path.strip_prefix("labels") {
            Some("") => replace = true,
            Some(rest) if rest.len() > 1 && rest.starts_with('.') => {
                let label = &rest[1..];
                merged
                    .insert(label.to_owned(), info.labels.get(label).cloned().unwrap_or_default());
            }
            Some(_) | None => {
                let text =
                    format!("cannot update {path:?}: only labels and labels.<key> can be changed");
                return Err(snapshot::Error::InvalidArgument(text));
            }
        }
    }
    Ok(if replace { LabelUpdate::Replace(info.labels) } else { LabelUpdate::Merge(merged) })
}

/// containerd's counts are signed; ours are below 2^63 or a lie.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(labels: &[(&str, &str)]) -> containerd::Info {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        containerd::Info {
            name: "k".into(),
            parent: "ignored".into(),
            labels,
            ..containerd::Info::default()
        }
    }

    fn update(labels: &[(&str, &str)], paths: &[&str]) -> snapshot::Result<LabelUpdate> {
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        label_update(info(labels), &paths)
    }

    fn labels(of: &[(&str, &str)]) -> Labels {
        info(of).labels
    }

    #[test]
    fn no_mask_and_the_mask_labels_replace_all_labels() {
        for paths in [&[][..], &["labels"], &["labels", "labels.a"]] {
            let given = update(&[("a", "1")], paths).unwrap();
            assert_eq!(given, LabelUpdate::Replace(labels(&[("a", "1")])), "{paths:?}");
        }
    }

    #[test]
    fn a_mask_of_one_label_touches_that_label_only_and_deletes_it_when_it_is_not_given() {
        let given = update(&[("a", "1"), ("b", "2")], &["labels.a", "labels.x.y/z"]).unwrap();
        assert_eq!(given, LabelUpdate::Merge(labels(&[("a", "1"), ("x.y/z", "")])));
    }

    #[test]
    fn every_other_mask_is_an_invalid_argument() {
        for path in ["name", "parent", "kind", "created_at", "labels.", "labelsx", ""] {
            let refused = update(&[], &[path]);
            assert!(
                matches!(refused, Err(snapshot::Error::InvalidArgument(_))),
                "{path:?}: {refused:?}"
            );
        }
    }
}
