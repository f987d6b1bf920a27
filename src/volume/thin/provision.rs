//! Records and the pool together: everything about thin ids that needs no active device.
//!
//! The simulated pool of the crash tests runs this code, too: see `tests/histories.rs`.

use std::collections::BTreeSet;

use super::error::pool_error;
use super::ledger::Book;
use super::reconcile::{self, Findings, thin_id};
use super::{odd, room};
use crate::thin::ThinId;
use crate::thin::pool::{self, Pool};
use crate::thin::status::PoolMode;
use crate::types::{Backing, Template, Volume, VolumeId, VolumeState};
use crate::volume::{Error, Reconciled, Result};

/// Free data blocks that only volumes that exist may use: a 128th, within these bounds. What is
/// prepared could not be written.
const DATA_RESERVE: (u64, u64) = (1, 4096);
/// How many ids that turn out to be taken are tried before something else must be wrong.
const CREATE_TRIES: usize = 16;

/// A volume that is to start from an origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) id: VolumeId,
    pub(super) origin: &'a Volume,
    /// The origin's.
    pub(super) base: ThinId,
    pub(super) size: u64,
}

/// The pool, its record, and who lists what the pool has.
#[derive(Clone, Copy)]
pub(super) struct Provision<'a> {
    pub(super) pool: &'a Pool,
    pub(super) book: &'a Book,
    /// The ids of all thin devices in the pool.
    pub(super) existing: &'a dyn Fn() -> Result<Vec<ThinId>>,
}

impl Provision<'_> {
    /// A volume with the blocks of `base`: one message to the pool. Durable but unnamed when it
    /// returns.
    pub(super) fn create(
        self,
        id: VolumeId,
        origin: Option<&Volume>,
        base: ThinId,
        size: u64,
    ) -> Result<Volume> {
        let thin = match (self.create_with(|thin| self.pool.create_snap(thin, base))?, origin) {
            (Some(thin), _) => thin,
            (None, Some(origin)) => return Err(Error::Missing(origin.id)),
            (None, None) => {
                return Err(odd(
                    "making an empty volume",
                    format!("the template {base} is gone from the pool"),
                ));
            }
        };
        Ok(volume(id, origin, thin, size))
    }

    /// [`create`](Self::create) for several, whose messages follow one another with one look at the status for all.
    pub(super) fn create_together(self, wanted: &[Wanted<'_>]) -> Vec<Result<Volume>> {
        let next = |_| self.book.next(self.pool, self.existing);
        let ids: Vec<_> = wanted.iter().map(next).collect();
        let pair =
            |(id, wanted): (&Result<ThinId>, &Wanted<'_>)| Some((*id.as_ref().ok()?, wanted.base));
        let pairs: Vec<_> = ids.iter().zip(wanted).filter_map(pair).collect();
        let mut sent = self.pool.create_snaps(&pairs).into_iter();
        let outcome = |(id, wanted): (Result<ThinId>, &Wanted<'_>)| {
            let thin = id?;
            self.outcome(thin, *wanted, sent.next().expect("each pair has an outcome"))
        };
        ids.into_iter().zip(wanted).map(outcome).collect()
    }

    fn outcome(self, thin: ThinId, wanted: Wanted<'_>, sent: pool::Result<()>) -> Result<Volume> {
        let Wanted { id, origin, base, size } = wanted;
        match sent {
            Ok(()) => Ok(volume(id, Some(origin), thin, size)),
            Err(e) if e.missing() => Err(Error::Missing(origin.id)),
            Err(e) if e.already_exists() => {
                self.set_aside(thin)?;
                self.create(id, Some(origin), base, size)
            }
            Err(e) => Err(pool_error(format!("making thin device {thin}"), e)),
        }
    }

    /// Takes an id and makes a thin device of it; `None` if what it should start from is missing.
    /// An id that the pool has already, although no record says so, is faulty: noted, and never
    /// used again.
    pub(super) fn create_with(
        self,
        make: impl Fn(ThinId) -> pool::Result<()>,
    ) -> Result<Option<ThinId>> {
        for _ in 0..CREATE_TRIES {
            let thin = self.book.next(self.pool, self.existing)?;
            match make(thin) {
                Ok(()) => return Ok(Some(thin)),
                Err(e) if e.missing() => return Ok(None),
                Err(e) if e.already_exists() => self.set_aside(thin)?,
                Err(e) => return Err(pool_error(format!("making thin device {thin}"), e)),
            }
        }
        Err(odd("making a thin device", format!("{CREATE_TRIES} ids in a row were taken already")))
    }

    /// The pool has it already.
    fn set_aside(self, thin: ThinId) -> Result<()> {
        tracing::warn!(%thin, "the pool has a thin device that no record names; its id is not used again");
        let why = "the pool had a thin device of this id that no record named";
        self.book.set_aside([(thin, why.to_owned())])
    }

    /// Refuses before the pool gets full: full metadata would end in a pool that does nothing.
    pub(super) fn check_room(self) -> Result<()> {
        let status =
            self.pool.check_healthy().map_err(|e| pool_error("looking for room in the pool", e))?;
        let name = self.pool.name();
        let reserve = room::creation_reserve(status.metadata);
        if status.metadata.free() <= reserve {
            return Err(Error::NoSpace(format!(
                "the metadata of the pool {name} is full but for a reserve of {reserve} blocks; remove snapshots or grow it"
            )));
        }
        let reserve = (status.data.total / 128).clamp(DATA_RESERVE.0, DATA_RESERVE.1);
        if status.data.free() <= reserve || status.mode == PoolMode::OutOfDataSpace {
            return Err(Error::NoSpace(format!(
                "the pool {name} is full but for a reserve of {reserve} data blocks for the snapshots that there are; \
                 remove snapshots or grow it"
            )));
        }
        Ok(())
    }

    /// What the records name against what the pool has.
    pub(super) fn compare(self, known: &[Volume]) -> Result<Findings> {
        let existing: BTreeSet<_> = (self.existing)()?.into_iter().collect();
        reconcile::compare(known, &self.book.record(), &existing)
    }

    /// At a start, before anything else:
    ///
    /// 1. a pool that somebody else uses, too, is refused, and nothing is changed;
    /// 2. what no record names is deleted, or counted and kept; after a forced adoption it is set
    ///    aside instead;
    /// 3. templates, ballast and the data device's witness are forgotten where they are gone.
    ///
    /// After a crash in here the next start does the rest.
    pub(super) fn reconcile(self, known: &[Volume], keep: bool) -> Result<Reconciled> {
        let mut findings = self.compare(known)?;
        if self.book.sets_aside(!findings.foreign.is_empty()) {
            self.set_strangers_aside(&mut findings)?;
        }
        findings.refuse_foreign(self.pool.name())?;
        for volume in known {
            self.book.keep_out(thin_id(volume)?);
        }
        let unnamed = &findings.unnamed;
        let (reaped, kept) = match keep {
            true => (0, unnamed.len()),
            false => (unnamed.iter().filter(|thin| self.delete_unnamed(**thin)).count(), 0),
        };
        if !findings.lost_templates.is_empty() {
            tracing::warn!(templates = ?findings.lost_templates, "templates are gone from the pool; they are made again when needed");
            let gone =
                |t: &Template| findings.lost_templates.iter().any(|thin| thin.get() == t.thin_id);
            self.book.change(|record| record.templates.retain(|t| !gone(t)))?;
        }
        if !findings.lost_ballast.is_empty() {
            let spent = &findings.lost_ballast;
            self.book.change(|record| record.ballast.retain(|id| !spent.contains(id)))?;
        }
        if findings.lost_witness.is_some() {
            tracing::warn!(
                "the witness of the pool's data device is gone; it is made again with the next volume"
            );
            self.book.change(|record| record.witness = None)?;
        }
        let lost = findings.lost.into_iter().map(|(volume, _)| volume).collect();
        Ok(Reconciled { lost, reaped, kept })
    }

    fn delete_unnamed(self, thin: ThinId) -> bool {
        match self.pool.delete(thin) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%thin, %error, "a thin device that belongs to no volume could not be deleted");
                false
            }
        }
    }

    /// After a forced adoption nobody knows whose they are.
    fn set_strangers_aside(self, findings: &mut Findings) -> Result<()> {
        let unnamed = std::mem::take(&mut findings.unnamed);
        let strangers = unnamed.into_iter().chain(std::mem::take(&mut findings.foreign));
        let why = "found in the pool when it was adopted by force; no volume names it";
        let strangers: Vec<_> = strangers.map(|thin| (thin, why.to_owned())).collect();
        for (thin, _) in &strangers {
            tracing::warn!(%thin, "adopted by force: a thin device that no volume names is set aside");
        }
        self.book.adopted(strangers)
    }
}

fn volume(id: VolumeId, origin: Option<&Volume>, thin: ThinId, size: u64) -> Volume {
    let (origin, backing) = (origin.map(|origin| origin.id), Backing::Thin { thin_id: thin.get() });
    Volume { id, state: VolumeState::Live, origin, size, backing }
}

/// What a `delete` came to. A thin device that is gone already is deleted.
pub(super) fn deleted(volume: VolumeId, deleted: pool::Result<()>) -> Result<()> {
    match deleted {
        Err(e) if e.missing() => Ok(()),
        Err(e) if e.busy() => {
            Err(Error::Busy(volume, "its thin device is active elsewhere".to_owned()))
        }
        other => other.map_err(|e| pool_error(format!("deleting volume {volume}"), e)),
    }
}
