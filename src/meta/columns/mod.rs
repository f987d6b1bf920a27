//! One file per column family: its key, its record, encode beside decode.
//!
//! Records are their own prost messages, apart from the live types: a byte of record version, then
//! protobuf. Within a version, fields may be added as protobuf allows; anything else is a new
//! version byte, which `decode` tells apart, or a migration.
//!
//! Words in keys are joined by NUL, which no namespace and no snapshot key holds.

mod children;
mod collectable;
mod digests;
mod events;
mod ids;
mod kinds;
mod labels;
mod layers;
mod leases;
mod namespaces;
mod references;
mod snapshots;
mod system;
mod volumes;

pub(super) use children::Children;
pub(super) use collectable::Collectable;
pub(super) use digests::Digests;
pub(super) use events::Events;
pub(super) use ids::Ids;
pub(super) use kinds::Kinds;
pub(super) use labels::Labels;
pub(super) use layers::{Images, LayerRefs, Layers, RwLayers, given_name};
pub(super) use leases::{Holders, LeaseResources, Leases};
pub(super) use namespaces::Namespaces;
pub(super) use references::References;
pub(super) use snapshots::Snapshots;
pub(super) use system::System;
pub(super) use volumes::Volumes;

use prost::Message;

use crate::types::{InvalidName, Namespace, SnapshotKey};

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// [`System`]
    System,
    /// [`Snapshots`]
    Snapshots,
    /// [`Children`]
    Children,
    /// [`Kinds`]
    Kinds,
    /// [`Ids`]
    Ids,
    /// [`Volumes`]
    Volumes,
    /// [`Digests`]
    Digests,
    /// [`Labels`]
    Labels,
    /// [`Events`]
    Events,
    /// [`Namespaces`]
    Namespaces,
    /// [`Leases`]
    Leases,
    /// [`LeaseResources`]
    LeaseResources,
    /// [`Holders`]
    Holders,
    /// [`Collectable`]
    Collectable,
    /// [`Layers`]
    Layers,
    /// [`LayerRefs`]
    LayerRefs,
    /// [`RwLayers`]
    RwLayers,
    /// [`Images`]
    Images,
    /// [`References`]
    References,
}

impl Column {
    pub(super) const ALL: [Column; 19] = [
        Column::System,
        Column::Snapshots,
        Column::Children,
        Column::Kinds,
        Column::Ids,
        Column::Volumes,
        Column::Digests,
        Column::Labels,
        Column::Events,
        Column::Namespaces,
        Column::Leases,
        Column::LeaseResources,
        Column::Holders,
        Column::Collectable,
        Column::Layers,
        Column::LayerRefs,
        Column::RwLayers,
        Column::Images,
        Column::References,
    ];

    /// Its name on disk.
    pub(super) fn name(self) -> &'static str {
        match self {
            Column::System => "system",
            Column::Snapshots => "snapshots",
            Column::Children => "children",
            Column::Kinds => "kinds",
            Column::Ids => "ids",
            Column::Volumes => "volumes",
            Column::Digests => "digests",
            Column::Labels => "labels",
            Column::Events => "events",
            Column::Namespaces => "namespaces",
            Column::Leases => "leases",
            Column::LeaseResources => "lease_resources",
            Column::Holders => "holders",
            Column::Collectable => "collectable",
            Column::Layers => "layers",
            Column::LayerRefs => "layer_refs",
            Column::RwLayers => "rw_layers",
            Column::Images => "images",
            Column::References => "references",
        }
    }
}

/// Why bytes of the store could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The record is empty.
    #[error("the record is empty")]
    Empty,
    /// The record's version byte is not one that this program knows.
    #[error("record version {0} is unknown to this program")]
    Version(u8),
    /// The protobuf part doesn't decode.
    #[error("the protobuf message doesn't decode")]
    Protobuf(#[from] prost::DecodeError),
    /// A field is missing or out of range.
    #[error("field {0} is missing or out of range")]
    Field(&'static str),
    /// The row's key hasn't the column's form.
    #[error("the row's key {0:?} hasn't the form of its column")]
    RowKey(Vec<u8>),
    /// A word in the row isn't a valid key or namespace.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Version byte, then protobuf.
fn encode_record(version: u8, message: &impl Message) -> Vec<u8> {
    let mut record = Vec::with_capacity(1 + message.encoded_len());
    record.push(version);
    message.encode(&mut record).expect("a Vec grows as needed");
    record
}

/// Takes the version byte off a record.
fn split_version(record: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    record.split_first().map(|(version, rest)| (*version, rest)).ok_or(Malformed::Empty)
}

/// Words with a NUL between each two.
fn join(words: &[&[u8]]) -> Vec<u8> {
    words.join(&0)
}

/// Splits a row key at its first NUL.
fn split(row_key: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let at =
        row_key.iter().position(|b| *b == 0).ok_or_else(|| Malformed::RowKey(row_key.to_vec()))?;
    Ok((&row_key[..at], &row_key[at + 1..]))
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::RowKey(bytes.to_vec()))
}

fn namespace(bytes: &[u8]) -> Result<Namespace, Malformed> {
    Ok(Namespace::new(text(bytes)?)?)
}

fn snapshot_key(bytes: &[u8]) -> Result<SnapshotKey, Malformed> {
    Ok(SnapshotKey::new(text(bytes)?)?)
}

fn number(bytes: &[u8]) -> Result<u32, Malformed> {
    let bytes = bytes.try_into().map_err(|_| Malformed::RowKey(bytes.to_vec()))?;
    Ok(u32::from_be_bytes(bytes))
}
