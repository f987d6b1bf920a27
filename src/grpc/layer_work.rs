//! Long work on layers: runs on a blocking thread, and tells how far it is as a stream of replies.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::Status;

use super::call::{self, Answers, working};
use super::layer_convert as convert;
use super::passed::Patient;
use super::proto::thinfs::layers::v1 as layers;
use super::status::with_causes;
use super::{Context, layer_status};
use crate::layer_store::image::{ImportImage, Source};
use crate::layer_store::{
    Counting, CreateRw, Error, Fill, Progress, Register, Registered, Result, RwInfo,
};
use crate::types::{ChainId, GivenName, Holder};

/// How often a client hears of progress.
const TELL: Duration = Duration::from_millis(100);

/// Runs `work` and streams `tell` of its progress until it ends, then its result.
pub(super) fn work<M, F>(tell: fn(layers::Progress) -> M, work: F) -> Answers<M>
where
    M: Send + 'static,
    F: FnOnce(&Progress) -> Result<M> + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let (told, stopped) = (Arc::clone(&progress), Arc::clone(&progress));
    working(
        TELL,
        move || tell(progress_of(&told)),
        move || stopped.cancel.store(true, Ordering::Relaxed),
        move || work(&progress).map_err(layer_status::of),
    )
}

/// Runs `work` on a blocking thread; the flag that it gets is set when the caller goes away.
pub(super) async fn cancellable<T, F>(work: F) -> std::result::Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
{
    call::cancellable(move |cancel| Ok(work(cancel))).await?.map_err(layer_status::of)
}

fn progress_of(progress: &Progress) -> layers::Progress {
    layers::Progress {
        moved: progress.moved.load(Ordering::Relaxed),
        total: progress.total.load(Ordering::Relaxed),
        unpacked: progress.unpacked.load(Ordering::Relaxed),
        layer: progress.layer.load(Ordering::Relaxed),
        layers: progress.layers.load(Ordering::Relaxed),
    }
}

pub(super) fn import_progress(progress: layers::Progress) -> layers::ImportReply {
    layers::ImportReply { progress: Some(progress), ..Default::default() }
}

pub(super) fn export_progress(progress: layers::Progress) -> layers::ExportReply {
    layers::ExportReply { progress: Some(progress), ..Default::default() }
}

pub(super) fn import(
    context: &Context,
    input: OwnedFd,
    parent: Option<ChainId>,
    progress: &Progress,
) -> Result<layers::ImportReply> {
    let file = File::from(input);
    if let Some(length) = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len()) {
        progress.total.store(length, Ordering::Relaxed);
    }
    let input = Counting::new(Patient::new(file, &progress.cancel), progress);
    let register = Register { parent, expected: None, holder: Holder::User, progress };
    imported(context, context.layers.register(input, register)?, progress)
}

/// Registers what a read-write layer changed.
pub(super) fn commit_rw(
    context: &Context,
    name: &GivenName,
    progress: &Progress,
) -> Result<layers::ImportReply> {
    imported(context, context.layers.commit_rw(name, progress)?, progress)
}

fn imported(
    context: &Context,
    registered: Registered,
    progress: &Progress,
) -> Result<layers::ImportReply> {
    (context.settle)();
    let layer = convert::layer(context, context.layers.layer(&registered.chain)?);
    Ok(layers::ImportReply {
        progress: Some(progress_of(progress)),
        layer: Some(layer),
        existed: registered.existed,
        images: Vec::new(),
    })
}

pub(super) fn export(
    context: &Context,
    output: OwnedFd,
    chain: &ChainId,
    from: Option<ChainId>,
    flat: bool,
    progress: &Progress,
) -> Result<layers::ExportReply> {
    let out = Patient::new(File::from(output), &progress.cancel);
    let out = Counting::writing(out, progress);
    let diff_id = if flat || from.is_some() {
        context.layers.tar_stream_from(chain, from.as_ref(), out, &progress.cancel)?.diff_id
    } else {
        let total = context.layers.layer(chain)?.layer.tar_size;
        progress.total.store(total, Ordering::Relaxed);
        context.layers.tar_stream(chain, out, &progress.cancel)?.diff_id
    };
    Ok(layers::ExportReply { progress: Some(progress_of(progress)), diff_id: diff_id.to_string() })
}

pub(super) fn import_image(
    context: &Context,
    input: OwnedFd,
    name: Option<GivenName>,
    only: Option<&str>,
    progress: &Progress,
) -> Result<layers::ImportReply> {
    let waiting = |file| Patient::new(file, &progress.cancel);
    let source = Source::open(&context.layers, input, waiting, progress)?;
    let imported = context.layers.import_image(&source, ImportImage { name, only, progress })?;
    (context.settle)();
    let images = imported.into_iter().map(|image| layers::ImportedImage {
        name: image.name.to_string(),
        chain_id: image.top.map(|top| top.to_string()).unwrap_or_default(),
        layers: u32::try_from(image.layers).unwrap_or(u32::MAX),
        existed: u32::try_from(image.existed).unwrap_or(u32::MAX),
    });
    Ok(layers::ImportReply {
        progress: Some(progress_of(progress)),
        images: images.collect(),
        ..Default::default()
    })
}

pub(super) fn export_image(
    context: &Context,
    output: OwnedFd,
    name: &GivenName,
    progress: &Progress,
) -> Result<layers::ExportReply> {
    let out = Patient::new(File::from(output), &progress.cancel);
    context.layers.export_image(name, out, progress)?;
    Ok(export_progress(progress_of(progress)))
}

pub(super) fn create_rw(
    context: &Context,
    request: layers::CreateRwRequest,
    init: Option<OwnedFd>,
    cancel: &AtomicBool,
) -> Result<RwInfo> {
    let invalid = |text: String| Error::InvalidArgument(text);
    let name = GivenName::new(request.name).map_err(|e| invalid(e.to_string()))?;
    let parent = match request.parent.as_str() {
        "" => None,
        chain if chain.starts_with("sha256:") => {
            Some(chain.parse().map_err(|e| invalid(format!("{e}")))?)
        }
        image => {
            let image = GivenName::new(image).map_err(|e| invalid(e.to_string()))?;
            context.layers.image(&image)?.top
        }
    };
    let mut unpack;
    let init: Option<&mut Fill<'_>> = match init {
        None => None,
        Some(init) => {
            let mut file = Some(File::from(init));
            unpack = move |root: std::os::fd::BorrowedFd<'_>| match file.take() {
                Some(file) => context.layers.unpack_into(root, Patient::new(file, cancel), cancel),
                None => Ok(()),
            };
            Some(&mut unpack)
        }
    };
    let (mount_label, storage) = (request.mount_label, request.storage);
    context.layers.create_rw(&name, CreateRw { parent, init, mount_label, storage })
}

pub(super) fn list_rw(
    context: &Context,
    name: Option<&GivenName>,
    usage: bool,
    cancel: &AtomicBool,
) -> Result<Vec<layers::Rw>> {
    let infos = match name {
        Some(name) => vec![context.layers.rw(name)?],
        None => context.layers.rw_layers()?,
    };
    // One that can't be measured, or is going away meanwhile, is listed without its usage.
    let usage_of = |info: &RwInfo| match context.layers.rw_size(&info.name, cancel) {
        Ok(usage) => Some(usage),
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(%error, name = %info.name, "a read-write layer is listed without its usage");
            None
        }
    };
    let encode = |info: RwInfo| {
        let usage = if usage { usage_of(&info) } else { None };
        convert::rw(context, info, usage)
    };
    Ok(infos.into_iter().map(encode).collect())
}

/// The status of an argument that can't be one.
pub(super) fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}
