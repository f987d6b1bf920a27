//! What is known of every key: kept in memory, and where the whole machine is cut off, on a disk that is cut off less.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{LockResult, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

/// What a key may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Absent,
    Active,
    View,
    Committed,
}

/// What is known of one key: every state that it may be in, and its committed ancestors, nearest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    pub states: Vec<State>,
    pub chain: Vec<String>,
}

/// What is known of every key.
pub type Keys = BTreeMap<String, Known>;

/// Every key that anybody used.
#[derive(Debug, Default)]
pub struct Book {
    keys: Mutex<Keys>,
    disk: Option<Mutex<Log>>,
    history: Option<Mutex<History>>,
}

/// Every state of the book so far, and who is told of the number of the newest.
struct History {
    states: Vec<Keys>,
    tell: Box<dyn Fn(usize) + Send>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("states", &self.states.len()).finish_non_exhaustive()
    }
}

impl Book {
    /// The keys.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, Keys>> {
        self.keys.lock()
    }

    /// Writes down what is known of a key; when it returns the disk has it.
    pub fn note(&self, key: &str, states: &[State], chain: &[String]) {
        let known = Known { states: states.to_vec(), chain: chain.to_vec() };
        let mut keys = self.keys.lock().unwrap();
        if let Some(disk) = &self.disk {
            disk.lock().unwrap().append(key, &known);
        }
        keys.insert(key.to_owned(), known);
        if let Some(history) = &self.history {
            let mut history = history.lock().unwrap();
            history.states.push(keys.clone());
            (history.tell)(history.states.len() - 1);
        }
    }

    /// A blank book that remembers each of its states. `tell` is told of each one's number before anything else happens.
    pub fn with_history(tell: impl Fn(usize) + Send + 'static) -> Book {
        tell(0);
        let history = History { states: vec![Keys::new()], tell: Box::new(tell) };
        Book { history: Some(Mutex::new(history)), ..Book::default() }
    }

    /// The states by their numbers.
    pub fn into_states(self) -> Vec<Keys> {
        self.history.expect("made with a history").into_inner().unwrap().states
    }

    /// A book in this state.
    pub fn of(keys: Keys) -> Book {
        Book { keys: Mutex::new(keys), ..Book::default() }
    }

    /// What an earlier boot wrote down on a disk; nothing if it is blank.
    pub fn load(disk: &Path) -> Book {
        let log = Log::open(disk);
        Book { keys: Mutex::new(log.read()), ..Book::default() }
    }

    /// Writes down what is known now, and what comes to be known from here on.
    pub fn keep_on(&mut self, disk: &Path) {
        let mut log = Log::open(disk);
        log.begin_anew(&self.keys.lock().unwrap());
        self.disk = Some(Mutex::new(log));
    }
}

/// A log of notes on a block device, one a block, written past every cache of the guest: what its process handed to the
/// host before it was killed is there. Each boot uses the other half, and its first block last.
#[derive(Debug)]
struct Log {
    disk: File,
    generation: u64,
    next: u64,
}

/// As O_DIRECT wants it.
#[repr(C, align(4096))]
struct Block([u8; 4096]);

/// Blocks in a half.
const HALF: u64 = 8192;

impl Log {
    fn open(path: &Path) -> Log {
        let flags = libc::O_DIRECT | libc::O_DSYNC;
        let disk = File::options().read(true).write(true).custom_flags(flags).open(path);
        let mut log = Log { disk: disk.unwrap(), generation: 0, next: 1 };
        let head = |log: &Log, half| log.block(half * HALF).map_or(0, |(generation, _)| generation);
        log.generation = head(&log, 0).max(head(&log, 1));
        log
    }

    fn read(&self) -> Keys {
        let start = self.generation % 2 * HALF;
        let notes = (1..HALF).map_while(|at| {
            let (generation, text) = self.block(start + at)?;
            (generation == self.generation).then_some(text)
        });
        notes.map(|text| serde_json::from_str::<(String, Known)>(&text).unwrap()).collect()
    }

    fn begin_anew(&mut self, keys: &Keys) {
        self.generation += 1;
        self.next = 1;
        keys.iter().for_each(|(key, known)| self.append(key, known));
        self.write(self.generation % 2 * HALF, "");
    }

    fn append(&mut self, key: &str, known: &Known) {
        assert!(self.next < HALF, "the log is full");
        let text = serde_json::to_string(&(key, known)).unwrap();
        self.write(self.generation % 2 * HALF + self.next, &text);
        self.next += 1;
    }

    fn write(&self, at: u64, text: &str) {
        let mut block = Block([0; 4096]);
        block.0[..8].copy_from_slice(&self.generation.to_le_bytes());
        block.0[8..10].copy_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
        block.0[10..10 + text.len()].copy_from_slice(text.as_bytes());
        self.disk.write_all_at(&block.0, at * 4096).unwrap();
    }

    fn block(&self, at: u64) -> Option<(u64, String)> {
        let mut block = Block([0; 4096]);
        self.disk.read_exact_at(&mut block.0, at * 4096).unwrap();
        let generation = u64::from_le_bytes(std::array::from_fn(|i| block.0[i]));
        let len = usize::from(u16::from_le_bytes([block.0[8], block.0[9]]));
        let text = String::from_utf8(block.0[10..10 + len].to_vec()).ok()?;
        (generation > 0).then_some((generation, text))
    }
}
