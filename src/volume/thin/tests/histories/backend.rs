//! The thin backend on a simulated pool: the real ids, records, creation, deletion and
//! reconciliation; what is mounted is simulated.

use std::fs::File;

use super::*;
use crate::thin::dm::DevNum;

#[derive(Debug)]
pub(super) struct OnSimulated {
    sim: Arc<Simulated>,
    pool: Pool,
    book: Book,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Book")
    }
}

const SIZE: u64 = 1 << 30;

/// What mkfs leaves on a template.
pub(super) const FORMATTED: u32 = u32::MAX;

impl OnSimulated {
    pub(super) fn start(
        sim: &Arc<Simulated>,
        ledger: Arc<dyn PoolLedger>,
        force: bool,
    ) -> Result<Self> {
        let number = DevNum { major: 252, minor: 0 };
        let failed = |e| pool_error("opening the thin pool", e);
        let pool = Pool::on(sim.clone(), "simulated", number).map_err(failed)?;
        pool.release_stale_metadata_snapshot().map_err(failed)?;
        let count = || existing(&pool, sim).map(|thins| thins.len());
        let book = Book::open(ledger, &pool, 0x1a2b, &count, force)?;
        Ok(Self { sim: sim.clone(), pool, book })
    }

    fn provision<T>(&self, work: impl FnOnce(Provision<'_>) -> T) -> T {
        let existing = || existing(&self.pool, &self.sim);
        work(Provision { pool: &self.pool, book: &self.book, existing: &existing })
    }

    /// In the order of `ThinBackend::make_template`.
    fn template(&self) -> Result<ThinId> {
        if let Some(template) = self.book.record().templates.first() {
            return Ok(ThinId::new(template.thin_id).unwrap());
        }
        let made = self.provision(|p| p.create_with(|thin| self.pool.create_thin(thin)))?;
        let thin = made.expect("create_thin has no origin that could be missing");
        let failed = |e| io("making a template", e);
        self.sim.activate(thin).map_err(failed)?;
        self.sim.write(thin, FORMATTED);
        self.sim.flush(thin).map_err(failed)?;
        self.sim.deactivate(thin);
        let template =
            types::Template { thin_id: thin.get(), size: SIZE, fingerprint: String::new() };
        self.book.change(|record| record.templates.push(template))?;
        Ok(thin)
    }
}

fn wanted<'a>(new: &NewVolume<'a>) -> provision::Wanted<'a> {
    let base = thin_id(new.origin).unwrap();
    provision::Wanted { id: new.id, origin: new.origin, base, size: SIZE }
}

fn existing(pool: &Pool, sim: &Simulated) -> Result<Vec<ThinId>> {
    let failed = |e| pool_error("reserving a metadata snapshot", e);
    let _held = pool.reserve_metadata_snapshot().map_err(failed)?;
    Ok(sim.held().expect("just reserved"))
}

impl Backend for OnSimulated {
    fn name(&self) -> &'static str {
        "thin"
    }

    fn create(&self, id: VolumeId, origin: Option<&Volume>, _: Option<u64>) -> Result<Volume> {
        self.provision(|p| p.check_room())?;
        let base = origin.map_or_else(|| self.template(), thin_id)?;
        self.provision(|p| p.create(id, origin, base, SIZE))
    }

    fn create_together(&self, new: &[NewVolume<'_>]) -> Vec<Result<Volume>> {
        if self.provision(|p| p.check_room()).is_err() {
            return new.iter().map(|new| self.create(new.id, Some(new.origin), None)).collect();
        }
        let wanted: Vec<_> = new.iter().map(wanted).collect();
        self.provision(|p| p.create_together(&wanted))
    }

    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        self.sim.activate(thin_id(volume)?).map_err(|_| Error::Missing(volume.id))?;
        let root = File::open("/").map_err(|e| io("opening a directory", e))?;
        Ok(Mounted { root: root.into(), access })
    }

    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.flush(volume, mounted)?;
        mounted.access = Access::ReadOnly;
        Ok(())
    }

    fn unseal(&self, _: &Volume, mounted: &mut Mounted) -> Result<()> {
        mounted.access = Access::ReadWrite;
        Ok(())
    }

    fn flush(&self, volume: &Volume, _: &Mounted) -> Result<()> {
        self.sim.flush(thin_id(volume)?).map_err(|e| io("flushing", e))
    }

    fn deactivate(&self, volume: &Volume, _: Mounted) -> Result<()> {
        self.sim.deactivate(thin_id(volume)?);
        Ok(())
    }

    fn destroy(&self, volume: &Volume) -> Result<()> {
        let thin = thin_id(volume)?;
        self.book.keep_out(thin);
        self.sim.deactivate(thin);
        provision::deleted(volume.id, self.pool.delete(thin))
    }

    fn usage(
        &self,
        _: &Volume,
        _: Option<&Volume>,
        _: Option<&Mounted>,
        _: &AtomicBool,
    ) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity::default())
    }

    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled> {
        self.provision(|p| p.reconcile(known, false))
    }

    fn reconcile_keeping(&self, known: &[Volume]) -> Result<Reconciled> {
        self.provision(|p| p.reconcile(known, true))
    }

    fn check(&self, known: &[Volume]) -> Result<Vec<String>> {
        Ok(self.provision(|p| p.compare(known))?.lines())
    }

    fn describe(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn faulty(&self) -> Vec<FaultyId> {
        self.book.record().faulty
    }

    fn retry_faulty(&self, ids: &[u32]) -> Result<Vec<Retried>> {
        self.provision(|p| p.retry(ids))
    }

    fn stop(&self) -> Result<()> {
        Ok(())
    }
}
