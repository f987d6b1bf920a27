//! Making a thin device for a volume: room, origin or template, one message.

use super::config::Filesystem;
use super::reconcile::thin_id;
use super::{ThinBackend, odd, whole};
use crate::thin::{ThinId, pool};
use crate::types::{Volume, VolumeId};
use crate::volume::{Error, Result};

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
        self.ballast.keep();
        self.keep_witness();
        self.check_room()?;
        let (base, base_size) = self.base(origin, filesystem, size)?;
        let size = size.map_or(base_size, whole);
        if size < base_size {
            let context =
                format!("a volume of {size} bytes cannot hold a copy of one of {base_size} bytes");
            return Err(Error::Io { context, source: std::io::ErrorKind::InvalidInput.into() });
        }
        let volume = self.provision(|provision| provision.create(id, origin, base, size))?;
        self.untouched.made(thin_id(&volume)?);
        Ok(volume)
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
    pub(super) fn check_room(&self) -> Result<()> {
        self.provision(|provision| provision.check_room()).or_else(|_| {
            // The pool may have become longer since, or will now.
            self.keeper.look();
            self.provision(|provision| provision.check_room())
        })
    }

    /// Takes an id and makes a thin device of it; see [`Provision`](super::Provision).
    pub(super) fn create_with(
        &self,
        make: impl Fn(ThinId) -> pool::Result<()>,
    ) -> Result<Option<ThinId>> {
        self.provision(|provision| provision.create_with(make))
    }
}
