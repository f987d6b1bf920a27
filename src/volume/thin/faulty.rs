//! Thin ids that are set aside: the pool has something under them that no record explains. They are
//! never used and never deleted by themselves; an operator asks for that.

use super::provision::Provision;
use super::{ThinBackend, pool_error};
use crate::thin::ThinId;
use crate::volume::{Error, Result, Retried};

impl ThinBackend {
    /// Deletes what the pool has under these ids (none: all that are set aside).
    pub(super) fn try_again(&self, ids: &[u32]) -> Result<Vec<Retried>> {
        self.provision(|provision| provision.retry(ids))
    }
}

impl Provision<'_> {
    /// Deletes the thin devices, then forgets the ids whose devices are gone, in one batch. After a
    /// crash in between the ids are still set aside, and deleting what is gone is done.
    pub(super) fn retry(self, ids: &[u32]) -> Result<Vec<Retried>> {
        let known: Vec<_> = self.book.record().faulty.iter().map(|f| f.thin_id).collect();
        if let Some(id) = ids.iter().find(|id| !known.contains(id)) {
            return Err(Error::NotFaulty(*id));
        }
        let wanted = if ids.is_empty() { &known[..] } else { ids };
        let retried: Vec<_> = wanted.iter().map(|&id| self.retry_one(id)).collect();
        let gone = |id: u32| retried.iter().any(|r| r.thin_id == id && r.failure.is_none());
        if retried.iter().any(|r| r.failure.is_none()) {
            self.book.change(|record| record.faulty.retain(|f| !gone(f.thin_id)))?;
        }
        Ok(retried)
    }

    fn retry_one(self, thin_id: u32) -> Retried {
        let deleted = match ThinId::new(thin_id) {
            Some(thin) => self.pool.delete(thin),
            None => Ok(()),
        };
        let failure = match deleted {
            Ok(()) => None,
            Err(e) if e.missing() => None,
            Err(e) if e.busy() => Some(format!("thin device {thin_id} is active elsewhere")),
            Err(e) => {
                let error = pool_error(format!("deleting thin device {thin_id}"), e);
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                Some(format!("{error}{}", cause.unwrap_or_default()))
            }
        };
        match &failure {
            None => tracing::info!(thin_id, "a thin id that was set aside is so no more"),
            Some(why) => tracing::warn!(thin_id, why, "a thin id stays set aside"),
        }
        Retried { thin_id, failure }
    }
}
