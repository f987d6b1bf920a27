//! Records against the thin ids that the pool really has, both ways.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Refusal, refused};
use crate::thin::ThinId;
use crate::types::{self, Backing, Volume, VolumeId, VolumeState};
use crate::volume::Result;

/// Ids that an error message lists.
const LISTED: usize = 10;

/// What the comparison found. Pure: nothing has been changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Live volumes whose thin device is gone.
    pub(super) lost: Vec<(VolumeId, ThinId)>,
    /// Thin devices of reserved ranges that nobody names, those set aside left out.
    pub(super) unnamed: Vec<ThinId>,
    /// Thin devices that this root cannot have made.
    pub(super) foreign: Vec<ThinId>,
    /// Templates whose thin device is gone.
    pub(super) lost_templates: Vec<ThinId>,
    /// Ballast whose thin device is gone: it was spent just before a crash.
    pub(super) lost_ballast: Vec<u32>,
    /// The thin device with the witness of the data device is gone.
    pub(super) lost_witness: Option<u32>,
}

/// The thin id of a volume's record; a record of the native backend is refused.
pub(super) fn thin_id(volume: &Volume) -> Result<ThinId> {
    match volume.backing {
        Backing::Native => refused(Refusal::NativeVolume(volume.id)),
        Backing::Thin { thin_id } => match ThinId::new(thin_id) {
            Some(thin) => Ok(thin),
            None => Err(crate::volume::Error::Missing(volume.id)),
        },
    }
}

/// Compares what the records name with what the pool has.
pub(super) fn compare(
    known: &[Volume],
    record: &types::Pool,
    existing: &BTreeSet<ThinId>,
) -> Result<Findings> {
    let mut named = BTreeMap::new();
    for volume in known {
        named.insert(thin_id(volume)?, volume);
    }
    let templates: BTreeSet<_> =
        record.templates.iter().filter_map(|t| ThinId::new(t.thin_id)).collect();
    let ballast: BTreeSet<_> = record.ballast.iter().copied().collect();
    let witness = record.witness.as_ref().map(|witness| witness.thin_id);
    let set_aside: BTreeSet<_> = record.faulty.iter().map(|faulty| faulty.thin_id).collect();
    let mut findings = Findings::default();
    for &thin in existing {
        if set_aside.contains(&thin.get()) && !named.contains_key(&thin) {
            continue;
        }
        if thin.get() >= record.reserved_end {
            findings.foreign.push(thin);
        } else if !named.contains_key(&thin)
            && !templates.contains(&thin)
            && !ballast.contains(&thin.get())
            && witness != Some(thin.get())
        {
            findings.unnamed.push(thin);
        }
    }
    let gone = |thin: &ThinId| !existing.contains(thin);
    findings.lost_templates = templates.into_iter().filter(gone).collect();
    let spent = |&id: &u32| ThinId::new(id).is_none_or(|thin| gone(&thin));
    findings.lost_ballast = ballast.into_iter().filter(spent).collect();
    findings.lost_witness = witness.filter(spent);
    findings.lost = named
        .into_iter()
        .filter(|(thin, volume)| gone(thin) && volume.state == VolumeState::Live)
        .map(|(thin, volume)| (volume.id, thin))
        .collect();
    Ok(findings)
}

impl Findings {
    /// Refuses a pool that somebody else uses, too.
    pub(super) fn refuse_foreign(&self, pool: &str) -> Result<()> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        let ids = self.foreign.iter().take(LISTED).map(|thin| thin.get()).collect();
        refused(Refusal::Foreign { pool: pool.to_owned(), ids })
    }

    /// One line for each disagreement.
    pub(super) fn lines(&self) -> Vec<String> {
        let lost = self.lost.iter().map(|(volume, thin)| {
            format!("volume {volume} is lost: the pool has no thin device {thin}")
        });
        let unnamed =
            self.unnamed.iter().map(|thin| format!("thin device {thin} belongs to no volume"));
        let foreign =
            self.foreign.iter().map(|thin| format!("thin device {thin} was not made by thinfs"));
        let templates = self.lost_templates.iter().map(|thin| {
            format!("the template on thin device {thin} is gone; it is made again when needed")
        });
        lost.chain(unnamed).chain(foreign).chain(templates).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Template;

    fn thin(id: u32) -> ThinId {
        ThinId::new(id).unwrap()
    }

    fn volume(id: u32, thin_id: u32, state: VolumeState) -> Volume {
        Volume {
            id: VolumeId(id),
            state,
            origin: None,
            size: 1,
            backing: Backing::Thin { thin_id },
        }
    }

    fn record(reserved_end: u32, templates: &[u32]) -> types::Pool {
        let template = |&thin_id: &u32| Template { thin_id, size: 1, fingerprint: String::new() };
        types::Pool {
            reserved_end,
            templates: templates.iter().map(template).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn both_directions_are_compared_and_tombstones_and_templates_are_named() {
        use VolumeState::{Live, Lost, Tombstone};
        let known = [
            volume(1, 0, Live),
            volume(2, 1, Live),
            volume(3, 2, Tombstone),
            volume(4, 3, Tombstone),
            volume(5, 4, Lost),
        ];
        let existing = [0, 2, 10, 11, 12, 14].map(thin).into();
        let witness = types::Witness { thin_id: 16, token: String::new(), run: 1 };
        let record = types::Pool {
            ballast: vec![14, 15],
            witness: Some(witness),
            ..record(1024, &[10, 13])
        };
        let findings = compare(&known, &record, &existing).unwrap();
        let expected = Findings {
            lost: vec![(VolumeId(2), thin(1))],
            unnamed: vec![thin(11), thin(12)],
            foreign: vec![],
            lost_templates: vec![thin(13)],
            lost_ballast: vec![15],
            lost_witness: Some(16),
        };
        assert_eq!(findings, expected);
        assert_eq!(findings.lines().len(), 4);
    }

    #[test]
    fn what_is_set_aside_is_neither_garbage_nor_foreign() {
        let faulty = |&thin_id: &u32| types::FaultyId { thin_id, why: String::new() };
        let record =
            types::Pool { faulty: [3, 2000].iter().map(faulty).collect(), ..record(1024, &[]) };
        let existing = [3, 4, 2000].map(thin).into();
        let findings = compare(&[], &record, &existing).unwrap();
        assert_eq!((findings.unnamed, findings.foreign), (vec![thin(4)], vec![]));
    }

    #[test]
    fn an_id_beyond_the_reserved_ranges_is_foreign() {
        let findings =
            compare(&[], &record(1024, &[]), &[1023, 1024, 5000].map(thin).into()).unwrap();
        assert_eq!(
            (findings.unnamed.clone(), findings.foreign.clone()),
            (vec![thin(1023)], vec![thin(1024), thin(5000)])
        );
        assert!(findings.refuse_foreign("p").is_err());
    }

    #[test]
    fn a_record_of_the_native_backend_is_refused() {
        let native = Volume { backing: Backing::Native, ..volume(1, 0, VolumeState::Live) };
        assert!(compare(&[native], &record(0, &[]), &BTreeSet::new()).is_err());
    }
}
