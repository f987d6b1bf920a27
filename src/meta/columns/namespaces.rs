//! Column family `namespaces`: namespace → [`NamespaceRecord`].

use std::collections::BTreeMap;

use super::snapshots::{TimeRecord, time};
use super::{Malformed, encode_record, namespace, split_version};
use crate::types::{Namespace, NamespaceRecord};

/// Namespaces that somebody made or labelled. One that merely holds something has no row.
pub(in crate::meta) struct Namespaces;

/// [`NamespaceRecord`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(message, required, tag = "1")]
    created: TimeRecord,
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
}

impl Namespaces {
    pub(in crate::meta) fn row_key(ns: &Namespace) -> Vec<u8> {
        ns.as_str().as_bytes().to_vec()
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<Namespace, Malformed> {
        namespace(row_key)
    }

    pub(in crate::meta) fn encode(record: &NamespaceRecord) -> Vec<u8> {
        let created = TimeRecord::from(record.created);
        encode_record(1, &Record { created, labels: record.labels.clone() })
    }

    pub(in crate::meta) fn decode(record: &[u8]) -> Result<NamespaceRecord, Malformed> {
        match split_version(record)? {
            (1, message) => {
                let record: Record = prost::Message::decode(message)?;
                Ok(NamespaceRecord { created: time(record.created)?, labels: record.labels })
            }
            (version, _) => Err(Malformed::Version(version)),
        }
    }
}
