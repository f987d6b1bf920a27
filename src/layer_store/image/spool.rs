//! A copy of an image that can't be read twice. It stands beside the store, which has to go on writing:
//! so it never takes the last room there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::fstatvfs;

use super::source::unreadable;
use crate::layer;
use crate::layer_store::LayerStore;
use crate::layer_store::error::{Error, Result};

/// Read at once; cancelling and the room left are looked at in between.
const PIECE: usize = 1 << 20;
/// Longest copy: an image is never that long, but what decompresses without an end is.
const MOST: u64 = 1 << 40;
/// Of the filesystem, this part stays free, within these bounds.
const PART: u64 = 20;
const LEAST_FREE: u64 = 64 << 20;
const MOST_FREE: u64 = 1 << 30;

/// What a copy may take.
struct Room {
    /// Bytes of the copy.
    most: u64,
    /// Bytes that stay free in the filesystem.
    kept: u64,
}

impl Room {
    fn on(file: &File) -> io::Result<Self> {
        let fs = fstatvfs(file)?;
        Ok(Self { most: MOST, kept: kept(fs.f_blocks.saturating_mul(fs.f_frsize)) })
    }
}

fn kept(size: u64) -> u64 {
    (size / PART).clamp(LEAST_FREE, MOST_FREE)
}

/// Copies `input` into a file without a name.
pub(super) fn to_scratch(
    store: &LayerStore,
    input: &mut dyn Read,
    cancel: &AtomicBool,
) -> Result<File> {
    let (mut scratch, dir) = (store.records.scratch()?, store.records.dir());
    let room = Room::on(&scratch).map_err(failed(dir))?;
    copy(input, &mut scratch, dir, &room, cancel)?;
    Ok(scratch)
}

fn copy(
    input: &mut dyn Read,
    scratch: &mut File,
    dir: &Path,
    room: &Room,
    cancel: &AtomicBool,
) -> Result<()> {
    let (mut piece, mut length) = (vec![0; PIECE], 0_u64);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Layer(layer::Error::Cancelled));
        }
        let read = match input.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        length += read as u64;
        if length > room.most {
            let most = room.most;
            return Err(Error::InvalidArgument(format!("the image is longer than {most} bytes")));
        }
        let fs = fstatvfs(&*scratch).map_err(io::Error::from).map_err(failed(dir))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if free < room.kept.saturating_add(read as u64) {
            return Err(failed(dir)(full(length, free, room.kept)));
        }
        scratch.write_all(&piece[..read]).map_err(failed(dir))?;
    }
}

fn full(length: u64, free: u64, kept: u64) -> io::Error {
    let text = format!(
        "the image is longer than {length} bytes, only {free} bytes are free, and {kept} stay free for the \
         store; an image in an uncompressed file is read where it is"
    );
    io::Error::new(io::ErrorKind::StorageFull, text)
}

fn failed(dir: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = dir.display().to_string();
    let doing = "copying the image to a scratch file in";
    move |source| Error::Layer(layer::Error::Io { doing, path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_copy(length: u64, room: &Room, cancel: bool) -> (Result<()>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let mut scratch = tempfile::tempfile_in(&dir).unwrap();
        let input = &mut io::repeat(7).take(length);
        let copied = copy(input, &mut scratch, dir.path(), room, &AtomicBool::new(cancel));
        (copied, scratch.metadata().unwrap().len())
    }

    #[test]
    fn a_copy_ends_at_its_limit_and_before_the_last_room_and_when_nobody_wants_it() {
        let room = Room { most: 3 << 20, kept: 0 };
        let (copied, length) = try_copy(3 << 20, &room, false);
        copied.unwrap();
        assert_eq!(length, 3 << 20);
        let (copied, length) = try_copy(u64::MAX, &room, false);
        assert!(matches!(copied, Err(Error::InvalidArgument(_))), "{copied:?}");
        assert_eq!(length, 3 << 20);

        let (copied, length) = try_copy(1, &Room { most: MOST, kept: u64::MAX }, false);
        let Err(Error::Layer(layer::Error::Io { source, .. })) = copied else {
            panic!("{copied:?}")
        };
        assert_eq!((source.kind(), length), (io::ErrorKind::StorageFull, 0));

        let (copied, length) = try_copy(u64::MAX, &room, true);
        assert!(matches!(copied, Err(Error::Layer(layer::Error::Cancelled))), "{copied:?}");
        assert_eq!(length, 0);
    }

    #[test]
    fn what_stays_free_grows_with_the_filesystem_within_bounds() {
        assert_eq!([1 << 20, 10 << 30, 8 << 40].map(kept), [64 << 20, 512 << 20, 1 << 30]);
    }
}
