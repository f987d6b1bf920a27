//! Why the thin backend refuses to start, and how errors of the layers below become the volume
//! layer's.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use crate::sys::mount::MountError;
use crate::thin::dm::DevNum;
use crate::thin::{ThinId, dm, metadata, pool};
use crate::types::VolumeId;
use crate::volume::{Error, Result};

/// A pool that must not be used as it is. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The witness: pool and store don't belong together.
    #[error(
        "the pool {pool} is at transaction {found}, the metadata store expects {expected}{}: \
         {}, or the two belong to different roots. Bring back the matching pair; to go on with this one \
         (snapshots that the pool doesn't have will be lost) start once with `thinfs serve --force-adopt`",
        if *settled { "" } else { " or the one before" },
        if found < expected { "the pool's metadata is an older copy" } else { "the metadata store is an older copy" },
    )]
    Witness {
        /// The pool.
        pool: String,
        /// Its transaction id.
        found: u64,
        /// The store's.
        expected: u64,
        /// The store knows that the pool had arrived there.
        settled: bool,
    },
    /// The store knows no pool, but the pool has thin devices.
    #[error(
        "the pool {pool} holds {count} thin devices and this root knows none of them: it belongs to another root, \
         or this root has lost its metadata store; use an empty pool, or bring the store back. To take the pool and set \
         what it holds aside, start once with `thinfs serve --force-adopt`"
    )]
    Strangers {
        /// The pool.
        pool: String,
        /// How many.
        count: usize,
    },
    /// Thin devices that this root cannot have made.
    #[error(
        "the pool {pool} holds thin devices that thinfs did not make ({}): thinfs needs a pool of its own; \
         delete them (dmsetup message {pool} 0 'delete ID'), or set them aside by starting once with `thinfs serve --force-adopt`",
        .ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    )]
    Foreign {
        /// The pool.
        pool: String,
        /// Up to ten of their ids.
        ids: Vec<u32>,
    },
    /// The data device has none of this pool's data on it.
    #[error(
        "{device} is not the data device of this pool: where the witness {token} should stand there is {found}. Nothing was \
         changed; bring back the device that belongs to the metadata. To go on with this one (what snapshots have on the \
         other one is missing) start once with `thinfs serve --force-adopt`"
    )]
    OtherData {
        /// The data device.
        device: PathBuf,
        /// What should stand there.
        token: String,
        /// What does, in words.
        found: String,
    },
    /// The data device is a copy that was made before the last start.
    #[error(
        "{device} is an older copy of this pool's data device: its witness {token} is of run {run}, the metadata store expects \
         run {expected}. Nothing was changed; bring back the device that was used last. To go on with this one (what \
         snapshots got since is missing) start once with `thinfs serve --force-adopt`"
    )]
    OlderData {
        /// The data device.
        device: PathBuf,
        /// Whose it is.
        token: String,
        /// The run that used it last.
        run: u64,
        /// The run that the store knows.
        expected: u64,
    },
    /// The kernel has marked the metadata, and the check found damage.
    #[error(
        "the pool's metadata on {device} is damaged: thin_check says: {output}. Repair it into another device (thin_repair -i \
         {device} -o OTHER) and start with that one, or bring back a copy"
    )]
    Damaged {
        /// The metadata device.
        device: PathBuf,
        /// What thin_check said.
        output: String,
    },
    /// The kernel has marked the metadata, and there is no program to check it.
    #[error(
        "the pool's metadata on {device} must be checked before it is used ({why}), and thin_check could not be run: {output}; \
         install it (Debian: thin-provisioning-tools)"
    )]
    Unchecked {
        /// The metadata device.
        device: PathBuf,
        /// Why it must be checked.
        why: String,
        /// Why it could not be run.
        output: String,
    },
    /// A device-mapper device has our name, but isn't ours.
    #[error(
        "a thin-pool {name} is active on other devices (metadata {metadata}, data {data}): \
         remove it (dmsetup remove {name}) if nothing uses it"
    )]
    OtherDevices {
        /// The name.
        name: String,
        /// Its metadata device.
        metadata: DevNum,
        /// Its data device.
        data: DevNum,
    },
    /// The metadata device holds something that is no pool.
    #[error(
        "the metadata device {0} holds something that is no thin-pool; if it may be lost, wipe it: \
         dd if=/dev/zero of={0} bs=4096 count=1"
    )]
    NotBlank(PathBuf),
    /// The metadata device is blank although the store knows a pool.
    #[error(
        "the metadata device {0} is blank, but the metadata store knows a pool: bring the pool's metadata back; \
         to begin anew with every snapshot lost, start once with `thinfs serve --force-adopt`"
    )]
    Blank(PathBuf),
    /// A backing file is gone although the store knows a pool.
    #[error(
        "the pool's file {0} is gone, but the metadata store knows a pool: bring the file back"
    )]
    FileGone(PathBuf),
    /// The path is no block device.
    #[error("{0} is no block device")]
    NotADevice(PathBuf),
    /// The device is too small.
    #[error("{device} has room for {bytes} bytes, which is less than one data block")]
    TooSmall {
        /// The device or file.
        device: String,
        /// Its size.
        bytes: u64,
    },
    /// The pool that is to be removed is in use.
    #[error("the pool {0} is still open: end who uses it, and remove it by dmsetup remove {0}")]
    StillOpen(String),
    /// The root was made by the other backend.
    #[error(
        "volume {0} is a directory: this root was made with the native backend (--backend native)"
    )]
    NativeVolume(VolumeId),
    /// mkfs failed.
    #[error("{program} failed: {output}")]
    Mkfs {
        /// The program.
        program: String,
        /// What it said, or why it did not run.
        output: String,
    },
}

/// An error with what was being done.
pub(super) fn backend(
    context: impl Into<String>,
    source: impl StdError + Send + Sync + 'static,
) -> Error {
    Error::Backend { context: context.into(), source: Box::new(source) }
}

/// A refusal to start.
pub(super) fn refused<T>(refusal: Refusal) -> Result<T> {
    Err(backend("the thin pool cannot be used", refusal))
}

/// An I/O error with what was being done; a full disk is its own kind.
pub(super) fn io(context: impl Into<String>, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace(format!("{}: {source}", context.into()))
        }
        _ => Error::Io { context: context.into(), source },
    }
}

/// A failed pool message.
pub(super) fn pool_error(context: impl Into<String>, error: pool::Error) -> Error {
    if error.no_space() {
        return Error::NoSpace(format!(
            "{}: the pool's metadata is full; remove snapshots or grow it",
            context.into()
        ));
    }
    backend(context, error)
}

/// A failed ioctl.
pub(super) fn dm_error(context: impl Into<String>, error: dm::Error) -> Error {
    backend(context, error)
}

/// Metadata that could not be read.
pub(super) fn metadata_error(context: impl Into<String>, error: metadata::Error) -> Error {
    match error {
        metadata::Error::Cancelled => Error::Cancelled(error.to_string()),
        metadata::Error::Io { .. } | metadata::Error::Damaged { .. } => backend(context, error),
    }
}

/// A thin device that could not be made reachable, or let go of.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    /// The pool has no such thin device.
    #[error("the pool has no thin device {0}")]
    Missing(ThinId),
    /// A descriptor is still open.
    #[error("{0}")]
    Busy(String),
    /// An ioctl failed.
    #[error(transparent)]
    Dm(#[from] dm::Error),
    /// A mount call failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Reading or growing the filesystem failed.
    #[error("{context}")]
    Io {
        /// What was being done.
        context: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The volume layer's words for what went wrong with a volume's device.
pub(super) fn volume_error(volume: VolumeId, doing: &str, error: DeviceError) -> Error {
    let context = format!("{doing} volume {volume}");
    match error {
        DeviceError::Missing(_) => Error::Missing(volume),
        DeviceError::Busy(why) => Error::Busy(volume, why),
        DeviceError::Io { context: inner, source } => io(format!("{context}: {inner}"), source),
        DeviceError::Dm(_) | DeviceError::Mount(_) => backend(context, error),
    }
}
