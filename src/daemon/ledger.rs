//! The pool's record, kept in the metadata store.

use std::sync::Arc;

use crate::crashpoint::Step;
use crate::meta::{Batch, Store};
use crate::types::{Event, Pool, Publisher as _};
use crate::volume::thin::{LedgerError, PoolLedger};

/// A [`PoolLedger`] over the store.
#[derive(Debug)]
pub struct StoreLedger(Arc<Store>);

impl StoreLedger {
    /// Keeps the pool's record in `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }
}

impl PoolLedger for StoreLedger {
    fn load(&self) -> Result<Option<Pool>, LedgerError> {
        Ok(self.0.pool()?)
    }

    fn save(&self, pool: &Pool, step: Step) -> Result<(), LedgerError> {
        let mut batch = Batch::of(step);
        batch.put_pool(pool);
        Ok(self.0.write(batch)?)
    }

    fn tell(&self, event: Event) {
        self.0.publish(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool { transaction_id: 7, reserved_end: 1024, ..Pool::default() };
        let ledger = StoreLedger::new(Arc::new(Store::open(dir.path()).unwrap()));
        assert_eq!(ledger.load().unwrap(), None);
        ledger.save(&pool, Step::LedgerAdopt).unwrap();
        drop(ledger);
        let ledger = StoreLedger::new(Arc::new(Store::open(dir.path()).unwrap()));
        assert_eq!(ledger.load().unwrap(), Some(pool));
    }
}
