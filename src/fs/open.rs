//! Open files: reading, writing, and what else works on an open file.
//!
//! Each open file has a descriptor of its own, with the caller's flags, opened with root's rights: the kernel
//! has checked the caller's. One that is only read gets it when it is first needed, which is never where the kernel
//! reads the file by itself. (One that is written has it from the beginning, so that a lost write is told to whoever
//! had the file open.) An open file keeps its volume pinned, and counts as a writer if it is open for writing.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{
    CWD, FallocateFlags, Mode, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync,
    openat, seek,
};
use rustix::io::{Errno, pread, pwrite};

use super::mapped::Mapped;
use super::nodes::{Held, Hold, proc_path};
use super::slots::At;
use super::types::{Caller, NodeId};
use super::{Error, Fs, Result, privileges};
use crate::sys::creds;
use crate::volume::{Pin, Writer};

/// To free more than this takes a filesystem time.
pub(super) const LARGE: u64 = 16 << 20;

/// The flags with which a file is to be opened, as the caller gave them.
#[derive(Debug, Clone, Copy)]
pub struct Asked(pub OFlags);

impl Asked {
    /// Whether the file is opened for writing.
    pub fn writes(self) -> bool {
        self.0.intersection(OFlags::RWMODE) != OFlags::RDONLY
    }

    /// Whether it can be mapped shared and writable, so that it changes without a request.
    pub fn may_map_writable(self) -> bool {
        self.0.intersection(OFlags::RWMODE) == OFlags::RDWR
    }

    /// Whether the page cache is to be passed by.
    pub fn direct(self) -> bool {
        self.0.contains(OFlags::DIRECT)
    }

    /// Whether the kernel opens it to execute it: `FMODE_EXEC`, which it leaves in the flags.
    fn executes(self) -> bool {
        const FMODE_EXEC: OFlags = OFlags::from_bits_retain(0x20);
        self.0.contains(FMODE_EXEC)
    }

    fn truncates(self) -> bool {
        self.0.contains(OFlags::TRUNC)
    }

    pub(super) fn exclusive(self) -> bool {
        self.0.contains(OFlags::EXCL)
    }

    /// Those that matter on our side. `O_DIRECT` doesn't: requests aren't aligned. `O_APPEND` would be wrong:
    /// the kernel says where to write, and may write mapped pages by way of any handle.
    pub(super) fn backing_flags(self) -> OFlags {
        let kept = OFlags::RWMODE | OFlags::TRUNC | OFlags::NOATIME | OFlags::DSYNC | OFlags::SYNC;
        self.0.intersection(kept) | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC
    }
}

/// An open file, and the number under which the kernel names it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The number.
    pub handle: u64,
    /// The file.
    pub file: Arc<OpenFile>,
}

/// An open file. The descriptor goes before the writer, the writer before the pin.
#[derive(Debug)]
pub struct OpenFile {
    /// Which node.
    pub node: NodeId,
    /// How it was opened.
    pub asked: Asked,
    backing: Backing,
    writer: Option<Writer>,
    _pin: Pin,
}

/// The backing file. One of the two is always there.
#[derive(Debug)]
pub(super) struct Backing {
    /// Which it is: for the kernel's hold on it, and to open it.
    held: Mutex<Option<Arc<Held>>>,
    /// Open, with the caller's flags.
    fd: OnceLock<OwnedFd>,
}

impl Backing {
    /// A file that is open, and if known the descriptor that it is found by.
    pub(super) fn open(fd: OwnedFd, held: Option<Arc<Held>>) -> Self {
        Self { held: Mutex::new(held), fd: OnceLock::from(fd) }
    }

    /// A file to be opened when it is needed.
    fn later(held: Arc<Held>) -> Self {
        Self { held: Mutex::new(Some(held)), fd: OnceLock::new() }
    }

    /// Which it is. Never the open descriptor itself: the kernel would hold on to a file open for writing.
    fn held(&self) -> rustix::io::Result<Arc<Held>> {
        let mut held = self.held.lock();
        if let Some(held) = &*held {
            return Ok(Arc::clone(held));
        }
        let fd = self.fd.get().ok_or(Errno::BADF)?;
        let path = openat(CWD, proc_path(fd), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Arc::clone(held.insert(Arc::new(Held::new(path)))))
    }
}

/// All open files.
#[derive(Debug)]
pub(super) struct OpenFiles {
    files: RwLock<HashMap<u64, Arc<OpenFile>>>,
    /// Starts at the present time in nanoseconds: no number of an earlier daemon is ever used again.
    next: AtomicU64,
    /// Closed, and may yet change. Locked before `bypassed`.
    pub(super) mapped: Mutex<Mapped>,
    /// How often each node is open in a way that lets it be changed without us.
    bypassed: Mutex<HashMap<NodeId, usize>>,
    bypassed_count: AtomicUsize,
    /// How often each node is open as the program of a process.
    executed: Mutex<HashMap<NodeId, usize>>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            files: RwLock::default(),
            mapped: Mutex::default(),
            next: AtomicU64::new(now.as_nanos() as u64),
            bypassed: Mutex::default(),
            bypassed_count: AtomicUsize::new(0),
            executed: Mutex::default(),
        }
    }
}

impl OpenFiles {
    pub(super) fn insert(
        &self,
        at: At,
        asked: Asked,
        backing: Backing,
        writer: Option<Writer>,
    ) -> Opened {
        self.insert_as(self.next.fetch_add(1, Relaxed) + 1, at, asked, backing, writer)
    }

    fn insert_as(
        &self,
        handle: u64,
        at: At,
        asked: Asked,
        backing: Backing,
        writer: Option<Writer>,
    ) -> Opened {
        if asked.executes() {
            *self.executed.lock().entry(at.node).or_default() += 1;
        }
        let file = Arc::new(OpenFile { node: at.node, asked, backing, writer, _pin: at.pin });
        self.files.write().insert(handle, Arc::clone(&file));
        Opened { handle, file }
    }

    pub(super) fn get(&self, handle: u64) -> Result<Arc<OpenFile>> {
        Ok(self.files.read().get(&handle).cloned().ok_or(Errno::BADF)?)
    }

    pub(super) fn clear(&self) {
        let files = std::mem::take(&mut *self.files.write());
        let mapped = std::mem::take(&mut *self.mapped.lock());
        drop((files, mapped));
        self.bypassed.lock().clear();
        self.bypassed_count.store(0, Relaxed);
        self.executed.lock().clear();
    }

    pub(super) fn remove(&self, handle: u64) -> Option<Arc<OpenFile>> {
        let file = self.files.write().remove(&handle)?;
        if file.asked.executes() {
            let mut executed = self.executed.lock();
            if let Some(count) = executed.get_mut(&file.node) {
                *count -= 1;
                if *count == 0 {
                    executed.remove(&file.node);
                }
            }
        }
        Some(file)
    }

    pub(super) fn is_bypassed(&self, node: NodeId) -> bool {
        self.bypassed_count.load(Relaxed) != 0 && self.bypassed.lock().contains_key(&node)
    }

    /// Of several, ends one. Of the last: says so, and leaves it to be ended by [`OpenFiles::end_bypass`].
    pub(super) fn is_last_bypass(&self, node: NodeId) -> bool {
        match self.bypassed.lock().get_mut(&node) {
            Some(count) if *count > 1 => *count -= 1,
            _ => return true,
        }
        false
    }

    /// There is one mapping less by which it may change. What the kernel was told meanwhile held for no time, so that it
    /// has nothing to drop.
    pub(super) fn end_bypass(&self, node: NodeId) {
        let mut bypassed = self.bypassed.lock();
        if let Some(count) = bypassed.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                bypassed.remove(&node);
            }
        }
        self.bypassed_count.store(bypassed.len(), Relaxed);
    }
}

impl Fs {
    /// Opens a regular file.
    pub fn open(&self, caller: &Caller, node: NodeId, asked: Asked) -> Result<Opened> {
        creds::prepare_thread()?;
        let at = self.at(caller, node)?;
        let writer =
            if asked.writes() || asked.truncates() { Some(at.writer(caller)?) } else { None };
        if asked.truncates() && !caller.may_wait && self.is_large(&at, 0)? {
            return Err(Error::WouldWait);
        }
        // The kernel checks this for those who open for writing before it asks us, and for those who only truncate
        // afterwards, when the program would be gone.
        if asked.truncates() && !asked.writes() && self.open.executed.lock().contains_key(&node) {
            return Err(Errno::TXTBSY.into());
        }
        let held = self.cached.nodes.held(&at)?;
        let backing = match writer {
            None => Backing::later(held),
            Some(_) => Backing::open(self.open_backing(caller, &at, asked)?, Some(held)),
        };
        Ok(self.open.insert(at, asked, backing, writer.filter(|_| asked.writes())))
    }

    /// Opens a file again that the kernel has had open since before this daemon, under the number that it knows.
    /// One that has lost its name meanwhile is held as if it had lost it now.
    pub fn reopen(&self, node: NodeId, asked: Asked, handle: u64) -> Result<()> {
        let at = self.cached.slots.activate(&self.snapshots, node)?;
        let flags = asked.backing_flags().difference(OFlags::TRUNC);
        let fd = self.cached.nodes.open(&at, flags)?;
        let nameless = rustix::fs::fstat(&fd)?.st_nlink == 0;
        let writer = if asked.writes() || nameless { Some(at.pin.writer()?) } else { None };
        if let Some(writer) = writer.as_ref().filter(|_| nameless) {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let kept = openat(CWD, proc_path(&fd), flags, Mode::empty())?;
            self.cached.nodes.keep_orphan(writer, node, kept, false);
        }
        let backing = Backing::open(fd, None);
        self.open.insert_as(handle, at, asked, backing, writer.filter(|_| asked.writes()));
        Ok(())
    }

    fn open_backing(&self, caller: &Caller, at: &At, asked: Asked) -> Result<OwnedFd> {
        let flags = asked.backing_flags();
        let open = |flags| self.cached.nodes.open(at, flags);
        match asked.truncates() {
            true => privileges::change(caller, self.cached.nodes.descriptor(at)?, || open(flags)),
            // A file that can only be appended to (`chattr +a`) can be opened in no other way.
            false => match open(flags) {
                Err(Error::Os(Errno::PERM)) if asked.0.contains(OFlags::APPEND) => {
                    open(flags | OFlags::APPEND)
                }
                opened => opened,
            },
        }
    }

    /// Whether cutting the file to `size` would free so much that it takes time.
    pub(super) fn is_large(&self, at: &At, size: u64) -> Result<bool> {
        let stat = rustix::fs::fstat(self.cached.nodes.descriptor(at)?)?;
        Ok((stat.st_size as u64).saturating_sub(size) > LARGE
            && stat.st_blocks as u64 * 512 > LARGE)
    }

    /// An open file by its number.
    pub fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        self.open.get(handle)
    }

    /// The kernel has closed the file.
    pub fn release(&self, handle: u64) {
        drop(self.open.remove(handle));
    }

    /// From now on the file may be changed through a mapping that we don't see: its attributes hold for no
    /// time. The caller makes the kernel drop those that it knows, before the mapping can be made. Each call is
    /// matched by one of [`Fs::release_bypassed`].
    pub fn begin_bypass(&self, node: NodeId) {
        let mut bypassed = self.open.bypassed.lock();
        *bypassed.entry(node).or_default() += 1;
        self.open.bypassed_count.store(bypassed.len(), Relaxed);
    }

    /// Makes a directory's names durable.
    pub fn fsync_directory(&self, caller: &Caller, node: NodeId) -> Result<()> {
        if self.place(node).is_some() {
            return Ok(());
        }
        let at = self.at(caller, node)?;
        Ok(fsync(self.cached.nodes.open(&at, OFlags::RDONLY | OFlags::DIRECTORY)?)?)
    }
}

impl OpenFile {
    /// The backing file, opened with the caller's flags.
    pub fn fd(&self) -> Result<BorrowedFd<'_>> {
        if let Some(fd) = self.backing.fd.get() {
            return Ok(fd.as_fd());
        }
        let path = proc_path(&self.backing.held()?);
        let opened = openat(CWD, path, self.asked.backing_flags(), Mode::empty())?;
        Ok(self.backing.fd.get_or_init(|| opened).as_fd())
    }

    /// The file is read and written by requests only: opens it, and lets go of what else led to it.
    pub fn open_for_requests(&self) -> Result<()> {
        self.fd()?;
        drop(self.backing.held.lock().take());
        Ok(())
    }

    /// What leads to it, where that is known.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.backing.held.lock().clone()
    }

    /// Another writer, if it was opened for writing.
    pub(super) fn writer(&self) -> Option<Writer> {
        self.writer.clone()
    }

    /// The kernel's hold on the file, kept over its closing where there is a descriptor that stays as long; `register`
    /// gets a new one.
    pub fn hold<E>(
        &self,
        register: impl FnOnce(BorrowedFd<'_>) -> std::result::Result<Arc<dyn Hold>, E>,
    ) -> std::result::Result<Arc<dyn Hold>, E>
    where
        E: From<Errno>,
    {
        self.backing.held()?.hold(register)
    }

    /// Reads into `buffer` until it is full or the file ends; says how much.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let fd = self.fd()?;
        transfer(buffer.len(), |done| pread(fd, &mut buffer[done..], offset + done as u64))
    }

    /// Writes; says how much. Takes away set-user-id and set-group-id bits that the caller can't leave.
    pub fn write(&self, caller: &Caller, data: &[u8], offset: u64) -> Result<usize> {
        creds::prepare_thread()?;
        self.check_writer()?;
        let fd = self.fd()?;
        let write = |done: usize| pwrite(fd, &data[done..], offset + done as u64);
        privileges::change(caller, fd, || transfer(data.len(), write))
    }

    /// Makes content (and, unless `data_only`, attributes) durable.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        let fd = self.fd()?;
        Ok(if data_only { fdatasync(fd) } else { fsync(fd) }?)
    }

    /// `fallocate`, with its mode bits.
    pub fn allocate(&self, caller: &Caller, mode: u32, offset: u64, len: u64) -> Result<()> {
        creds::prepare_thread()?;
        self.check_writer()?;
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let fd = self.fd()?;
        Ok(privileges::change(caller, fd, || fallocate(fd, flags, offset, len))?)
    }

    /// The next data or hole from here.
    pub fn seek(&self, position: SeekFrom) -> Result<u64> {
        Ok(seek(self.fd()?, position)?)
    }

    /// Copies within the backing filesystem, sharing blocks where it can.
    pub fn copy_to(
        &self,
        caller: &Caller,
        mut offset: u64,
        target: &OpenFile,
        mut target_offset: u64,
        len: usize,
    ) -> Result<usize> {
        creds::prepare_thread()?;
        target.check_writer()?;
        let (from, to) = (self.fd()?, target.fd()?);
        Ok(privileges::change(caller, to, || {
            copy_file_range(from, Some(&mut offset), to, Some(&mut target_offset), len)
        })?)
    }

    /// Whether it has a set-user-id or set-group-id bit. Who changes such a file must be asked about each time.
    pub fn has_privileges(&self) -> bool {
        match (self.backing.fd.get(), self.held()) {
            (Some(fd), _) => privileges::has_privileges(fd),
            (None, Some(held)) => privileges::has_privileges(&held),
            // It can't be; then nobody is let past us.
            (None, None) => true,
        }
    }

    /// Whether it was opened for writing.
    pub fn check_writer(&self) -> Result<()> {
        if self.writer.is_some() { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

/// Moves `len` bytes, or as many as it can, in as many pieces as it takes; says how many.
fn transfer(
    len: usize,
    mut piece: impl FnMut(usize) -> rustix::io::Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while done < len {
        match piece(done) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}
