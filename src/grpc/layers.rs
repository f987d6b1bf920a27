//! The service of the layer store, for the command line.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::call::{Answers, blocking_for, stream};
use super::layer_work::{self, cancellable, work};
use super::proto::thinfs::layers::v1::{
    CreateRwRequest, ExportImageRequest, ExportReply, ExportRequest, GetRequest,
    ImportImageRequest, ImportReply, ImportRequest, Layer, ListImagesReply, ListImagesRequest,
    ListReply, ListRequest, ListRwReply, ListRwRequest, PruneRequest, ReleaseReply, ReleaseRequest,
    RemoveImageRequest, Rw, RwChangesReply, RwRequest, layers_server,
};
use super::{Context, layer_convert as convert, passed};
use crate::layer_store::LayerInfo;

type Reply<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub struct Layers(Arc<Context>);

impl Layers {
    /// A service over `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self(context)
    }
}

#[async_trait]
impl layers_server::Layers for Layers {
    type ImportStream = Answers<ImportReply>;

    #[tracing::instrument(name = "layer_import", skip_all, fields(parent = request.get_ref().parent))]
    async fn import(&self, request: Request<ImportRequest>) -> Reply<Self::ImportStream> {
        let (context, sender) = (Arc::clone(&self.0), passed::sender(&request));
        let request = request.into_inner();
        let input = passed::take(sender, request.input)?;
        let parent = convert::parent(&request.parent)?;
        Ok(Response::new(work(layer_work::import_progress, move |progress| {
            layer_work::import(&context, input, parent, progress)
        })))
    }

    type ExportStream = Answers<ExportReply>;

    #[tracing::instrument(name = "layer_export", skip_all, fields(chain = request.get_ref().chain_id))]
    async fn export(&self, request: Request<ExportRequest>) -> Reply<Self::ExportStream> {
        let (context, sender) = (Arc::clone(&self.0), passed::sender(&request));
        let request = request.into_inner();
        let output = passed::take(sender, request.output)?;
        let chain = convert::chain(&request.chain_id)?;
        let from = convert::parent(&request.from)?;
        Ok(Response::new(work(layer_work::export_progress, move |progress| {
            layer_work::export(&context, output, &chain, from, request.flat, progress)
        })))
    }

    #[tracing::instrument(name = "layer_get", skip_all, fields(chain = request.get_ref().chain_id))]
    async fn get(&self, request: Request<GetRequest>) -> Reply<Layer> {
        let context = Arc::clone(&self.0);
        let chain = convert::chain(&request.into_inner().chain_id)?;
        let layer = blocking_for(move || {
            context.layers.get(&chain)?;
            Ok(convert::layer(&context, context.layers.layer(&chain)?))
        });
        Ok(Response::new(layer.await?))
    }

    #[tracing::instrument(name = "layer_release", skip_all, fields(chain = request.get_ref().chain_id))]
    async fn release(&self, request: Request<ReleaseRequest>) -> Reply<ReleaseReply> {
        let context = Arc::clone(&self.0);
        let chain = convert::chain(&request.into_inner().chain_id)?;
        let removed = blocking_for(move || {
            let removed = context.layers.release(&chain)?;
            (context.settle)();
            Ok(convert::removed(removed))
        });
        Ok(Response::new(removed.await?))
    }

    #[tracing::instrument(name = "layer_list", skip_all)]
    async fn list(&self, request: Request<ListRequest>) -> Reply<ListReply> {
        let context = Arc::clone(&self.0);
        let chain = convert::parent(&request.into_inner().chain_id)?;
        let layers = blocking_for(move || {
            let infos: Vec<LayerInfo> = match chain {
                Some(chain) => vec![context.layers.layer(&chain)?],
                None => context.layers.layers()?,
            };
            Ok(infos.into_iter().map(|info| convert::layer(&context, info)).collect())
        });
        Ok(Response::new(ListReply { layers: layers.await? }))
    }

    #[tracing::instrument(name = "layer_prune", skip_all)]
    async fn prune(&self, _: Request<PruneRequest>) -> Reply<ReleaseReply> {
        let context = Arc::clone(&self.0);
        let removed = blocking_for(move || {
            let removed = context.layers.prune()?;
            (context.settle)();
            Ok(convert::removed(removed))
        });
        Ok(Response::new(removed.await?))
    }

    type ImportImageStream = Answers<ImportReply>;

    #[tracing::instrument(name = "image_import", skip_all, fields(name = request.get_ref().name))]
    async fn import_image(
        &self,
        request: Request<ImportImageRequest>,
    ) -> Reply<Self::ImportImageStream> {
        let (context, sender) = (Arc::clone(&self.0), passed::sender(&request));
        let request = request.into_inner();
        let input = passed::take(sender, request.input)?;
        let name = convert::optional_name(&request.name)?;
        Ok(Response::new(work(layer_work::import_progress, move |progress| {
            let only = Some(request.only.as_str()).filter(|only| !only.is_empty());
            layer_work::import_image(&context, input, name, only, progress)
        })))
    }

    type ExportImageStream = Answers<ExportReply>;

    #[tracing::instrument(name = "image_export", skip_all, fields(name = request.get_ref().name))]
    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Reply<Self::ExportImageStream> {
        let (context, sender) = (Arc::clone(&self.0), passed::sender(&request));
        let request = request.into_inner();
        let output = passed::take(sender, request.output)?;
        let name = convert::name(&request.name)?;
        Ok(Response::new(work(layer_work::export_progress, move |progress| {
            layer_work::export_image(&context, output, &name, progress)
        })))
    }

    #[tracing::instrument(name = "image_list", skip_all)]
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Reply<ListImagesReply> {
        let context = Arc::clone(&self.0);
        let images = blocking_for(move || {
            let images = context.layers.images()?.into_iter();
            images.map(|(name, image)| convert::image(&context, &name, &image)).collect()
        });
        Ok(Response::new(ListImagesReply { images: images.await? }))
    }

    #[tracing::instrument(name = "image_remove", skip_all, fields(name = request.get_ref().name))]
    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Reply<ReleaseReply> {
        let context = Arc::clone(&self.0);
        let name = convert::name(&request.into_inner().name)?;
        let removed = blocking_for(move || {
            let removed = context.layers.remove_image(&name)?;
            (context.settle)();
            Ok(convert::removed(removed))
        });
        Ok(Response::new(removed.await?))
    }

    #[tracing::instrument(name = "rw_create", skip_all, fields(name = request.get_ref().name))]
    async fn create_rw(&self, request: Request<CreateRwRequest>) -> Reply<Rw> {
        let (context, sender) = (Arc::clone(&self.0), passed::sender(&request));
        let mut request = request.into_inner();
        let init = request.init.take().map(|init| passed::take(sender, Some(init))).transpose()?;
        let made = cancellable(move |cancel| {
            let made = layer_work::create_rw(&context, request, init, cancel)?;
            (context.settle)();
            Ok(convert::rw(&context, made, None))
        });
        Ok(Response::new(made.await?))
    }

    #[tracing::instrument(name = "rw_get", skip_all, fields(name = request.get_ref().name))]
    async fn get_rw(&self, request: Request<RwRequest>) -> Reply<Rw> {
        let context = Arc::clone(&self.0);
        let name = convert::name(&request.into_inner().name)?;
        let got =
            blocking_for(move || Ok(convert::rw(&context, context.layers.get_rw(&name)?, None)));
        Ok(Response::new(got.await?))
    }

    #[tracing::instrument(name = "rw_list", skip_all)]
    async fn list_rw(&self, request: Request<ListRwRequest>) -> Reply<ListRwReply> {
        let (context, request) = (Arc::clone(&self.0), request.into_inner());
        let name = convert::optional_name(&request.name)?;
        let layers = cancellable(move |cancel| {
            layer_work::list_rw(&context, name.as_ref(), request.usage, cancel)
        });
        Ok(Response::new(ListRwReply { layers: layers.await? }))
    }

    type CommitRwStream = Answers<ImportReply>;

    #[tracing::instrument(name = "rw_commit", skip_all, fields(name = request.get_ref().name))]
    async fn commit_rw(&self, request: Request<RwRequest>) -> Reply<Self::CommitRwStream> {
        let context = Arc::clone(&self.0);
        let name = convert::name(&request.into_inner().name)?;
        Ok(Response::new(work(layer_work::import_progress, move |progress| {
            layer_work::commit_rw(&context, &name, progress)
        })))
    }

    #[tracing::instrument(name = "rw_release", skip_all, fields(name = request.get_ref().name))]
    async fn release_rw(&self, request: Request<RwRequest>) -> Reply<ReleaseReply> {
        let context = Arc::clone(&self.0);
        let name = convert::name(&request.into_inner().name)?;
        let removed = blocking_for(move || {
            let removed = context.layers.release_rw(&name)?;
            (context.settle)();
            Ok(convert::removed(removed))
        });
        Ok(Response::new(removed.await?))
    }

    type RwChangesStream = Answers<RwChangesReply>;

    #[tracing::instrument(name = "rw_changes", skip_all, fields(name = request.get_ref().name))]
    async fn rw_changes(&self, request: Request<RwRequest>) -> Reply<Self::RwChangesStream> {
        let context = Arc::clone(&self.0);
        let name = convert::name(&request.into_inner().name)?;
        let encode = |changes| RwChangesReply { changes };
        Ok(Response::new(stream(encode, move |batches, cancel| {
            let mut visit = |change: crate::tree::Change<'_>| batches.push(convert::change(change));
            context.layers.rw_changes(&name, cancel, &mut visit).map_err(super::layer_status::of)
        })))
    }
}
