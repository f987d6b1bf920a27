//! Check: does everything fit together?

use super::recover::{as_if_none_were_lost, volumes_in};
use super::{Result, Snapshots};

impl Snapshots {
    /// Disagreements within the store, between store and backend, and removed volumes that can't be
    /// destroyed; a line each, none if all is sound. Changes nothing.
    ///
    /// What is in the making while it looks can seem to disagree, so it looks twice where there is
    /// something to say, and tells what both looks saw.
    pub fn check(&self) -> Result<Vec<String>> {
        let first = self.look()?;
        if first.is_empty() {
            return Ok(first);
        }
        let second = self.look()?;
        Ok(first.into_iter().filter(|line| second.contains(line)).collect())
    }

    fn look(&self) -> Result<Vec<String>> {
        let mut lines = self.store.verify()?;
        let known = as_if_none_were_lost(&volumes_in(&self.store)?);
        lines.extend(self.volumes.backend().check(&known)?);
        lines.extend(self.reaper.failures());
        Ok(lines)
    }
}
