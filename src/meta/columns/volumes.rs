//! Column family `volumes`: volume id (u32, big-endian) → [`Volume`].

use super::{Malformed, encode_record, number, split_version};
use crate::types::{Backing, Volume, VolumeId, VolumeState};

/// Live, lost and removed volumes; a removed one stays as a tombstone until the reaper has
/// destroyed it.
pub(in crate::meta) struct Volumes;

/// [`Volume`], version 1; the id is the row's key.
#[derive(Clone, PartialEq, prost::Message)]
struct VolumeRecord {
    #[prost(enumeration = "StateRecord", tag = "1")]
    state: i32,
    #[prost(uint32, optional, tag = "2")]
    origin: Option<u32>,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(oneof = "BackingRecord", tags = "4, 5")]
    backing: Option<BackingRecord>,
}

/// [`VolumeState`] on disk; 0 is not a state, so that a missing field is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum StateRecord {
    Unknown = 0,
    Live = 1,
    Tombstone = 2,
    Lost = 3,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
enum BackingRecord {
    #[prost(message, tag = "4")]
    Native(NativeRecord),
    #[prost(message, tag = "5")]
    Thin(ThinRecord),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NativeRecord {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ThinRecord {
    #[prost(uint32, tag = "1")]
    thin_id: u32,
}

impl Volumes {
    pub(in crate::meta) fn row_key(id: VolumeId) -> [u8; 4] {
        id.0.to_be_bytes()
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<VolumeId, Malformed> {
        number(row_key).map(VolumeId)
    }

    pub(in crate::meta) fn encode(volume: &Volume) -> Vec<u8> {
        let state = match volume.state {
            VolumeState::Live => StateRecord::Live,
            VolumeState::Tombstone => StateRecord::Tombstone,
            VolumeState::Lost => StateRecord::Lost,
        };
        let backing = match volume.backing {
            Backing::Native => BackingRecord::Native(NativeRecord {}),
            Backing::Thin { thin_id } => BackingRecord::Thin(ThinRecord { thin_id }),
        };
        let record = VolumeRecord {
            state: state.into(),
            origin: volume.origin.map(|origin| origin.0),
            size: volume.size,
            backing: Some(backing),
        };
        encode_record(1, &record)
    }

    pub(in crate::meta) fn decode(id: VolumeId, record: &[u8]) -> Result<Volume, Malformed> {
        match split_version(record)? {
            (1, message) => from_v1(id, prost::Message::decode(message)?),
            (version, _) => Err(Malformed::Version(version)),
        }
    }
}

fn from_v1(id: VolumeId, record: VolumeRecord) -> Result<Volume, Malformed> {
    let state = match StateRecord::try_from(record.state) {
        Ok(StateRecord::Live) => VolumeState::Live,
        Ok(StateRecord::Tombstone) => VolumeState::Tombstone,
        Ok(StateRecord::Lost) => VolumeState::Lost,
        Ok(StateRecord::Unknown) | Err(_) => return Err(Malformed::Field("state")),
    };
    let backing = match record.backing {
        Some(BackingRecord::Native(NativeRecord {})) => Backing::Native,
        Some(BackingRecord::Thin(ThinRecord { thin_id })) => Backing::Thin { thin_id },
        None => return Err(Malformed::Field("backing")),
    };
    Ok(Volume { id, state, origin: record.origin.map(VolumeId), size: record.size, backing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_record_decodes_to_what_was_encoded() {
        for state in [VolumeState::Live, VolumeState::Tombstone, VolumeState::Lost] {
            for backing in [
                Backing::Native,
                Backing::Thin { thin_id: 0 },
                Backing::Thin { thin_id: 16_777_215 },
            ] {
                for origin in [None, Some(VolumeId(0)), Some(VolumeId(8))] {
                    let volume = Volume { id: VolumeId(4), state, origin, size: 1 << 40, backing };
                    assert_eq!(
                        Volumes::decode(volume.id, &Volumes::encode(&volume)).unwrap(),
                        volume
                    );
                }
            }
        }
    }
}
