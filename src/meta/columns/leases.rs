//! Column families `leases`, `lease_resources` and `holders`.

use std::collections::BTreeMap;

use super::snapshots::{TimeRecord, time};
use super::{Malformed, encode_record, join, namespace, split, split_version, text};
use crate::types::{Lease, LeaseId, Leased, Namespace};

/// `namespace \0 lease` → [`Lease`].
pub(in crate::meta) struct Leases;

/// `namespace \0 lease \0 kind \0 id` → nothing. An id holds no NUL.
pub(in crate::meta) struct LeaseResources;

/// `namespace \0 kind \0 id \0 lease` → nothing: index of [`LeaseResources`].
pub(in crate::meta) struct Holders;

/// [`Lease`], version 1; the id is in the row's key.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseRecord {
    #[prost(message, required, tag = "1")]
    created: TimeRecord,
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
}

impl Leases {
    pub(in crate::meta) fn row_key(ns: &Namespace, lease: &LeaseId) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), lease.as_str().as_bytes()])
    }

    /// What the rows of a namespace start with.
    pub(in crate::meta) fn prefix(ns: &Namespace) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), b""])
    }

    /// Greater than every row of the namespace, and not greater than those of the next one.
    pub(in crate::meta) fn after_namespace(ns: &Namespace) -> Vec<u8> {
        super::Snapshots::after_namespace(ns)
    }

    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, LeaseId), Malformed> {
        let (ns, lease) = split(row_key)?;
        Ok((namespace(ns)?, LeaseId::new(text(lease)?)?))
    }

    pub(in crate::meta) fn encode(lease: &Lease) -> Vec<u8> {
        let created = TimeRecord::from(lease.created);
        encode_record(1, &LeaseRecord { created, labels: lease.labels.clone() })
    }

    pub(in crate::meta) fn decode(id: LeaseId, record: &[u8]) -> Result<Lease, Malformed> {
        match split_version(record)? {
            (1, message) => {
                let record: LeaseRecord = prost::Message::decode(message)?;
                Ok(Lease { id, created: time(record.created)?, labels: record.labels })
            }
            (version, _) => Err(Malformed::Version(version)),
        }
    }
}

impl LeaseResources {
    pub(in crate::meta) fn row_key(ns: &Namespace, lease: &LeaseId, what: &Leased) -> Vec<u8> {
        let words = [ns.as_str(), lease.as_str(), &what.kind, &what.id];
        join(&words.map(str::as_bytes))
    }

    /// What the rows of a lease start with.
    pub(in crate::meta) fn prefix(ns: &Namespace, lease: &LeaseId) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), lease.as_str().as_bytes(), b""])
    }

    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, LeaseId, Leased), Malformed> {
        let (ns, rest) = split(row_key)?;
        let (lease, rest) = split(rest)?;
        let (kind, id) = split(rest)?;
        let what = Leased { kind: text(kind)?.to_owned(), id: text(id)?.to_owned() };
        Ok((namespace(ns)?, LeaseId::new(text(lease)?)?, what))
    }
}

impl Holders {
    pub(in crate::meta) fn row_key(ns: &Namespace, lease: &LeaseId, what: &Leased) -> Vec<u8> {
        let words = [ns.as_str(), &what.kind, &what.id, lease.as_str()];
        join(&words.map(str::as_bytes))
    }

    /// What the rows of one resource start with.
    pub(in crate::meta) fn prefix(ns: &Namespace, what: &Leased) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), what.kind.as_bytes(), what.id.as_bytes(), b""])
    }

    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, LeaseId, Leased), Malformed> {
        let (ns, rest) = split(row_key)?;
        let (kind, rest) = split(rest)?;
        let (id, lease) = split(rest)?;
        let what = Leased { kind: text(kind)?.to_owned(), id: text(id)?.to_owned() };
        Ok((namespace(ns)?, LeaseId::new(text(lease)?)?, what))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_lease_and_its_rows_decode_to_what_was_encoded() {
        let (ns, id) = (Namespace::new("a-b").unwrap(), LeaseId::new("l:1").unwrap());
        let labels = BTreeMap::from([("k".into(), "v".into())]);
        let created = UNIX_EPOCH + Duration::new(7, 8);
        let lease = Lease { id: id.clone(), created, labels };
        assert_eq!(Leases::decode(id.clone(), &Leases::encode(&lease)).unwrap(), lease);
        let row = Leases::row_key(&ns, &id);
        assert_eq!(Leases::decode_row_key(&row).unwrap(), (ns.clone(), id.clone()));
        let what = Leased { kind: "snapshot".into(), id: "k8s.io/1/a b".into() };
        let expected = (ns.clone(), id.clone(), what.clone());
        let row = LeaseResources::row_key(&ns, &id, &what);
        assert!(row.starts_with(&LeaseResources::prefix(&ns, &id)));
        assert_eq!(LeaseResources::decode_row_key(&row).unwrap(), expected);
        let row = Holders::row_key(&ns, &id, &what);
        assert!(row.starts_with(&Holders::prefix(&ns, &what)));
        assert_eq!(Holders::decode_row_key(&row).unwrap(), expected);
    }
}
