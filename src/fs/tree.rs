//! The virtual directories above the snapshots: what they are called, when they changed, what they list. And the
//! symlinks in one of them.
//!
//! ```text
//! /                     1
//! ├── active/           2   snapshots of the namespace that the root shows
//! ├── view/             3
//! ├── committed/        4
//! ├── .ns/              5   the other namespaces
//! │   └── <namespace>/  16 + 4n, then its active/, view/ and committed/; n is a hash of its name
//! └── images/           6   the images of the layer store
//!     └── <name>        3·2^30 + n, a symlink to its topmost layer; n is a hash of both
//! ```
//!
//! The kernel keeps what a symlink says for as long as it knows the node. So an image that comes to name another
//! layer gets another node.
//!
//! A namespace's node ids are the same in every daemon of one root, but for two that fall on one hash.
//!
//! A listing is ordered by snapshot id, and the id is the cookie from which it goes on: ids never change and
//! are never used again, so that a listing that runs while snapshots come and go shows each of the others
//! exactly once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use super::types::{Attr, Moment, NodeId};
use super::{Result, names};
use crate::snapshot::Snapshots;
use crate::types::{ChainId, GivenName, Kind, LAYERS, Namespace, SnapshotId, is_in_the_making};

const TOP: u64 = 1;
const NAMESPACES: u64 = 5;
const IMAGES: u64 = 6;
const FIRST_NAMESPACE: u64 = 16;
const EACH_NAMESPACE: u64 = 4;
/// How many numbers there are for namespaces, and for images.
const NUMBERS: u64 = 1 << 29;
/// Behind those of namespaces.
const FIRST_IMAGE: u64 = 3 << 30;
/// How many listings are kept while they are being read.
const LISTINGS: usize = 4;
/// How many snapshots are asked of the store at a time.
const PAGE: usize = 1024;

/// A virtual directory, or a symlink in one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The mount point.
    Top,
    /// `.ns`.
    Namespaces,
    /// `.ns/<namespace>`.
    Namespace(Namespace),
    /// The snapshots of one kind.
    Snapshots(Namespace, Kind),
    /// `images`.
    Images,
    /// `images/<name>`: a symlink to the snapshot of this layer.
    Image(GivenName, ChainId),
}

/// The snapshots of one directory, by id, with their names.
pub type Listing = Vec<(SnapshotId, String)>;

/// The virtual directories.
#[derive(Debug)]
pub struct Tree {
    shown: Namespace,
    permissions: u32,
    started: Moment,
    /// By the number that is in their node ids.
    namespaces: RwLock<HashMap<u64, Namespace>>,
    /// Those that were looked at, by the number that is in their node ids.
    images: RwLock<HashMap<u64, (GivenName, ChainId)>>,
    changes: Mutex<HashMap<Place, Changed>>,
    listings: Mutex<LruCache<Place, (u64, Arc<Listing>)>>,
}

#[derive(Debug, Clone, Copy)]
struct Changed {
    version: u64,
    at: Moment,
}

impl Tree {
    /// `shown`: the namespace in the root. `permissions`: of the directories that hold snapshots.
    pub fn new(shown: Namespace, permissions: u32) -> Self {
        Self {
            shown,
            permissions,
            started: SystemTime::now().into(),
            namespaces: RwLock::default(),
            images: RwLock::default(),
            changes: Mutex::default(),
            listings: Mutex::new(LruCache::new(
                NonZeroUsize::new(LISTINGS).unwrap_or(NonZeroUsize::MIN),
            )),
        }
    }

    /// The namespace that the root shows.
    pub fn shown(&self) -> &Namespace {
        &self.shown
    }

    /// When the daemon started.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The virtual directory that a node is.
    pub fn place(&self, node: NodeId) -> Option<Place> {
        let kind = |offset: u64| Kind::ALL[offset as usize];
        match node.0 {
            TOP => Some(Place::Top),
            2..=4 => Some(Place::Snapshots(self.shown.clone(), kind(node.0 - 2))),
            NAMESPACES => Some(Place::Namespaces),
            IMAGES => Some(Place::Images),
            _ if node.snapshot().is_some() => None,
            id if id >= FIRST_IMAGE => {
                let (name, top) = self.images.read().get(&(id - FIRST_IMAGE))?.clone();
                Some(Place::Image(name, top))
            }
            id => {
                let index = id.checked_sub(FIRST_NAMESPACE)?;
                let namespace = self.namespaces.read().get(&(index / EACH_NAMESPACE))?.clone();
                Some(match index % EACH_NAMESPACE {
                    0 => Place::Namespace(namespace),
                    offset => Place::Snapshots(namespace, kind(offset - 1)),
                })
            }
        }
    }

    /// The node of a virtual directory, which the kernel will know from now on.
    pub fn node(&self, place: &Place) -> NodeId {
        self.known_node(place).unwrap_or_else(|| {
            match place {
                Place::Namespace(namespace) | Place::Snapshots(namespace, _) => {
                    know(&mut self.namespaces.write(), namespace.as_str(), namespace);
                }
                Place::Image(name, top) => {
                    let image = (name.clone(), *top);
                    know(&mut self.images.write(), &image_text(&image), &image);
                }
                Place::Top | Place::Namespaces | Place::Images => {}
            }
            self.known_node(place).unwrap_or(NodeId(TOP))
        })
    }

    /// The node of a virtual directory, if the kernel can know it.
    pub fn known_node(&self, place: &Place) -> Option<NodeId> {
        let base = |namespace: &Namespace| {
            let namespaces = self.namespaces.read();
            let number = number(&namespaces, namespace.as_str(), namespace);
            namespaces.contains_key(&number).then_some(FIRST_NAMESPACE + EACH_NAMESPACE * number)
        };
        let image = |image: (GivenName, ChainId)| {
            let images = self.images.read();
            let number = number(&images, &image_text(&image), &image);
            images.contains_key(&number).then_some(FIRST_IMAGE + number)
        };
        let offset =
            |kind: &Kind| Kind::ALL.iter().position(|other| other == kind).unwrap_or(0) as u64;
        Some(NodeId(match place {
            Place::Top => TOP,
            Place::Namespaces => NAMESPACES,
            Place::Images => IMAGES,
            Place::Image(name, top) => image((name.clone(), *top))?,
            Place::Namespace(namespace) => base(namespace)?,
            Place::Snapshots(namespace, kind) if *namespace == self.shown => 2 + offset(kind),
            Place::Snapshots(namespace, kind) => base(namespace)? + 1 + offset(kind),
        }))
    }

    /// The directory that holds a virtual directory.
    pub fn parent(&self, place: &Place) -> Place {
        match place {
            Place::Top | Place::Namespaces | Place::Images => Place::Top,
            Place::Image(..) => Place::Images,
            Place::Namespace(_) => Place::Namespaces,
            Place::Snapshots(namespace, _) if *namespace == self.shown => Place::Top,
            Place::Snapshots(namespace, _) => Place::Namespace(namespace.clone()),
        }
    }

    /// What the symlink of an image says: the way to its topmost layer, from the directory that it is in.
    pub fn target(&self, top: &ChainId) -> String {
        let committed = Kind::Committed;
        let way = match self.shown.as_str() == LAYERS {
            true => format!("../{committed}"),
            false => format!("../{}/{LAYERS}/{committed}", names::NAMESPACES),
        };
        format!("{way}/{top}")
    }

    /// The attributes of a virtual directory. Its times say when something in it came or went last, since
    /// the daemon started.
    pub fn attr(&self, place: &Place) -> Attr {
        if let Place::Image(_, top) = place {
            return Attr::of_symlink(self.node(place), self.target(top).len(), self.started);
        }
        let changed = self.changes.lock().get(place).map_or(self.started, |changed| changed.at);
        let permissions =
            if matches!(place, Place::Snapshots(..)) { self.permissions } else { 0o755 };
        Attr::of_directory(self.node(place), permissions, changed)
    }

    /// Something in the directory came or went.
    pub fn touch(&self, place: &Place) {
        let at = SystemTime::now().into();
        let mut changes = self.changes.lock();
        let changed = changes.entry(place.clone()).or_insert(Changed { version: 0, at });
        *changed = Changed { version: changed.version + 1, at };
    }

    /// What a directory of snapshots lists. A listing that has begun may go on as of its beginning.
    pub fn listing(
        &self,
        snapshots: &Snapshots,
        namespace: &Namespace,
        kind: Kind,
        begun: bool,
    ) -> Result<Arc<Listing>> {
        let place = Place::Snapshots(namespace.clone(), kind);
        let version = self.changes.lock().get(&place).map_or(0, |changed| changed.version);
        if let Some((listed, listing)) = self.listings.lock().get(&place)
            && (begun || *listed == version)
        {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(read_listing(snapshots, namespace, kind)?);
        self.listings.lock().put(place, (version, Arc::clone(&listing)));
        Ok(listing)
    }
}

/// The number of something with this text: its own, or the one that it is to get.
fn number<T: PartialEq>(known: &HashMap<u64, T>, text: &str, wanted: &T) -> u64 {
    let mut number = u64::from(crc32c::crc32c(text.as_bytes())) % NUMBERS;
    while known.get(&number).is_some_and(|other| other != wanted) {
        number = (number + 1) % NUMBERS;
    }
    number
}

fn know<T: PartialEq + Clone>(known: &mut HashMap<u64, T>, text: &str, wanted: &T) {
    let number = number(known, text, wanted);
    known.entry(number).or_insert_with(|| wanted.clone());
}

fn image_text((name, top): &(GivenName, ChainId)) -> String {
    format!("{name} {top}")
}

fn read_listing(snapshots: &Snapshots, namespace: &Namespace, kind: Kind) -> Result<Listing> {
    let mut listing = Listing::new();
    let mut after = None;
    loop {
        let page = snapshots.page(namespace, kind, after.as_ref(), PAGE)?;
        let last = page.last().map(|(key, _)| key.clone());
        let shown = page.iter().filter(|(key, _)| !is_in_the_making(namespace, key));
        listing.extend(shown.map(|(key, id)| (*id, names::encode(key))));
        if last.is_none() || page.len() < PAGE {
            break;
        }
        after = last;
    }
    listing.sort_unstable_by_key(|(id, _)| *id);
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_virtual_directory_has_one_node_and_each_node_one_directory() {
        let tree = Tree::new(Namespace::default(), 0o755);
        let other = || Namespace::new("ctr").unwrap();
        let image = |top: u8| {
            Place::Image(GivenName::new("debian:12").unwrap(), ChainId::from_bytes([top; 32]))
        };
        let mut nodes = std::collections::HashSet::new();
        for place in [
            Place::Top,
            Place::Namespaces,
            Place::Namespace(other()),
            Place::Snapshots(other(), Kind::Active),
            Place::Snapshots(other(), Kind::Committed),
            Place::Snapshots(Namespace::default(), Kind::Active),
            Place::Snapshots(Namespace::default(), Kind::View),
            Place::Snapshots(Namespace::default(), Kind::Committed),
            Place::Images,
            image(1),
            image(2),
        ] {
            let node = tree.node(&place);
            assert!(nodes.insert(node), "{place:?}");
            assert_eq!(tree.place(node), Some(place));
        }
        assert_eq!(tree.place(NodeId(7)), None);
        assert_eq!(tree.place(NodeId(16)), None, "the number follows from the name");
        let again = Tree::new(Namespace::default(), 0o755);
        let place = Place::Snapshots(other(), Kind::View);
        assert_eq!(again.node(&place), tree.node(&place), "and is the same in every daemon");
    }
}
