//! Making a thin device for a volume: room, origin or template, one message.

use super::config::Filesystem;
use super::provision::Wanted;
use super::reconcile::thin_id;
use super::{ThinBackend, odd, whole};
use crate::thin::{ThinId, pool};
use crate::types::{Volume, VolumeId};
use crate::volume::{Error, NewVolume, Result};

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
        let size = fitting(size, base_size)?;
        let volume = self.provision(|provision| provision.create(id, origin, base, size))?;
        self.untouched.made(thin_id(&volume)?);
        Ok(volume)
    }

    /// [`create_volume`](Self::create_volume) for several, with one look for room and one at what became of them.
    pub(super) fn create_volumes(&self, new: &[NewVolume<'_>]) -> Vec<Result<Volume>> {
        self.ballast.keep();
        self.keep_witness();
        if self.check_room().is_err() {
            // Each is told why.
            let alone =
                |new: &NewVolume<'_>| self.create_volume(new.id, Some(new.origin), new.size);
            return new.iter().map(alone).collect();
        }
        let wanted: Vec<_> = new.iter().map(|new| self.wanted(*new)).collect();
        let possible: Vec<_> =
            wanted.iter().filter_map(|wanted| wanted.as_ref().ok().copied()).collect();
        let mut made = self.provision(|provision| provision.create_together(&possible)).into_iter();
        let outcome = |wanted: Result<Wanted<'_>>| {
            let volume = wanted.and_then(|_| made.next().expect("each has an outcome"))?;
            self.untouched.made(thin_id(&volume)?);
            Ok(volume)
        };
        wanted.into_iter().map(outcome).collect()
    }

    fn wanted<'a>(&self, new: NewVolume<'a>) -> Result<Wanted<'a>> {
        let NewVolume { id, origin, size } = new;
        let (base, base_size) = self.base(Some(origin), self.config.filesystem, size)?;
        Ok(Wanted { id, origin, base, size: fitting(size, base_size)? })
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

/// The size of a volume that starts with what another one of `base` bytes holds.
fn fitting(size: Option<u64>, base: u64) -> Result<u64> {
    let size = size.map_or(base, whole);
    if size < base {
        let context = format!("a volume of {size} bytes cannot hold a copy of one of {base} bytes");
        return Err(Error::Io { context, source: std::io::ErrorKind::InvalidInput.into() });
    }
    Ok(size)
}
