//! Column family `events`: sequence number (u64, big-endian) → [`Event`].

use std::collections::BTreeMap;

use super::snapshots::{TimeRecord, time};
use super::{Malformed, encode_record, split_version};
use crate::types::{Event, Namespace, Published, Topic};

/// What happened, in order; the oldest are dropped once there are too many.
pub(in crate::meta) struct Events;

/// [`Event`], version 1; the sequence number is the row's key.
#[derive(Clone, PartialEq, prost::Message)]
struct EventRecord {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(string, optional, tag = "2")]
    namespace: Option<String>,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(btree_map = "string, string", tag = "4")]
    details: BTreeMap<String, String>,
    #[prost(message, required, tag = "5")]
    at: TimeRecord,
}

impl Events {
    pub(in crate::meta) fn row_key(sequence: u64) -> [u8; 8] {
        sequence.to_be_bytes()
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<u64, Malformed> {
        let bytes = row_key.try_into().map_err(|_| Malformed::RowKey(row_key.to_vec()))?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(in crate::meta) fn encode(event: Event) -> Vec<u8> {
        let record = EventRecord {
            topic: event.topic.as_str().to_owned(),
            namespace: event.namespace.as_ref().map(|ns| ns.as_str().to_owned()),
            key: event.key,
            details: event.details,
            at: TimeRecord::from(event.at),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode(row_key: &[u8], record: &[u8]) -> Result<Published, Malformed> {
        let record: EventRecord = match split_version(record)? {
            (1, message) => prost::Message::decode(message)?,
            (version, _) => return Err(Malformed::Version(version)),
        };
        let event = Event {
            topic: Topic::from_text(record.topic),
            namespace: record.namespace.map(Namespace::new).transpose()?,
            key: record.key,
            details: record.details,
            at: time(record.at)?,
        };
        Ok(Published { sequence: Self::decode_row_key(row_key)?, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_record_decodes_to_what_was_encoded() {
        let ns = Namespace::new("k8s.io").unwrap();
        let event = Event::about(Topic::SNAPSHOT_COMMIT, &ns, "a/b ü").with("name", "top");
        for event in [event, Event::new(Topic::from_text("/of/a/newer/thinfs".into()))] {
            let read = Events::decode(&Events::row_key(7), &Events::encode(event.clone())).unwrap();
            assert_eq!(read, Published { sequence: 7, event });
        }
    }
}
