//! What dm-thin and plain directories do differently.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Error, Result};
use crate::tree::Changed;
use crate::types::{FaultyId, Usage, Volume, VolumeId};

/// Whether a volume is activated for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Files can be changed until the volume is sealed.
    ReadWrite,
    /// Nothing can be changed.
    ReadOnly,
}

/// A volume's filesystem, reachable below a descriptor.
#[derive(Debug)]
pub struct Mounted {
    /// The root directory, opened O_RDONLY|O_DIRECTORY (for thin: inside a detached mount; also the
    /// mount descriptor for open_by_handle_at). Stays this one while the volume is activated: pins
    /// hold duplicates.
    pub root: OwnedFd,
    /// What the activation allows now.
    pub access: Access,
}

/// A volume as a block device that others may mount, or give to a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Opens it; the same each time for the same volume.
    pub path: PathBuf,
    /// The filesystem on it, as the kernel names it.
    pub filesystem: &'static str,
    /// What to mount it with, beside `rw` or `ro`.
    pub options: Vec<String>,
}

/// Free and total space, for `df` on the root and for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes there are.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes of one block.
    pub block_size: u64,
    /// Bytes for the pool's metadata; 0 where there is no pool.
    pub metadata_total: u64,
    /// Bytes of the pool's metadata in use.
    pub metadata_used: u64,
    /// Bytes that `total` can grow to by itself; 0 where nothing is known of that.
    pub most: u64,
    /// Bytes by which `used` grows in a second, over the last minute.
    pub rate: i64,
    /// When data or metadata will be full at that pace; `None`: not within a year, or not known.
    pub full_in: Option<Duration>,
}

/// Whose the storage is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Bytes that each volume has alone (what destroying it would free), and those that it shares.
    pub volumes: Vec<(VolumeId, Share)>,
    /// Bytes that belong to no volume of these alone: templates, volumes about to be destroyed.
    pub others: u64,
    /// Bytes that several share, each counted once.
    pub shared: u64,
    /// All bytes in use: the sum of what each has alone, `others` and `shared`.
    pub used: u64,
}

/// One volume's part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes that nobody else has.
    pub exclusive: u64,
    /// Bytes that others have, too.
    pub shared: u64,
}

/// What a reconciliation at start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Live volumes that the backend doesn't have.
    pub lost: Vec<VolumeId>,
    /// How many volumes (thin ids, trees, half-made trees) nobody named were destroyed.
    pub reaped: usize,
    /// How many volumes that nobody named were kept.
    pub kept: usize,
}

/// What became of a thin id that was set aside and tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    /// The id.
    pub thin_id: u32,
    /// Why it is still set aside; `None`: what the pool had under it is gone, and so is the entry.
    pub failure: Option<String>,
}

/// A volume that is to be made with the content of another one.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// Its id.
    pub id: VolumeId,
    /// The other one.
    pub origin: &'a Volume,
    /// Bytes; `None`: the origin's.
    pub size: Option<u64>,
}

/// Who is told that activated volumes have become of no use, until they are activated anew.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// Returns at once.
    fn volumes_stopped(&self);
}

/// What differs between dm-thin and plain directories. All methods may block; none is called with
/// a lock held that another volume needs.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// "thin" or "native".
    fn name(&self) -> &'static str;
    /// Makes a volume, empty or with `origin`'s content. Durable when it returns, but unnamed: a
    /// crash before the caller's batch leaves garbage that `reconcile` destroys. `size`: bytes,
    /// None = origin's / the default.
    fn create(&self, id: VolumeId, origin: Option<&Volume>, size: Option<u64>) -> Result<Volume>;
    /// Makes an empty volume with this filesystem (`ext4`, `xfs`, `ext2`). A backend without filesystems of
    /// its own makes an ordinary one.
    fn create_formatted(
        &self,
        id: VolumeId,
        _filesystem: &str,
        size: Option<u64>,
    ) -> Result<Volume> {
        self.create(id, None, size)
    }
    /// Whether [`create_together`](Self::create_together) is quick, and less work than one `create` for each. Else those
    /// who make volumes at the same time had better do so each on a thread of its own.
    fn creates_together(&self) -> bool {
        false
    }
    /// Makes several volumes, each as `create` does. One outcome for each, in their order.
    fn create_together(&self, new: &[NewVolume<'_>]) -> Vec<Result<Volume>> {
        new.iter().map(|new| self.create(new.id, Some(new.origin), new.size)).collect()
    }
    /// Makes the volume's files reachable.
    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted>;
    /// Has `watcher` told when volumes are stopped as a last resort. Called once.
    fn watched_by(&self, _watcher: Arc<dyn Watcher>) {}
    /// Whether an activated volume was stopped.
    fn is_stopped(&self, _volume: &Volume) -> bool {
        false
    }
    /// Flushes everything to stable storage and turns the mounted filesystem read-only. No writer
    /// exists (Volumes has drained them) but readers may go on. Afterwards `create` with this
    /// origin needs no suspend.
    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()>;
    /// Whether the content of a volume that isn't activated is whole and on stable storage as it is, so that sealing
    /// needs nothing to be mounted.
    fn is_at_rest(&self, _volume: &Volume) -> bool {
        false
    }
    /// Makes a volume writable again, in place, after a seal whose commit wasn't recorded. A
    /// backend that can't leaves this default: then the volume is written again once its last pin
    /// is gone and it has been activated anew.
    fn unseal(&self, volume: &Volume, _mounted: &mut Mounted) -> Result<()> {
        Err(Error::ReadOnly(volume.id))
    }
    /// Writes everything back (durable) without changing the access.
    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()>;
    /// Whether a volume has a size of its own.
    fn has_sizes(&self) -> bool {
        false
    }
    /// Makes a volume larger, whose record (`volume`) says so already; `mounted` where it happens to be
    /// activated. One that isn't, or after a crash in between, grows when it is activated for writing.
    fn resize(&self, volume: &Volume, _mounted: Option<&Mounted>) -> Result<()> {
        let context =
            format!("making volume {} larger: the {} backend has no sizes", volume.id, self.name());
        Err(Error::Io { context, source: std::io::ErrorKind::Unsupported.into() })
    }
    /// Hands the free space inside an activated volume back to what lies below. How many bytes
    /// came back.
    fn trim(&self, _volume: &Volume, _mounted: &Mounted) -> Result<u64> {
        Ok(0)
    }
    /// Unmounts and deactivates, with everything written back. Every descriptor below the root that is ours
    /// has been closed. Busy: a program has files open that the kernel serves without us (passthrough); the
    /// volume can be activated again, and `stop` leaves what is below those files as it is.
    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()>;
    /// Destroys the content. What is gone already counts as done.
    fn destroy(&self, volume: &Volume) -> Result<()>;
    /// What the volume holds of its own against `origin`; `mounted` where it happens to be
    /// activated. Gives up with Cancelled once `cancel` is set.
    fn usage(
        &self,
        volume: &Volume,
        origin: Option<&Volume>,
        mounted: Option<&Mounted>,
        cancel: &AtomicBool,
    ) -> Result<Usage>;
    /// Which storage of these volumes is whose. `None` where nothing is shared.
    fn shares(&self, _volumes: &[Volume], _cancel: &AtomicBool) -> Result<Option<Shares>> {
        Ok(None)
    }
    /// Which inodes of `new` differ from those of `old`, when one started as a copy of the other and both are
    /// activated, `new` as `mounted`. `None`: nothing but a walk over the files can tell.
    fn changed(
        &self,
        _old: &Volume,
        _new: &Volume,
        _mounted: &Mounted,
        _cancel: &AtomicBool,
    ) -> Result<Option<Changed>> {
        Ok(None)
    }
    /// Space of the pool, or of the filesystem that holds the directories.
    fn capacity(&self) -> Result<Capacity>;
    /// Start: compares all records with what exists. Destroys what nobody names, reports what is
    /// lost.
    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled>;
    /// Like `reconcile`, but keeps volumes that nobody names: the records are not to be trusted
    /// with that.
    fn reconcile_keeping(&self, _known: &[Volume]) -> Result<Reconciled> {
        let source = "this backend cannot keep volumes that nobody names".into();
        Err(Error::Backend { context: "comparing records and volumes".to_owned(), source })
    }
    /// Like `reconcile` but changes nothing: one line for each disagreement.
    fn check(&self, known: &[Volume]) -> Result<Vec<String>>;
    /// Key/value lines for `status` (pool name, data device, transaction id, needs_check, copy
    /// method …).
    fn describe(&self) -> Vec<(String, String)>;
    /// Ids in the pool that are set aside, with the reasons. Where there is no pool there are none.
    fn faulty(&self) -> Vec<FaultyId> {
        Vec::new()
    }
    /// Deletes what the pool has under ids that are set aside, and forgets those that are gone;
    /// `ids` empty means all of them. An id that isn't set aside is an error and nothing is done.
    fn retry_faulty(&self, ids: &[u32]) -> Result<Vec<Retried>> {
        match ids.first() {
            None => Ok(Vec::new()),
            Some(id) => Err(Error::NotFaulty(*id)),
        }
    }
    /// Whether volumes can be handed out as block devices.
    fn has_block_devices(&self) -> bool {
        false
    }
    /// Gives the volume's block device to others. What they may write is not activated meanwhile: Busy. It
    /// outlives the daemon while they have it open, and is handed out still after the next start.
    fn hand_out(&self, volume: &Volume, _access: Access) -> Result<BlockDevice> {
        let context = format!("handing out volume {} as a block device", volume.id);
        Err(Error::Io { context, source: std::io::ErrorKind::Unsupported.into() })
    }
    /// Whether it is handed out.
    fn is_handed_out(&self, _volume: &Volume) -> bool {
        false
    }
    /// The volume as it is to be recorded from now on, with the content that its handed-out block device has at this
    /// moment, on storage of its own: whoever has the device open goes on with what is there now, which the caller
    /// records as a volume to be destroyed. Durable when it returns, but unnamed, as after `create`.
    fn fork_handed_out(&self, volume: &Volume) -> Result<Volume> {
        let context = format!("copying the block device of volume {}", volume.id);
        Err(Error::Io { context, source: std::io::ErrorKind::Unsupported.into() })
    }
    /// Takes the block device back; Busy if somebody has it open for longer than `patience`. What isn't
    /// handed out counts as taken back.
    fn take_back(&self, _volume: &Volume, _patience: Duration) -> Result<()> {
        Ok(())
    }
    /// Clean stop: everything that `start` made is taken down (no volume is activated any more), but
    /// for what others have open.
    fn stop(&self) -> Result<()>;
}
