//! What `--json` prints about layers, images and read-write layers. Programs read it: field names
//! stay.

use std::collections::BTreeMap;

use serde::Serialize;

use super::json::Usage;
use super::layer::usage_of;
use super::output::time;
use crate::grpc::proto::thinfs::layers::v1 as layers;

/// `layer import`, `layer info`; a line each of `layer ls` and `layer tree`.
#[derive(Debug, Serialize)]
pub(super) struct Layer {
    chain_id: String,
    diff_id: String,
    parent: Option<String>,
    depth: u32,
    entries: u64,
    size: u64,
    chain_size: u64,
    tar_size: u64,
    record_size: u64,
    created: Option<String>,
    holders: BTreeMap<String, u32>,
    path: String,
}

impl From<layers::Layer> for Layer {
    fn from(layer: layers::Layer) -> Self {
        Self {
            chain_id: layer.chain_id,
            diff_id: layer.diff_id,
            parent: none_if_empty(layer.parent),
            depth: layer.depth,
            entries: layer.entries,
            size: layer.size,
            chain_size: layer.chain_size,
            tar_size: layer.tar_size,
            record_size: layer.record_size,
            created: layer.created.map(time),
            holders: layer.holders.into_iter().map(|h| (h.name, h.count)).collect(),
            path: layer.path,
        }
    }
}

/// A line each of whatever removes layers.
#[derive(Debug, Serialize)]
pub(super) struct Removed {
    chain_id: String,
    diff_id: String,
    size: u64,
    diff_size: u64,
}

impl From<layers::Removed> for Removed {
    fn from(removed: layers::Removed) -> Self {
        let layers::Removed { chain_id, diff_id, size, diff_size } = removed;
        Self { chain_id, diff_id, size, diff_size }
    }
}

/// A line each of `image ls`.
#[derive(Debug, Serialize)]
pub(super) struct Image {
    name: String,
    id: String,
    chain_id: Option<String>,
    diff_ids: Vec<String>,
    size: u64,
    created: Option<String>,
    path: Option<String>,
}

impl From<layers::Image> for Image {
    fn from(image: layers::Image) -> Self {
        Self {
            name: image.name,
            id: image.id,
            chain_id: none_if_empty(image.chain_id),
            diff_ids: image.diff_ids,
            size: image.size,
            created: image.created.map(time),
            path: none_if_empty(image.path),
        }
    }
}

/// A line each of `image import`.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    name: String,
    chain_id: Option<String>,
    layers: u32,
    existed: u32,
}

impl From<layers::ImportedImage> for Imported {
    fn from(image: layers::ImportedImage) -> Self {
        let layers::ImportedImage { name, chain_id, layers, existed } = image;
        Self { name, chain_id: none_if_empty(chain_id), layers, existed }
    }
}

/// `rw create`, `rw get`, `rw info`; a line each of `rw ls`.
#[derive(Debug, Serialize)]
pub(super) struct Rw {
    name: String,
    parent: Option<String>,
    init: bool,
    mount_label: String,
    storage: BTreeMap<String, String>,
    references: u32,
    created: Option<String>,
    /// null where it was not measured
    usage: Option<Usage>,
    path: String,
}

impl From<layers::Rw> for Rw {
    fn from(layer: layers::Rw) -> Self {
        Self {
            usage: usage_of(&layer),
            name: layer.name,
            parent: none_if_empty(layer.parent),
            init: layer.has_init,
            mount_label: layer.mount_label,
            storage: layer.storage,
            references: layer.references,
            created: layer.created.map(time),
            path: layer.path,
        }
    }
}

fn none_if_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
