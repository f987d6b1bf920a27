//! Column families `layers`, `layer_refs`, `rw_layers` and `images`.
//!
//! A reference is a row of its own, not a count in the layer's record: a thousand read-write layers
//! can be made on one layer at the same time, and none waits for another's turn to count.

use std::collections::BTreeMap;

use super::snapshots::{TimeRecord, time};
use super::{Malformed, encode_record, number, split_version};
use crate::types::{ChainId, DiffId, GivenName, Holder, Image, Layer, RwLayer, SnapshotId};

/// Column family `layers`: chain id (32 bytes) → [`Layer`].
pub(in crate::meta) struct Layers;

/// Column family `layer_refs`: `chain id (32 bytes) \0 letter holder` → count (u32, big-endian).
/// Letters: `u`ser, `i`mage, `r`ead-write layer, `c`hild, i`m`port.
pub(in crate::meta) struct LayerRefs;

/// Column family `rw_layers`: name → [`RwLayer`].
pub(in crate::meta) struct RwLayers;

/// Column family `images`: name → [`Image`].
pub(in crate::meta) struct Images;

/// [`Layer`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct LayerRecord {
    #[prost(bytes = "vec", tag = "1")]
    diff_id: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    parent: Option<Vec<u8>>,
    #[prost(uint32, tag = "3")]
    snapshot: u32,
    #[prost(uint32, tag = "4")]
    depth: u32,
    #[prost(uint64, tag = "5")]
    tar_size: u64,
    #[prost(uint64, tag = "6")]
    size: u64,
    #[prost(uint64, tag = "7")]
    entries: u64,
    #[prost(message, required, tag = "8")]
    created: TimeRecord,
}

/// [`RwLayer`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct RwLayerRecord {
    #[prost(bytes = "vec", optional, tag = "1")]
    parent: Option<Vec<u8>>,
    #[prost(uint32, tag = "2")]
    snapshot: u32,
    #[prost(uint32, optional, tag = "3")]
    init: Option<u32>,
    #[prost(string, tag = "4")]
    mount_label: String,
    #[prost(btree_map = "string, string", tag = "5")]
    storage: BTreeMap<String, String>,
    #[prost(uint32, tag = "6")]
    references: u32,
    #[prost(message, required, tag = "7")]
    created: TimeRecord,
}

/// [`Image`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageRecord {
    #[prost(bytes = "vec", optional, tag = "1")]
    top: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    #[prost(message, required, tag = "3")]
    created: TimeRecord,
}

impl Layers {
    pub(in crate::meta) fn row_key(chain: &ChainId) -> Vec<u8> {
        chain.as_bytes().to_vec()
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<ChainId, Malformed> {
        chain_id(row_key)
    }

    pub(in crate::meta) fn encode(layer: &Layer) -> Vec<u8> {
        let record = LayerRecord {
            diff_id: layer.diff_id.as_bytes().to_vec(),
            parent: layer.parent.map(|parent| parent.as_bytes().to_vec()),
            snapshot: layer.snapshot.0,
            depth: layer.depth,
            tar_size: layer.tar_size,
            size: layer.size,
            entries: layer.entries,
            created: layer.created.into(),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode(record: &[u8]) -> Result<Layer, Malformed> {
        let record: LayerRecord = v1(record)?;
        Ok(Layer {
            diff_id: DiffId::from_bytes(hash(&record.diff_id, "diff_id")?),
            parent: record.parent.as_deref().map(chain_id).transpose()?,
            snapshot: SnapshotId(record.snapshot),
            depth: record.depth,
            tar_size: record.tar_size,
            size: record.size,
            entries: record.entries,
            created: time(record.created)?,
        })
    }
}

impl LayerRefs {
    pub(in crate::meta) fn row_key(chain: &ChainId, holder: &Holder) -> Vec<u8> {
        let mut row_key = Self::prefix(chain);
        let (letter, name): (u8, Vec<u8>) = match holder {
            Holder::User => (b'u', Vec::new()),
            Holder::Image(name) => (b'i', name.as_str().into()),
            Holder::Rw(name) => (b'r', name.as_str().into()),
            Holder::Child(child) => (b'c', child.as_bytes().into()),
            Holder::Import(id) => (b'm', id.0.to_be_bytes().into()),
        };
        row_key.push(letter);
        row_key.extend_from_slice(&name);
        row_key
    }

    /// What the rows of one layer's references start with.
    pub(in crate::meta) fn prefix(chain: &ChainId) -> Vec<u8> {
        let mut prefix = chain.as_bytes().to_vec();
        prefix.push(0);
        prefix
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<(ChainId, Holder), Malformed> {
        let malformed = || Malformed::RowKey(row_key.to_vec());
        let (chain, rest) = row_key.split_at_checked(32).ok_or_else(malformed)?;
        let holder = match rest {
            [0, b'u'] => Holder::User,
            [0, b'i', name @ ..] => Holder::Image(given_name(name)?),
            [0, b'r', name @ ..] => Holder::Rw(given_name(name)?),
            [0, b'c', child @ ..] => Holder::Child(chain_id(child)?),
            [0, b'm', id @ ..] => Holder::Import(SnapshotId(number(id)?)),
            _ => return Err(malformed()),
        };
        Ok((chain_id(chain)?, holder))
    }

    pub(in crate::meta) fn encode(count: u32) -> [u8; 4] {
        count.to_be_bytes()
    }

    pub(in crate::meta) fn decode(value: &[u8]) -> Result<u32, Malformed> {
        number(value)
    }
}

impl RwLayers {
    pub(in crate::meta) fn encode(layer: &RwLayer) -> Vec<u8> {
        let record = RwLayerRecord {
            parent: layer.parent.map(|parent| parent.as_bytes().to_vec()),
            snapshot: layer.snapshot.0,
            init: layer.init.map(|init| init.0),
            mount_label: layer.mount_label.clone(),
            storage: layer.storage.clone(),
            references: layer.references,
            created: layer.created.into(),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode(record: &[u8]) -> Result<RwLayer, Malformed> {
        let record: RwLayerRecord = v1(record)?;
        Ok(RwLayer {
            parent: record.parent.as_deref().map(chain_id).transpose()?,
            snapshot: SnapshotId(record.snapshot),
            init: record.init.map(SnapshotId),
            mount_label: record.mount_label,
            storage: record.storage,
            references: record.references,
            created: time(record.created)?,
        })
    }
}

impl Images {
    pub(in crate::meta) fn encode(image: &Image) -> Vec<u8> {
        let record = ImageRecord {
            top: image.top.map(|top| top.as_bytes().to_vec()),
            config: image.config.clone(),
            created: image.created.into(),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode(record: &[u8]) -> Result<Image, Malformed> {
        let record: ImageRecord = v1(record)?;
        Ok(Image {
            top: record.top.as_deref().map(chain_id).transpose()?,
            config: record.config,
            created: time(record.created)?,
        })
    }
}

/// The row key of an image or a read-write layer is its name.
pub(in crate::meta) fn given_name(bytes: &[u8]) -> Result<GivenName, Malformed> {
    let text = super::text(bytes)?;
    GivenName::new(text).map_err(|_| Malformed::RowKey(bytes.to_vec()))
}

fn chain_id(bytes: &[u8]) -> Result<ChainId, Malformed> {
    Ok(ChainId::from_bytes(hash(bytes, "chain id")?))
}

fn hash(bytes: &[u8], field: &'static str) -> Result<[u8; 32], Malformed> {
    bytes.try_into().map_err(|_| Malformed::Field(field))
}

fn v1<M: prost::Message + Default>(record: &[u8]) -> Result<M, Malformed> {
    match split_version(record)? {
        (1, message) => Ok(M::decode(message)?),
        (version, _) => Err(Malformed::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn chain(byte: u8) -> ChainId {
        ChainId::from_bytes([byte; 32])
    }

    fn at() -> std::time::SystemTime {
        UNIX_EPOCH + Duration::new(1_700_000_000, 5)
    }

    #[test]
    fn records_decode_to_what_was_encoded() {
        let mut layer = Layer {
            diff_id: DiffId::from_bytes([0; 32]),
            parent: Some(chain(255)),
            snapshot: SnapshotId(u32::MAX),
            depth: 125,
            tar_size: u64::MAX,
            size: 0,
            entries: 3,
            created: at(),
        };
        for parent in [Some(chain(255)), None] {
            layer.parent = parent;
            assert_eq!(Layers::decode(&Layers::encode(&layer)).unwrap(), layer);
        }
        let rw = RwLayer {
            parent: Some(chain(1)),
            snapshot: SnapshotId(1),
            init: Some(SnapshotId(2)),
            mount_label: "system_u:object_r:x:s0".into(),
            storage: BTreeMap::from([("size".into(), "20G".into())]),
            references: 2,
            created: at(),
        };
        assert_eq!(RwLayers::decode(&RwLayers::encode(&rw)).unwrap(), rw);
        let image = Image { top: None, config: b"{}".into(), created: at() };
        assert_eq!(Images::decode(&Images::encode(&image)).unwrap(), image);
    }

    #[test]
    fn reference_rows_of_one_layer_share_a_prefix_that_no_other_layer_has() {
        let name = GivenName::new("web").unwrap();
        let holders = [
            Holder::User,
            Holder::Image(name.clone()),
            Holder::Rw(name),
            Holder::Child(chain(0)),
            Holder::Import(SnapshotId(7)),
        ];
        for byte in [0, 255] {
            for holder in &holders {
                let row_key = LayerRefs::row_key(&chain(byte), holder);
                assert!(row_key.starts_with(&LayerRefs::prefix(&chain(byte))));
                assert_eq!(
                    LayerRefs::decode_row_key(&row_key).unwrap(),
                    (chain(byte), holder.clone())
                );
            }
        }
        for bad in [&b"short"[..], &[0; 33], &[&[0; 33][..], b"x"].concat()] {
            assert!(LayerRefs::decode_row_key(bad).is_err());
        }
    }
}
