//! Between the layer store's words and the proto's. An empty string in a message stands for "none".

use std::os::unix::ffi::OsStrExt as _;

use tonic::Status;

use super::Context;
use super::layer_work::invalid;
use super::proto::thinfs::layers::v1 as layers;
use crate::layer_store::{LayerInfo, Removed, Result, RwInfo};
use crate::tree;
use crate::types::{ChainId, DiffId, GivenName, Image, Kind, SnapshotKey, Usage};

pub(super) fn chain(text: &str) -> std::result::Result<ChainId, Status> {
    text.parse().map_err(invalid)
}

pub(super) fn parent(text: &str) -> std::result::Result<Option<ChainId>, Status> {
    if text.is_empty() { Ok(None) } else { chain(text).map(Some) }
}

pub(super) fn name(text: &str) -> std::result::Result<GivenName, Status> {
    GivenName::new(text).map_err(invalid)
}

pub(super) fn optional_name(text: &str) -> std::result::Result<Option<GivenName>, Status> {
    if text.is_empty() { Ok(None) } else { name(text).map(Some) }
}

pub(super) fn layer(context: &Context, info: LayerInfo) -> layers::Layer {
    let LayerInfo { chain, layer, holders, chain_size, record_size } = info;
    layers::Layer {
        chain_id: chain.to_string(),
        diff_id: layer.diff_id.to_string(),
        parent: layer.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        depth: layer.depth,
        tar_size: layer.tar_size,
        size: layer.size,
        chain_size,
        entries: layer.entries,
        record_size,
        created: Some(layer.created.into()),
        holders: holders
            .into_iter()
            .map(|(holder, count)| layers::Holder { name: holder.to_string(), count })
            .collect(),
        path: path_of(context, Some(&chain)),
    }
}

/// The directory of a layer.
fn path_of(context: &Context, chain: Option<&ChainId>) -> String {
    let key = chain.and_then(|chain| SnapshotKey::new(chain.to_string()).ok());
    key.map(|key| context.directory_of(context.layers.namespace(), Kind::Committed, &key))
        .unwrap_or_default()
}

pub(super) fn removed(removed: Vec<Removed>) -> layers::ReleaseReply {
    let encode = |removed: Removed| layers::Removed {
        chain_id: removed.chain.to_string(),
        diff_id: removed.diff_id.to_string(),
        size: removed.size,
        diff_size: removed.diff_size,
    };
    layers::ReleaseReply { removed: removed.into_iter().map(encode).collect() }
}

pub(super) fn image(context: &Context, name: &GivenName, image: &Image) -> Result<layers::Image> {
    use sha2::Digest as _;
    let chain = context.layers.chain(image.top)?;
    Ok(layers::Image {
        name: name.to_string(),
        id: DiffId::from_bytes(sha2::Sha256::digest(&image.config).into()).to_string(),
        chain_id: image.top.map(|top| top.to_string()).unwrap_or_default(),
        diff_ids: chain.iter().map(|(_, layer)| layer.diff_id.to_string()).collect(),
        size: chain.iter().map(|(_, layer)| layer.size).sum(),
        created: Some(image.created.into()),
        path: path_of(context, image.top.as_ref()),
    })
}

pub(super) fn rw(context: &Context, info: RwInfo, usage: Option<Usage>) -> layers::Rw {
    let RwInfo { name, layer, key } = info;
    layers::Rw {
        name: name.to_string(),
        parent: layer.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        has_init: layer.init.is_some(),
        mount_label: layer.mount_label,
        storage: layer.storage,
        references: layer.references,
        created: Some(layer.created.into()),
        size: usage.map(|usage| usage.size),
        inodes: usage.map(|usage| usage.inodes),
        path: context.directory_of(context.layers.namespace(), Kind::Active, &key),
    }
}

pub(super) fn change(change: tree::Change<'_>) -> layers::RwChange {
    let kind = match change.kind {
        tree::ChangeKind::Added => 1,
        tree::ChangeKind::Modified => 2,
        tree::ChangeKind::Deleted => 3,
    };
    let path = change.path.as_os_str();
    let path = if path.is_empty() { b".".to_vec() } else { path.as_bytes().to_vec() };
    layers::RwChange { kind, path }
}
