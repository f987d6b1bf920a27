//! The service of namespaces.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::call::blocking;
use super::proto::thinfs::admin::v1::{
    CreateNamespaceRequest, DeleteNamespaceReply, DeleteNamespaceRequest, ListNamespacesReply,
    ListNamespacesRequest, Namespace, UpdateNamespaceRequest, namespaces_server,
};
use super::{Context, convert};
use crate::snapshot::LabelUpdate;
use crate::types::{self, NamespaceRecord};

type Reply<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Namespaces(Arc<Context>);

impl Namespaces {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }
}

#[async_trait]
impl namespaces_server::Namespaces for Namespaces {
    #[tracing::instrument(name = "create namespace", skip_all, fields(name = request.get_ref().name))]
    async fn create(&self, request: Request<CreateNamespaceRequest>) -> Reply<Namespace> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let made = blocking(move || {
            let ns = convert::namespace(request.name)?;
            let record = context.collector.create_namespace(&ns, request.labels)?;
            Ok(namespace(ns, Some(record)))
        });
        Ok(Response::new(made.await?))
    }

    #[tracing::instrument(name = "list namespaces", skip_all)]
    async fn list(&self, _: Request<ListNamespacesRequest>) -> Reply<ListNamespacesReply> {
        let context = Arc::clone(&self.0);
        let all = blocking(move || context.collector.namespaces()).await?;
        let namespaces = all.into_iter().map(|(ns, record)| namespace(ns, record)).collect();
        Ok(Response::new(ListNamespacesReply { namespaces }))
    }

    #[tracing::instrument(name = "label namespace", skip_all, fields(name = request.get_ref().name))]
    async fn update(&self, request: Request<UpdateNamespaceRequest>) -> Reply<Namespace> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let labelled = blocking(move || {
            let ns = convert::namespace(request.name)?;
            let change = LabelUpdate::Merge(request.labels);
            let record = context.collector.label_namespace(&ns, change)?;
            Ok(namespace(ns, Some(record)))
        });
        Ok(Response::new(labelled.await?))
    }

    #[tracing::instrument(name = "delete namespace", skip_all, fields(name = request.get_ref().name))]
    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Reply<DeleteNamespaceReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let deleted = blocking(move || {
            context.collector.delete_namespace(&convert::namespace(request.name)?)?;
            Ok(DeleteNamespaceReply {})
        });
        Ok(Response::new(deleted.await?))
    }
}

fn namespace(name: types::Namespace, record: Option<NamespaceRecord>) -> Namespace {
    let (created, labels) = match record {
        Some(record) => (Some(record.created.into()), record.labels),
        None => (None, types::Labels::new()),
    };
    Namespace { name: name.as_str().to_owned(), labels, created }
}
