//! Prepares that come at the same time, as one piece of work.
//!
//! What each would do by itself is done once for all: a look for room in the pool, a look at what became of the messages
//! to it, one synced batch, and whatever it costs to change from one thread to another. A wish that would have to wait
//! for somebody's key is left out, so that it keeps nobody waiting.

use super::create::Request;
use super::error::Result;
use super::locks::Held;
use super::references::{Noted, named};
use super::{Info, Snapshots};
use crate::types::{Kind, Labels, Namespace, SnapshotId, SnapshotKey, Volume, VolumeId};
use crate::volume::{self, NewVolume};

/// What [`Snapshots::prepare`] is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The new snapshot's key.
    pub key: SnapshotKey,
    /// What it starts from.
    pub parent: Option<SnapshotKey>,
    /// Its labels.
    pub labels: Labels,
}

/// A wish that can be granted, with all that is held for it.
struct Ready<'a> {
    request: Request<'a>,
    origin: Volume,
    id: SnapshotId,
    _held: Held<'a>,
    _noted: Noted<'a>,
}

impl Ready<'_> {
    fn volume(&self) -> NewVolume<'_> {
        NewVolume { id: VolumeId::of(self.id), origin: &self.origin, size: self.request.size() }
    }
}

impl Snapshots {
    /// Whether [`prepare_together`](Self::prepare_together) is less work than one [`prepare`](Self::prepare) for each,
    /// and quick enough for others to wait for it.
    pub fn prepares_together(&self) -> bool {
        self.volumes.backend().creates_together()
    }

    /// Prepares several snapshots, each as [`prepare`](Self::prepare) does: what becomes of one is nothing to the others,
    /// after a crash either. One outcome for each wish, in their order. `None`: nothing was done for this one, for it
    /// would have to wait (somebody works on its key or its parent, or it has no parent and the filesystem that it
    /// starts with may have to be made): it is to be prepared by itself.
    ///
    /// 1. keys are held, and rules checked, for each; 2. volumes are made, durably; 3. one batch names them.
    pub fn prepare_together(&self, ns: &Namespace, wishes: &[Wish]) -> Vec<Option<Result<Info>>> {
        let outcomes = self.prepare_all(ns, wishes);
        for info in outcomes.iter().flatten().flatten() {
            self.prepared(info);
        }
        outcomes
    }

    fn prepare_all(&self, ns: &Namespace, wishes: &[Wish]) -> Vec<Option<Result<Info>>> {
        let Ok(_running) = self.running() else { return wishes.iter().map(|_| None).collect() };
        let (mut outcomes, mut ready, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, wish) in wishes.iter().enumerate() {
            outcomes.push(match self.begin(ns, wish) {
                Ok(Some(granted)) => {
                    ready.push(granted);
                    places.push(place);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            });
        }
        for (place, outcome) in places.into_iter().zip(self.grant(ready)) {
            outcomes[place] = Some(outcome);
        }
        outcomes
    }

    /// Step 1 for one wish; never waits.
    fn begin<'a>(&'a self, ns: &'a Namespace, wish: &'a Wish) -> Result<Option<Ready<'a>>> {
        Self::refuse_layers(ns)?;
        let Wish { key, parent, labels } = wish;
        let kind = Kind::Active;
        let request = Request::new(ns, key, kind, parent.as_ref(), labels.clone(), None)?;
        let Some(held) = self.try_hold_for(&request) else { return Ok(None) };
        let noted = self.references.note(ns, named(key, labels));
        let Some(parent) = self.check_new(&request)? else { return Ok(None) };
        let (origin, id) = (self.live_volume(parent.volume)?, self.store.next_snapshot_id()?);
        Ok(Some(Ready { request, origin, id, _held: held, _noted: noted }))
    }

    /// Steps 2 and 3. What is held is held until the end.
    fn grant(&self, ready: Vec<Ready<'_>>) -> Vec<Result<Info>> {
        let new: Vec<_> = ready.iter().map(Ready::volume).collect();
        let made = self.volumes.backend().create_together(&new);
        let mut batches = Vec::new();
        let mut record = |(ready, made): (&Ready<'_>, volume::Result<Volume>)| {
            let volume = made?;
            let info = ready.request.info(ready.id, volume.id);
            batches.push(self.naming(&info, &volume));
            Ok((info, volume))
        };
        let recorded: Vec<volume::Result<_>> = ready.iter().zip(made).map(&mut record).collect();
        let mut written = self.store.write_all(batches).into_iter();
        let outcome = |recorded: volume::Result<(Info, Volume)>| {
            let (info, volume) = recorded?;
            match written.next().expect("each batch has an outcome") {
                Ok(()) => Ok(info),
                Err(error) => Err(self.undo_create(&volume, error.into())),
            }
        };
        recorded.into_iter().map(outcome).collect()
    }
}
