//! Making a thin device for a volume: room, id, origin.

use super::config::Filesystem;
use super::error::pool_error;
use super::reconcile::thin_id;
use super::{ThinBackend, odd, room, whole};
use crate::thin::ThinId;
use crate::thin::pool;
use crate::thin::status::PoolMode;
use crate::types::{Backing, Volume, VolumeId, VolumeState};
use crate::volume::{Error, Result};

/// Free data blocks that only volumes that exist may use: a 128th, within these bounds. What is prepared
/// could not be written.
const DATA_RESERVE: (u64, u64) = (1, 4096);
/// How many ids that turn out to be taken are tried before something else must be wrong.
const CREATE_TRIES: usize = 16;

impl ThinBackend {
    /// One message to the pool: nothing is activated. Durable but unnamed when it returns.
    pub(super) fn create_volume(
        &self,
        id: VolumeId,
        origin: Option<&Volume>,
        size: Option<u64>,
    ) -> Result<Volume> {
        self.create_on(id, origin, self.config.filesystem, size)
    }

    /// The same; `filesystem` is for a volume without origin.
    pub(super) fn create_on(
        &self,
        id: VolumeId,
        origin: Option<&Volume>,
        filesystem: Filesystem,
        size: Option<u64>,
    ) -> Result<Volume> {
        self.check_room()?;
        let (base, base_size) = self.base(origin, filesystem, size)?;
        let size = size.map_or(base_size, whole);
        if size < base_size {
            let context =
                format!("a volume of {size} bytes cannot hold a copy of one of {base_size} bytes");
            return Err(Error::Io { context, source: std::io::ErrorKind::InvalidInput.into() });
        }
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
        self.untouched.made(thin);
        Ok(Volume {
            id,
            state: VolumeState::Live,
            origin: origin.map(|origin| origin.id),
            size,
            backing: Backing::Thin { thin_id: thin.get() },
        })
    }

    /// What a volume with this origin and size starts from: thin id and size of its device.
    fn base(
        &self,
        origin: Option<&Volume>,
        filesystem: Filesystem,
        size: Option<u64>,
    ) -> Result<(ThinId, u64)> {
        match origin {
            Some(origin) => {
                let thin = thin_id(origin)?;
                if self.devices.is_live(thin) {
                    return Err(Error::Busy(
                        origin.id,
                        "it is mounted for writing; only a sealed volume can be copied".to_owned(),
                    ));
                }
                Ok((thin, origin.size))
            }
            None => {
                let size = whole(size.unwrap_or(self.config.volume_size));
                let template = self.template(filesystem, size)?;
                let thin = ThinId::new(template.thin_id);
                let thin =
                    thin.ok_or_else(|| odd("making an empty volume", format!("bad {template:?}")))?;
                Ok((thin, template.size))
            }
        }
    }

    /// Refuses before the pool gets full: full metadata would end in a pool that does nothing.
    fn check_room(&self) -> Result<()> {
        self.has_room().or_else(|_| {
            // The pool may have become longer since, or will now.
            self.keeper.look();
            self.has_room()
        })
    }

    fn has_room(&self) -> Result<()> {
        let status =
            self.pool.check_healthy().map_err(|e| pool_error("looking for room in the pool", e))?;
        let reserve = room::creation_reserve(status.metadata);
        let name = self.pool.name();
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

    /// Takes an id and makes a thin device of it; `None` if what it should start from is missing. An id
    /// that the pool has already, although no record says so, is faulty: noted, and never used again.
    pub(super) fn create_with(
        &self,
        make: impl Fn(ThinId) -> pool::Result<()>,
    ) -> Result<Option<ThinId>> {
        for _ in 0..CREATE_TRIES {
            let thin = self.book.next(&self.pool, &|| self.existing())?;
            match make(thin) {
                Ok(()) => return Ok(Some(thin)),
                Err(e) if e.missing() => return Ok(None),
                Err(e) if e.already_exists() => {
                    tracing::warn!(%thin, "the pool has a thin device that no record names; its id is not used again");
                    self.book.mark_faulty(thin)?;
                }
                Err(e) => return Err(pool_error(format!("making thin device {thin}"), e)),
            }
        }
        Err(odd("making a thin device", format!("{CREATE_TRIES} ids in a row were taken already")))
    }
}
