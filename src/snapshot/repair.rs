//! Repair: mending what a check finds, without loss.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::census::Census;
use super::recover::record_lost;
use super::{Change, Error, Info, Result, Snapshots};
use crate::crashpoint::Step;
use crate::meta::{self, Batch};
use crate::types::{Event, Finding, Kind, Snapshot, Topic};

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// What was found and mended.
    pub mended: Vec<Finding>,
    /// What a check finds now.
    pub left: Vec<Finding>,
}

impl Snapshots {
    /// Mends what can be mended without loss, says what it did, and what is left. Changes by others
    /// wait meanwhile; reading goes on.
    ///
    /// Content that a record names is never destroyed. Volumes that nobody names are, those kept so
    /// far, too: asking for this is the word that they wait for. It is a second look that decides:
    /// the records have been mended by then.
    ///
    /// After a crash, some of it is done, and all of it can be done again.
    ///
    /// 1. nobody changes anything, the reaper pauses;
    /// 2. the store mends its rows;
    /// 3. missing usages are measured;
    /// 4. the backend destroys what nobody names, and says what it hasn't got;
    /// 5. what the reaper couldn't destroy is tried again.
    pub fn repair(&self) -> Result<Repair> {
        let mut repair = self.repair_alone()?;
        if !repair.mended.is_empty() {
            self.show_all()?;
        }
        if !self.reaper.failures().is_empty() {
            self.cleanup()?;
        }
        repair.left.extend(self.stuck());
        Ok(repair)
    }

    /// Steps 1 to 4.
    fn repair_alone(&self) -> Result<Repair> {
        let gate = self.gate.write();
        if *gate {
            return Err(Error::Stopping);
        }
        // What was being written when a write failed may be found by the next start, with volumes that it names: until
        // then nobody knows what no record names.
        if let Some(reason) = self.store.poisoned() {
            return Err(meta::Error::Poisoned { reason }.into());
        }
        let _paused = self.reaper.pause();
        let before = self.look()?;
        let mut mended = self.store.mend()?;
        mended.extend(self.measure_missing()?);
        mended.extend(self.reconcile_again(&before)?);
        for Finding { object, problem, remedy, .. } in &mended {
            tracing::warn!(object, problem, done = remedy, "mended");
        }
        let stuck = self.stuck();
        let left = self.look()?.into_iter().filter(|finding| !stuck.contains(finding)).collect();
        Ok(Repair { mended, left })
    }

    /// Committed snapshots without usage get one.
    fn measure_missing(&self) -> Result<Vec<Finding>> {
        let mut missing: Vec<Info> = Vec::new();
        for ns in self.store.namespaces()? {
            self.store.for_each_snapshot(&ns, &mut |key, snapshot| {
                if snapshot.kind == Kind::Committed && snapshot.usage.is_none() {
                    missing.push(Info { namespace: ns.clone(), key, snapshot });
                }
                ControlFlow::Continue(())
            })?;
        }
        let mut mended = Vec::new();
        for Info { namespace: ns, key, snapshot } in missing {
            // A volume that can't be measured is a finding of its own.
            let Ok(usage) = self.measure(&snapshot, &AtomicBool::new(false)) else { continue };
            let new = Snapshot { usage: Some(usage), ..snapshot.clone() };
            let mut batch = Batch::of(Step::StoreRepair);
            batch.update_snapshot(&ns, &key, &snapshot, &new);
            let finding = Finding::mendable(
                format!("snapshot {ns}/{key}"),
                "it is committed, but its usage isn't recorded",
                format!("measured: {} bytes, {} inodes", usage.size, usage.inodes),
            );
            batch.publish(repaired(&finding));
            self.store.write(batch)?;
            mended.push(finding);
        }
        Ok(mended)
    }

    /// Lets the backend go through all records again. Not if a record is still missing or
    /// unreadable: what nobody names may be its content.
    fn reconcile_again(&self, before: &[Finding]) -> Result<Vec<Finding>> {
        let Ok(census) = Census::take(&self.store) else { return Ok(Vec::new()) };
        let unsure = census.first_without_volume(&self.store)?.is_some()
            || self.store.verify()?.iter().any(|finding| finding.remedy != crate::meta::MEASURE);
        let known = census.as_if_none_were_lost();
        let backend = self.volumes.backend();
        let reconciled = match unsure {
            true => backend.reconcile_keeping(&known)?,
            false => backend.reconcile(&known)?,
        };
        let lost: HashSet<_> = reconciled.lost.into_iter().collect();
        record_lost(&self.store, &census.volumes, &lost)?;
        if unsure {
            return Ok(Vec::new());
        }
        let mut mended: Vec<Finding> =
            before.iter().filter(|f| f.mendable && f.object == "backend").cloned().collect();
        if let Some(reason) = self.store.keeping()? {
            let finding = Finding::mendable(
                "volumes that no record names",
                format!("they were kept, because {reason}"),
                format!("destroyed {}", reconciled.reaped),
            );
            let mut batch = Batch::of(Step::StoreRepair);
            batch.forget_unnamed();
            batch.publish(repaired(&finding));
            self.store.write(batch)?;
            mended.push(finding);
        }
        Ok(mended)
    }

    /// Whoever shows snapshots looks at all of them again.
    fn show_all(&self) -> Result<()> {
        let mut all: Vec<Info> = Vec::new();
        if self.watchers.read().is_empty() {
            return Ok(());
        }
        for ns in self.store.namespaces()? {
            self.store.for_each_snapshot(&ns, &mut |key, snapshot| {
                all.push(Info { namespace: ns.clone(), key, snapshot });
                ControlFlow::Continue(())
            })?;
        }
        all.into_iter().for_each(|info| self.tell(&Change::Prepared(info)));
        Ok(())
    }
}

fn repaired(finding: &Finding) -> Event {
    Event::new(Topic::STORE_REPAIR).with("object", &finding.object).with("done", &finding.remedy)
}
