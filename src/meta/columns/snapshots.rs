//! Column family `snapshots`: `namespace \0 key` → [`Snapshot`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Malformed, encode_record, join, namespace, snapshot_key, split, split_version};
use crate::types::{Kind, Labels, Namespace, Snapshot, SnapshotId, SnapshotKey, Usage, VolumeId};

/// The snapshots themselves; every other column that names a snapshot is an index of this one.
pub(in crate::meta) struct Snapshots;

/// [`Snapshot`], version 1.
#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(enumeration = "KindRecord", tag = "2")]
    kind: i32,
    #[prost(string, optional, tag = "3")]
    parent: Option<String>,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
    #[prost(message, required, tag = "5")]
    created: TimeRecord,
    #[prost(message, required, tag = "6")]
    updated: TimeRecord,
    #[prost(message, optional, tag = "7")]
    usage: Option<UsageRecord>,
    #[prost(uint32, tag = "8")]
    volume: u32,
    #[prost(bool, tag = "20")]
    collectable: bool,
}

/// [`Kind`] on disk; 0 is not a kind, so that a missing field is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum KindRecord {
    Unknown = 0,
    Active = 1,
    View = 2,
    Committed = 3,
}

/// Seconds since 1970 (negative before) and the nanoseconds after that second.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct TimeRecord {
    #[prost(sint64, tag = "1")]
    seconds: i64,
    #[prost(uint32, tag = "2")]
    nanoseconds: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct UsageRecord {
    #[prost(uint64, tag = "1")]
    size: u64,
    #[prost(uint64, tag = "2")]
    inodes: u64,
}

impl Snapshots {
    /// The row of a snapshot.
    pub(in crate::meta) fn row_key(ns: &Namespace, key: &SnapshotKey) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), key.as_str().as_bytes()])
    }

    /// What the rows of a namespace start with.
    pub(in crate::meta) fn prefix(ns: &Namespace) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), b""])
    }

    /// Greater than every row of the namespace, and not greater than those of the next one.
    pub(in crate::meta) fn after_namespace(ns: &Namespace) -> Vec<u8> {
        let mut bound = ns.as_str().as_bytes().to_vec();
        bound.push(1);
        bound
    }

    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, SnapshotKey), Malformed> {
        let (ns, key) = split(row_key)?;
        Ok((namespace(ns)?, snapshot_key(key)?))
    }

    pub(in crate::meta) fn encode(snapshot: &Snapshot) -> Vec<u8> {
        let record = SnapshotRecord {
            id: snapshot.id.0,
            kind: KindRecord::from(snapshot.kind).into(),
            parent: snapshot.parent.as_ref().map(|parent| parent.as_str().to_owned()),
            labels: BTreeMap::new(), // behind the rest, so that none is copied
            created: TimeRecord::from(snapshot.created),
            updated: TimeRecord::from(snapshot.updated),
            usage: snapshot
                .usage
                .map(|usage| UsageRecord { size: usage.size, inodes: usage.inodes }),
            volume: snapshot.volume.0,
            collectable: snapshot.collectable,
        };
        let mut bytes = encode_record(1, &record);
        encode_labels(4, &snapshot.labels, &mut bytes);
        bytes
    }

    pub(in crate::meta) fn decode(record: &[u8]) -> Result<Snapshot, Malformed> {
        match split_version(record)? {
            (1, message) => from_v1(prost::Message::decode(message)?),
            (version, _) => Err(Malformed::Version(version)),
        }
    }
}

/// A field of a map, as prost does it, to a message that has been encoded: the order of fields is free.
fn encode_labels(tag: u32, labels: &Labels, message: &mut Vec<u8>) {
    use prost::encoding::{btree_map, string};
    btree_map::encode(
        string::encode,
        string::encoded_len,
        string::encode,
        string::encoded_len,
        tag,
        labels,
        message,
    );
}

fn from_v1(record: SnapshotRecord) -> Result<Snapshot, Malformed> {
    Ok(Snapshot {
        id: SnapshotId(record.id),
        kind: kind(record.kind)?,
        parent: record.parent.map(SnapshotKey::new).transpose()?,
        labels: record.labels,
        created: time(record.created)?,
        updated: time(record.updated)?,
        usage: record.usage.map(|usage| Usage { size: usage.size, inodes: usage.inodes }),
        volume: VolumeId(record.volume),
        collectable: record.collectable,
    })
}

impl From<Kind> for KindRecord {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Active => KindRecord::Active,
            Kind::View => KindRecord::View,
            Kind::Committed => KindRecord::Committed,
        }
    }
}

fn kind(value: i32) -> Result<Kind, Malformed> {
    match KindRecord::try_from(value) {
        Ok(KindRecord::Active) => Ok(Kind::Active),
        Ok(KindRecord::View) => Ok(Kind::View),
        Ok(KindRecord::Committed) => Ok(Kind::Committed),
        Ok(KindRecord::Unknown) | Err(_) => Err(Malformed::Field("kind")),
    }
}

impl From<SystemTime> for TimeRecord {
    fn from(time: SystemTime) -> Self {
        let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => match before.duration() {
                d if d.subsec_nanos() == 0 => (-(d.as_secs() as i64), 0),
                d => (-(d.as_secs() as i64) - 1, 1_000_000_000 - d.subsec_nanos()),
            },
        };
        TimeRecord { seconds, nanoseconds }
    }
}

pub(super) fn time(record: TimeRecord) -> Result<SystemTime, Malformed> {
    if record.nanoseconds >= 1_000_000_000 {
        return Err(Malformed::Field("nanoseconds"));
    }
    let seconds = Duration::from_secs(record.seconds.unsigned_abs());
    let whole = if record.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(record.nanoseconds.into())))
        .ok_or(Malformed::Field("seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        Snapshot {
            id: SnapshotId(u32::MAX),
            kind: Kind::Committed,
            parent: Some(SnapshotKey::new("k8s.io/12/extract-1 sha256:ab").unwrap()),
            labels: BTreeMap::from([("a.b/c".into(), "ü".into()), ("empty".into(), String::new())]),
            created: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            updated: UNIX_EPOCH - Duration::new(3, 1),
            usage: Some(Usage { size: u64::MAX, inodes: 0 }),
            volume: VolumeId(9),
            collectable: true,
        }
    }

    #[test]
    fn a_snapshot_record_decodes_to_what_was_encoded() {
        let mut snapshot = sample();
        for kind in Kind::ALL {
            snapshot.kind = kind;
            assert_eq!(Snapshots::decode(&Snapshots::encode(&snapshot)).unwrap(), snapshot);
        }
        snapshot.parent = None;
        snapshot.usage = None;
        snapshot.labels.clear();
        assert_eq!(Snapshots::decode(&Snapshots::encode(&snapshot)).unwrap(), snapshot);
    }

    #[test]
    fn a_record_without_a_kind_is_malformed() {
        let record = encode_record(1, &SnapshotRecord { id: 1, ..Default::default() });
        assert!(matches!(Snapshots::decode(&record), Err(Malformed::Field("kind"))));
    }

    #[test]
    fn rows_of_a_namespace_lie_between_its_prefix_and_its_bound() {
        let ns = |name: &str| Namespace::new(name).unwrap();
        let key = SnapshotKey::new("\u{1}").unwrap();
        let row = Snapshots::row_key(&ns("a"), &key);
        assert!(Snapshots::prefix(&ns("a")) < row && row < Snapshots::after_namespace(&ns("a")));
        assert!(Snapshots::after_namespace(&ns("a")) < Snapshots::prefix(&ns("a-b")));
        assert_eq!(Snapshots::decode_row_key(&row).unwrap(), (ns("a"), key));
    }
}
