//! The service of leases.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status, async_trait};

use super::call::blocking;
use super::proto::thinfs::admin::v1::{
    CreateLeaseRequest, DeleteLeaseReply, DeleteLeaseRequest, GetLeaseRequest, HoldReply,
    HoldRequest, Lease, ListLeasesReply, ListLeasesRequest, Resource, UpdateLeaseRequest,
    leases_server,
};
use super::{Context, convert};
use crate::gc::labels;
use crate::snapshot::{Error, LabelUpdate, Result as Ruled};
use crate::types::{self, EXPIRE_LABEL, Labels, LeaseId, Leased, Namespace};

type Reply<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Leases(Arc<Context>);

impl Leases {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }
}

#[async_trait]
impl leases_server::Leases for Leases {
    #[tracing::instrument(name = "create lease", skip_all)]
    async fn create(&self, request: Request<CreateLeaseRequest>) -> Reply<Lease> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let made = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let id = convert::lease(request.id)?;
            let labels = with_ttl(request.labels, request.ttl);
            Ok(lease(&ns, context.collector.create_lease(&ns, id, labels)?, Vec::new()))
        });
        Ok(Response::new(made.await?))
    }

    #[tracing::instrument(name = "get lease", skip_all, fields(id = request.get_ref().id))]
    async fn get(&self, request: Request<GetLeaseRequest>) -> Reply<Lease> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let found = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let (found, holds) = context.collector.lease(&ns, &LeaseId::new(request.id)?)?;
            Ok(lease(&ns, found, holds))
        });
        Ok(Response::new(found.await?))
    }

    #[tracing::instrument(name = "list leases", skip_all)]
    async fn list(&self, request: Request<ListLeasesRequest>) -> Reply<ListLeasesReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let leases = blocking(move || {
            let ns = convert::namespace(request.namespace)?;
            let leases = context.collector.leases(&ns)?;
            Ok(leases.into_iter().map(|one| lease(&ns, one, Vec::new())).collect())
        });
        Ok(Response::new(ListLeasesReply { leases: leases.await? }))
    }

    #[tracing::instrument(name = "update lease", skip_all, fields(id = request.get_ref().id))]
    async fn update(&self, request: Request<UpdateLeaseRequest>) -> Reply<Lease> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let updated = blocking(move || {
            let (ns, id) = (convert::namespace(request.namespace)?, LeaseId::new(request.id)?);
            let change = LabelUpdate::Merge(with_ttl(request.labels, request.ttl));
            Ok(lease(&ns, context.collector.label_lease(&ns, &id, change)?, Vec::new()))
        });
        Ok(Response::new(updated.await?))
    }

    #[tracing::instrument(name = "delete lease", skip_all, fields(id = request.get_ref().id))]
    async fn delete(&self, request: Request<DeleteLeaseRequest>) -> Reply<DeleteLeaseReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let deleted = blocking(move || {
            let (ns, id) = (convert::namespace(request.namespace)?, LeaseId::new(request.id)?);
            context.collector.delete_lease(&ns, &id)?;
            if request.collect {
                context.collector.catch_up()?;
                (context.settle)();
            }
            Ok(DeleteLeaseReply {})
        });
        Ok(Response::new(deleted.await?))
    }

    #[tracing::instrument(name = "hold", skip_all, fields(lease = request.get_ref().lease))]
    async fn hold(&self, request: Request<HoldRequest>) -> Reply<HoldReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let held = blocking(move || {
            let (ns, id, what) = named(request)?;
            context.collector.hold(&ns, &id, &what)?;
            Ok(HoldReply {})
        });
        Ok(Response::new(held.await?))
    }

    #[tracing::instrument(name = "let go", skip_all, fields(lease = request.get_ref().lease))]
    async fn let_go(&self, request: Request<HoldRequest>) -> Reply<HoldReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let let_go = blocking(move || {
            let (ns, id, what) = named(request)?;
            context.collector.let_go(&ns, &id, &what)?;
            Ok(HoldReply {})
        });
        Ok(Response::new(let_go.await?))
    }
}

fn named(request: HoldRequest) -> Ruled<(Namespace, LeaseId, Leased)> {
    let Resource { kind, id } = request.resource.unwrap_or_default();
    if id.is_empty() || id.contains('\0') || kind.contains('\0') {
        let text = "the resource's id is empty or holds a NUL byte".to_owned();
        return Err(Error::InvalidArgument(text));
    }
    let ns = convert::namespace(request.namespace)?;
    Ok((ns, LeaseId::new(request.lease)?, Leased { kind, id }))
}

/// The label says when a lease ends; who sets one himself knows better.
fn with_ttl(mut labels: Labels, ttl: u64) -> Labels {
    let end = SystemTime::now().checked_add(Duration::from_secs(ttl)).filter(|_| ttl > 0);
    if let Some(end) = end {
        labels.entry(EXPIRE_LABEL.to_owned()).or_insert_with(|| labels::expiry(end));
    }
    labels
}

fn lease(ns: &Namespace, lease: types::Lease, holds: Vec<Leased>) -> Lease {
    Lease {
        namespace: ns.as_str().to_owned(),
        id: lease.id.as_str().to_owned(),
        expires: labels::expires(&lease.labels).map(Into::into),
        labels: lease.labels,
        created: Some(lease.created.into()),
        resources: holds.into_iter().map(|Leased { kind, id }| Resource { kind, id }).collect(),
    }
}
