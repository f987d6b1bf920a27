//! Column family `system`: facts about the store itself.

use super::{Malformed, encode_record, split_version};
use crate::types::{FaultyId, Pool, Template, Witness};

/// `schema`, `snapshot_ids`, `pool` and `keeping`, one row each.
pub(in crate::meta) struct System;

/// The schema version. Its row key and this message never change: every program, old or new, must
/// be able to read it.
#[derive(Clone, PartialEq, prost::Message)]
struct SchemaRecord {
    #[prost(uint32, tag = "1")]
    version: u32,
}

/// Snapshot ids below `reserved_end` may have been handed out.
#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotIdsRecord {
    #[prost(uint64, tag = "1")]
    reserved_end: u64,
}

/// [`Pool`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct PoolRecord {
    #[prost(uint64, tag = "1")]
    transaction_id: u64,
    #[prost(uint32, tag = "2")]
    reserved_end: u32,
    #[prost(message, repeated, tag = "3")]
    templates: Vec<TemplateRecord>,
    /// Written by early versions only: faulty ids without a reason.
    #[prost(uint32, repeated, tag = "4")]
    bare_faulty: Vec<u32>,
    #[prost(message, repeated, tag = "40")]
    faulty: Vec<FaultyRecord>,
    #[prost(bool, tag = "41")]
    settled: bool,
    #[prost(bool, tag = "42")]
    adopting: bool,
    #[prost(uint32, repeated, tag = "43")]
    ballast: Vec<u32>,
    #[prost(message, optional, tag = "44")]
    witness: Option<WitnessRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WitnessRecord {
    #[prost(uint32, tag = "1")]
    thin_id: u32,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(uint64, tag = "3")]
    run: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FaultyRecord {
    #[prost(uint32, tag = "1")]
    thin_id: u32,
    #[prost(string, tag = "2")]
    why: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TemplateRecord {
    #[prost(uint32, tag = "1")]
    thin_id: u32,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(string, tag = "3")]
    fingerprint: String,
}

/// Why volumes that nobody names are kept.
#[derive(Clone, PartialEq, prost::Message)]
struct KeepingRecord {
    #[prost(string, tag = "1")]
    reason: String,
}

impl System {
    pub(in crate::meta) const SCHEMA: &'static [u8] = b"schema";
    pub(in crate::meta) const SNAPSHOT_IDS: &'static [u8] = b"snapshot_ids";
    pub(in crate::meta) const POOL: &'static [u8] = b"pool";
    pub(in crate::meta) const KEEPING: &'static [u8] = b"keeping";

    pub(in crate::meta) fn encode_schema(version: u32) -> Vec<u8> {
        encode_record(1, &SchemaRecord { version })
    }

    pub(in crate::meta) fn decode_schema(record: &[u8]) -> Result<u32, Malformed> {
        Ok(v1::<SchemaRecord>(record)?.version)
    }

    pub(in crate::meta) fn encode_snapshot_ids(reserved_end: u64) -> Vec<u8> {
        encode_record(1, &SnapshotIdsRecord { reserved_end })
    }

    pub(in crate::meta) fn decode_snapshot_ids(record: &[u8]) -> Result<u64, Malformed> {
        Ok(v1::<SnapshotIdsRecord>(record)?.reserved_end)
    }

    pub(in crate::meta) fn encode_keeping(reason: &str) -> Vec<u8> {
        encode_record(1, &KeepingRecord { reason: reason.to_owned() })
    }

    pub(in crate::meta) fn decode_keeping(record: &[u8]) -> Result<String, Malformed> {
        Ok(v1::<KeepingRecord>(record)?.reason)
    }

    pub(in crate::meta) fn encode_pool(pool: &Pool) -> Vec<u8> {
        let templates = pool
            .templates
            .iter()
            .map(|t| TemplateRecord {
                thin_id: t.thin_id,
                size: t.size,
                fingerprint: t.fingerprint.clone(),
            })
            .collect();
        let record = PoolRecord {
            transaction_id: pool.transaction_id,
            reserved_end: pool.reserved_end,
            templates,
            bare_faulty: Vec::new(),
            faulty: pool
                .faulty
                .iter()
                .map(|f| FaultyRecord { thin_id: f.thin_id, why: f.why.clone() })
                .collect(),
            settled: pool.settled,
            adopting: pool.adopting,
            ballast: pool.ballast.clone(),
            witness: pool.witness.as_ref().map(|w| WitnessRecord {
                thin_id: w.thin_id,
                token: w.token.clone(),
                run: w.run,
            }),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode_pool(record: &[u8]) -> Result<Pool, Malformed> {
        let record = v1::<PoolRecord>(record)?;
        let templates = record
            .templates
            .into_iter()
            .map(|t| Template { thin_id: t.thin_id, size: t.size, fingerprint: t.fingerprint })
            .collect();
        Ok(Pool {
            transaction_id: record.transaction_id,
            reserved_end: record.reserved_end,
            templates,
            faulty: faulty(record.bare_faulty, record.faulty),
            settled: record.settled,
            adopting: record.adopting,
            ballast: record.ballast,
            witness: record.witness.map(|w| Witness {
                thin_id: w.thin_id,
                token: w.token,
                run: w.run,
            }),
        })
    }
}

fn faulty(bare: Vec<u32>, records: Vec<FaultyRecord>) -> Vec<FaultyId> {
    let why = "set aside by an early version, which gave no reason";
    let bare = bare.into_iter().map(|thin_id| FaultyId { thin_id, why: why.to_owned() });
    let records = records.into_iter().map(|f| FaultyId { thin_id: f.thin_id, why: f.why });
    bare.chain(records).collect()
}

/// Decodes a record of which there is only version 1.
fn v1<M: prost::Message + Default>(record: &[u8]) -> Result<M, Malformed> {
    match split_version(record)? {
        (1, message) => Ok(M::decode(message)?),
        (version, _) => Err(Malformed::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_record_decodes_to_what_was_encoded() {
        let pool = Pool {
            transaction_id: u64::MAX,
            reserved_end: 16_777_215,
            templates: vec![Template {
                thin_id: 3,
                size: 10 << 30,
                fingerprint: "ext4 -m 0".into(),
            }],
            faulty: vec![FaultyId { thin_id: 7, why: "taken".into() }],
            settled: true,
            adopting: true,
            ballast: vec![8, 9],
            witness: Some(Witness { thin_id: 10, token: "token".into(), run: 3 }),
        };
        assert_eq!(System::decode_pool(&System::encode_pool(&pool)).unwrap(), pool);
    }

    #[test]
    fn faulty_ids_of_an_early_version_are_kept() {
        let early = PoolRecord { bare_faulty: vec![7, 9], ..PoolRecord::default() };
        let pool = System::decode_pool(&encode_record(1, &early)).unwrap();
        assert_eq!(pool.faulty.iter().map(|f| f.thin_id).collect::<Vec<_>>(), [7, 9]);
        assert!(!pool.settled, "its pool may be one transaction behind");
    }

    #[test]
    fn a_record_of_an_unknown_version_is_refused() {
        let mut record = System::encode_schema(1);
        record[0] = 2;
        assert!(matches!(System::decode_schema(&record), Err(Malformed::Version(2))));
        assert!(matches!(System::decode_schema(&[]), Err(Malformed::Empty)));
    }
}
