//! Random operations on a real mount against a reference: a map of keys with plain trees in it, and the rules of
//! CONTRACTS written down a second time, as simply as possible.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use tonic::Code;

use crate::harness::random::random;
use crate::harness::{Answer, Client, Daemon, is_thin};

const KEYS: usize = 6;
const FILES: usize = 4;

#[derive(Debug, Clone)]
enum Op {
    Prepare { key: usize, parent: Option<usize> },
    View { key: usize, parent: Option<usize> },
    Commit { key: usize, name: usize },
    Remove { key: usize },
    Write { key: usize, file: usize, content: u8, len: usize },
    Append { key: usize, file: usize, content: u8 },
    Truncate { key: usize, file: usize, len: u64 },
    Unlink { key: usize, file: usize },
    Rename { key: usize, from: usize, to: usize },
    Link { key: usize, from: usize, to: usize },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS;
    let file = || 0..FILES;
    let parent = || proptest::option::weighted(0.7, 0..KEYS);
    prop_oneof![
        4 => (key(), parent()).prop_map(|(key, parent)| Op::Prepare { key, parent }),
        2 => (key(), parent()).prop_map(|(key, parent)| Op::View { key, parent }),
        4 => (key(), key()).prop_map(|(key, name)| Op::Commit { key, name }),
        2 => key().prop_map(|key| Op::Remove { key }),
        6 => (key(), file(), any::<u8>(), 0usize..20_000).prop_map(|(key, file, content, len)| Op::Write { key, file, content, len }),
        2 => (key(), file(), any::<u8>()).prop_map(|(key, file, content)| Op::Append { key, file, content }),
        2 => (key(), file(), 0u64..30_000).prop_map(|(key, file, len)| Op::Truncate { key, file, len }),
        2 => (key(), file()).prop_map(|(key, file)| Op::Unlink { key, file }),
        2 => (key(), file(), file()).prop_map(|(key, from, to)| Op::Rename { key, from, to }),
        1 => (key(), file(), file()).prop_map(|(key, from, to)| Op::Link { key, from, to }),
        1 => Just(Op::Restart),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Active,
    View,
    Committed,
}

/// One snapshot of the reference: its files by name; hard links share an index into the contents.
#[derive(Debug, Clone)]
struct Reference {
    kind: Kind,
    parent: Option<usize>,
    names: BTreeMap<usize, usize>,
    contents: Vec<Vec<u8>>,
}

type World = BTreeMap<usize, Reference>;

fn fresh(world: &World, key: usize, parent: Option<usize>, kind: Kind) -> Answer<Reference> {
    let (names, contents) = match parent {
        None => Default::default(),
        Some(parent) => {
            let below = world.get(&parent).ok_or(Code::NotFound)?;
            if below.kind != Kind::Committed {
                return Err(Code::InvalidArgument);
            }
            (below.names.clone(), below.contents.clone())
        }
    };
    if world.contains_key(&key) {
        return Err(Code::AlreadyExists);
    }
    Ok(Reference { kind, parent, names, contents })
}

fn commit(world: &World, key: usize, name: usize) -> Answer<Reference> {
    // The name is looked at first: a commit to a name that is taken says so, whatever the key is.
    if world.contains_key(&name) {
        return Err(Code::AlreadyExists);
    }
    let snapshot = world.get(&key).ok_or(Code::NotFound)?;
    if snapshot.kind != Kind::Active {
        return Err(Code::FailedPrecondition);
    }
    Ok(Reference { kind: Kind::Committed, ..snapshot.clone() })
}

fn remove(world: &World, key: usize) -> Answer<()> {
    world.get(&key).ok_or(Code::NotFound)?;
    if world.values().any(|other| other.parent == Some(key)) {
        Err(Code::FailedPrecondition)
    } else {
        Ok(())
    }
}

struct Run<'a> {
    d: &'a mut Daemon,
    client: Client,
    world: World,
    case: u32,
}

impl Run<'_> {
    fn key(&self, key: usize) -> String {
        format!("c{}k{key}", self.case)
    }

    fn parent(&self, parent: Option<usize>) -> String {
        parent.map(|p| self.key(p)).unwrap_or_default()
    }

    fn dir(&self, key: usize) -> PathBuf {
        let name = self.key(key);
        match self.world.get(&key).map(|s| s.kind) {
            Some(Kind::View) => self.d.viewed(&name),
            Some(Kind::Committed) => self.d.committed(&name),
            _ => self.d.active(&name),
        }
    }

    fn file(&self, key: usize, file: usize) -> PathBuf {
        self.dir(key).join(format!("f{file}"))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Prepare { key, parent } => {
                let expected = fresh(&self.world, key, parent, Kind::Active);
                let (name, below) = (self.key(key), self.parent(parent));
                self.compare(op, key, expected, |client| client.prepare(&name, &below).map(drop));
            }
            Op::View { key, parent } => {
                let expected = fresh(&self.world, key, parent, Kind::View);
                let (name, below) = (self.key(key), self.parent(parent));
                self.compare(op, key, expected, |client| client.view(&name, &below).map(drop));
            }
            Op::Commit { key, name } => {
                let expected = commit(&self.world, key, name);
                let committed = expected.is_ok();
                let (from, to) = (self.key(key), self.key(name));
                self.compare(op, name, expected, |client| client.commit(&from, &to).map(drop));
                if committed {
                    self.world.remove(&key);
                }
            }
            Op::Remove { key } => {
                let expected = remove(&self.world, key);
                let name = self.key(key);
                assert_eq!(self.client.remove(&name), expected, "{op:?}");
                if expected.is_ok() {
                    self.world.remove(&key);
                }
            }
            Op::Restart => self.restart(),
            _ => self.change_files(op),
        }
    }

    fn compare(
        &mut self,
        op: &Op,
        key: usize,
        expected: Answer<Reference>,
        call: impl FnOnce(&mut Client) -> Answer<()>,
    ) {
        let real = call(&mut self.client);
        assert_eq!(real, expected.as_ref().map(drop).map_err(|code| *code), "{op:?}");
        if let Ok(snapshot) = expected {
            self.world.insert(key, snapshot);
        }
    }

    fn restart(&mut self) {
        assert_eq!(self.d.stop(), Some(0), "{}", self.d.log());
        self.d.restart();
        self.client = Client::connect(&self.d.socket());
    }

    /// Does the change to the real file, and to the reference if the rules allow it; both must agree on whether it worked.
    fn change_files(&mut self, op: &Op) {
        let (Op::Write { key, file, .. }
        | Op::Append { key, file, .. }
        | Op::Truncate { key, file, .. }
        | Op::Unlink { key, file }
        | Op::Rename { key, from: file, .. }
        | Op::Link { key, from: file, .. }) = *op
        else {
            unreachable!("only called for changes of files")
        };
        let real = self.change_real(op, key, file);
        let expected = self.change_reference(op, key, file);
        assert_eq!(real.is_ok(), expected, "{op:?}: {real:?}");
    }

    fn change_real(&self, op: &Op, key: usize, file: usize) -> std::io::Result<()> {
        let path = self.file(key, file);
        match *op {
            Op::Write { content, len, .. } => fs::write(path, vec![content; len]),
            Op::Append { content, .. } => fs::OpenOptions::new()
                .append(true)
                .open(path)
                .and_then(|mut f| std::io::Write::write_all(&mut f, &[content; 700])),
            Op::Truncate { len, .. } => {
                fs::OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(len))
            }
            Op::Unlink { .. } => fs::remove_file(path),
            Op::Rename { to, .. } => fs::rename(path, self.file(key, to)),
            Op::Link { to, .. } => fs::hard_link(path, self.file(key, to)),
            _ => unreachable!("only called for changes of files"),
        }
    }

    fn change_reference(&mut self, op: &Op, key: usize, file: usize) -> bool {
        let Some(snapshot) = self.world.get_mut(&key) else { return false };
        if snapshot.kind != Kind::Active {
            // Read-only, but for one call that changes nothing: of a file renamed to its own name the kernel asks
            // nobody (vfs_rename), and the mount as a whole can be written.
            return matches!(*op, Op::Rename { to, .. } if to == file && snapshot.names.contains_key(&file));
        }
        let there = snapshot.names.get(&file).copied();
        match *op {
            Op::Write { content, len, .. } => {
                let index = there.unwrap_or(snapshot.contents.len());
                snapshot.contents.resize(snapshot.contents.len().max(index + 1), Vec::new());
                snapshot.contents[index] = vec![content; len];
                snapshot.names.insert(file, index);
            }
            Op::Append { content, .. } => match there {
                Some(index) => snapshot.contents[index].extend([content; 700]),
                None => return false,
            },
            Op::Truncate { len, .. } => match there {
                Some(index) => snapshot.contents[index].resize(len as usize, 0),
                None => return false,
            },
            Op::Unlink { .. } => return snapshot.names.remove(&file).is_some(),
            Op::Rename { to, .. } => {
                let Some(index) = there else { return false };
                // Renaming onto a hard link of the same file does nothing, says POSIX.
                if snapshot.names.get(&to) != Some(&index) {
                    snapshot.names.remove(&file);
                    snapshot.names.insert(to, index);
                }
            }
            Op::Link { to, .. } => {
                let (Some(index), None) = (there, snapshot.names.get(&to)) else { return false };
                snapshot.names.insert(to, index);
            }
            _ => unreachable!("only called for changes of files"),
        }
        true
    }

    /// Every snapshot of the reference is there with exactly its files, and nothing else is.
    fn verify(&mut self) {
        let prefix = format!("c{}k", self.case);
        let real = self.client.list().into_iter().filter(|s| s.key.starts_with(&prefix)).count();
        assert_eq!(real, self.world.len());
        for (key, snapshot) in &self.world {
            let dir = self.dir(*key);
            assert_eq!(
                fs::read_dir(&dir).unwrap().count(),
                snapshot.names.len(),
                "{}",
                dir.display()
            );
            for (file, index) in &snapshot.names {
                let content = fs::read(self.file(*key, *file)).unwrap();
                assert!(
                    content == snapshot.contents[*index],
                    "content of {}",
                    self.file(*key, *file).display()
                );
            }
        }
    }

    fn clear(&mut self) {
        while let Some(leaf) =
            self.world.keys().copied().find(|key| remove(&self.world, *key).is_ok())
        {
            assert_eq!(self.client.remove(&self.key(leaf)), Ok(()));
            self.world.remove(&leaf);
        }
    }
}

#[test]
fn random_operations_agree_with_the_reference() {
    let daemon = Mutex::new((Daemon::start(), 0));
    let config = random(if is_thin() { 4 } else { 32 }, 200);
    proptest!(config, |(ops in proptest::collection::vec(op(), 1..60))| {
        let mut guard = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let (d, case) = &mut *guard;
        *case += 1;
        let client = Client::connect(&d.socket());
        let mut run = Run { d, client, world: World::new(), case: *case };
        for op in &ops {
            run.apply(op);
        }
        run.verify();
        run.clear();
    });
    let (d, _) = daemon.into_inner().unwrap();
    let mut client = Client::connect(&d.socket());
    client.gc();
    assert_eq!(client.check(), [""; 0]);
    d.finish();
}
