//! What must outlive a daemon so that its successor can go on: which files the kernel has open, and how; and which
//! backing files it holds on to, open or not.
//!
//! A table in memory that belongs to no process (a memfd): it lasts as long as somebody keeps its descriptor.
//! A file's record is written before the kernel is told of the handle, and erased when the kernel lets go of
//! it. It survives the daemon, not the machine, and needn't: the mount doesn't either.
//!
//! ```text
//! 0       Header
//! 24      the highest number of a backing file so far
//! 64      Record 0     a free place is all zeros
//! 64+40   Record 1 …
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::io::{pread, pwrite};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::proto::init::Agreed;

/// Says what it is, and in which layout.
const MAGIC: u64 = u64::from_ne_bytes(*b"thinfs\0\x02");
/// Where the highest number of a backing file is.
const HIGHEST: u64 = size_of::<Header>() as u64;
/// More than there are threads that can be registering a file at one time.
const UNDER_WAY: u32 = 512;
/// Where the records begin.
const RECORDS: u64 = 64;
/// The length of one.
const RECORD: u64 = size_of::<Record>() as u64;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: u64,
    agreed: u64,
    connection: u64,
}

/// What a record is of.
pub mod kind {
    /// A file that the kernel has open.
    pub const OPEN: u32 = 0;
    /// A backing file that the kernel holds on to: `handle` and `backing` are its number, the rest is zero.
    pub const BACKING: u32 = 1;
}

/// A file that the kernel has open, or holds on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// The number under which the kernel names it; never 0.
    pub handle: u64,
    /// Which file.
    pub node: u64,
    /// The request that opened it.
    pub unique: u64,
    /// The flags with which it was opened.
    pub flags: u32,
    /// How the kernel treats it.
    pub open_flags: u32,
    /// The backing file by which the kernel reads and writes it; 0 if it asks us.
    pub backing: u32,
    /// Which of [`kind`].
    pub kind: u32,
}

/// The table.
#[derive(Debug)]
pub struct Ledger {
    memory: OwnedFd,
    agreed: Agreed,
    connection: u64,
    places: Mutex<Places>,
    highest: Mutex<u32>,
}

#[derive(Debug, Default)]
struct Places {
    taken: HashMap<u64, u64>,
    free: Vec<u64>,
    end: u64,
}

impl Ledger {
    /// An empty one, for a mount just begun. `connection`: the kernel's number of it.
    pub fn new(agreed: Agreed, connection: u64) -> io::Result<Self> {
        let memory = memfd_create("thinfs-ledger", MemfdFlags::CLOEXEC)?;
        let header = Header { magic: MAGIC, agreed: agreed.flags, connection };
        pwrite(&memory, header.as_bytes(), 0)?;
        let (places, highest) = Default::default();
        Ok(Self { memory, agreed, connection, places, highest })
    }

    /// The one that a predecessor left, and the files that it says are open.
    pub fn adopt(memory: OwnedFd) -> io::Result<(Self, Vec<Record>)> {
        let len = fstat(&memory)?.st_size as usize;
        let mut bytes = vec![0; len];
        let read = pread(&memory, bytes.as_mut_slice(), 0)?;
        let (header, _) = Header::read_from_prefix(&bytes[..read])
            .ok()
            .filter(|(header, _)| header.magic == MAGIC)
            .ok_or_else(|| io::Error::other("not the ledger of a daemon of this version"))?;
        let mut places = Places::default();
        let mut records = Vec::new();
        for chunk in bytes.get(RECORDS as usize..read).unwrap_or_default().chunks(RECORD as usize) {
            let place = places.end;
            places.end += 1;
            match Record::read_from_bytes(chunk) {
                Ok(record) if record.handle != 0 => {
                    places.taken.insert(record.handle, place);
                    records.push(record);
                }
                _ => places.free.push(place),
            }
        }
        let highest =
            bytes.get(HIGHEST as usize..).and_then(|rest| u32::read_from_prefix(rest).ok());
        let ledger = Self {
            memory,
            agreed: Agreed { flags: header.agreed },
            connection: header.connection,
            places: Mutex::new(places),
            highest: Mutex::new(highest.map_or(0, |(highest, _)| highest)),
        };
        Ok((ledger, records))
    }

    /// What was agreed on with the kernel.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// The kernel's number of the connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// A file is about to be open.
    pub fn record(&self, record: &Record) {
        let mut places = self.places.lock();
        let place = places.free.pop().unwrap_or_else(|| {
            places.end += 1;
            places.end - 1
        });
        places.taken.insert(record.handle, place);
        drop(places);
        self.write(place, record.as_bytes());
    }

    /// The kernel holds on to a backing file from now on. Its numbers are small ones and those of open files large, so
    /// that both can be erased by number.
    pub fn record_backing(&self, number: u32) {
        self.record(&Record {
            handle: number.into(),
            node: 0,
            unique: 0,
            flags: 0,
            open_flags: 0,
            backing: number,
            kind: kind::BACKING,
        });
        let mut highest = self.highest.lock();
        if number > *highest {
            *highest = number;
            self.write_at(HIGHEST, number.as_bytes());
        }
    }

    /// The numbers of backing files that a daemon may have registered in the moment of its death, without a record. The
    /// kernel counts upwards, so they are close to the highest that it has recorded.
    pub fn perhaps_registered(&self) -> impl Iterator<Item = u32> {
        let highest = *self.highest.lock();
        let recorded: Vec<u64> = self.places.lock().taken.keys().copied().collect();
        let around = highest.saturating_sub(UNDER_WAY).max(1)..=highest.saturating_add(UNDER_WAY);
        around.filter(move |number| !recorded.contains(&u64::from(*number)))
    }

    /// A file is open, or held, no more.
    pub fn erase(&self, handle: u64) {
        let Some(place) = self.places.lock().taken.remove(&handle) else { return };
        self.write(place, &[0; RECORD as usize]);
        self.places.lock().free.push(place);
    }

    fn write(&self, place: u64, bytes: &[u8]) {
        self.write_at(RECORDS + place * RECORD, bytes);
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) {
        if let Err(errno) = pwrite(&self.memory, bytes, offset) {
            tracing::error!(%errno, "an open file would not outlive this daemon");
        }
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(handle: u64) -> Record {
        Record { handle, node: 5, unique: 6, flags: 2, open_flags: 1, backing: 3, kind: kind::OPEN }
    }

    fn copy(ledger: &Ledger) -> OwnedFd {
        ledger.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_successor_finds_what_was_open_when_the_daemon_died() {
        let ledger = Ledger::new(Agreed { flags: 7 }, 42).unwrap();
        for handle in 1..=4 {
            ledger.record(&record(handle));
        }
        ledger.erase(2);
        ledger.erase(3);
        ledger.record(&record(9));
        let memory = copy(&ledger);
        drop(ledger);
        let (ledger, mut records) = Ledger::adopt(memory).unwrap();
        records.sort_by_key(|record| record.handle);
        assert_eq!(records, [record(1), record(4), record(9)]);
        assert_eq!((ledger.agreed().flags, ledger.connection()), (7, 42));
        ledger.erase(4);
        ledger.record(&record(10));
        let (_, mut records) = Ledger::adopt(copy(&ledger)).unwrap();
        records.sort_by_key(|record| record.handle);
        assert_eq!(records, [record(1), record(9), record(10)]);
    }

    #[test]
    fn a_successor_learns_which_backing_files_are_held_and_which_may_be() {
        let ledger = Ledger::new(Agreed { flags: 7 }, 42).unwrap();
        [1, 900, 901].into_iter().for_each(|number| ledger.record_backing(number));
        ledger.erase(901);
        let (ledger, records) = Ledger::adopt(copy(&ledger)).unwrap();
        let held: Vec<_> = records.iter().map(|record| (record.kind, record.backing)).collect();
        assert_eq!(held, [(kind::BACKING, 1), (kind::BACKING, 900)]);
        let perhaps: Vec<_> = ledger.perhaps_registered().collect();
        assert_eq!((perhaps[0], perhaps.last()), (901 - UNDER_WAY, Some(&(901 + UNDER_WAY))));
        assert!(!perhaps.contains(&900) && perhaps.contains(&901) && perhaps.contains(&902));
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let memory = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        assert!(Ledger::adopt(memory).is_err());
    }
}
