//! Events: what happened, for those who watch. Plain data; the store keeps them in order
//! ([`crate::meta`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::Namespace;

/// What kind of thing happened. containerd's words where it has one.
///
/// Whoever has something new to tell adds a constant here; topics are kept as text, so that a
/// reader shows those of a newer thinfs, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Cow<'static, str>);

impl Topic {
    /// An active snapshot was prepared or a view made: `id`, `kind`, `parent`.
    pub const SNAPSHOT_PREPARE: Topic = Topic(Cow::Borrowed("/snapshot/prepare"));
    /// An active snapshot (the key) was committed: `id`, `name`, `parent`.
    pub const SNAPSHOT_COMMIT: Topic = Topic(Cow::Borrowed("/snapshot/commit"));
    /// A snapshot was removed: `id`, `kind`, `parent`.
    pub const SNAPSHOT_REMOVE: Topic = Topic(Cow::Borrowed("/snapshot/remove"));
    /// Labels of a snapshot were changed: `id`, `kind`.
    pub const SNAPSHOT_UPDATE: Topic = Topic(Cow::Borrowed("/snapshot/update"));
    /// A lease was made; the key is its id: `expires`, if it ends by itself.
    pub const LEASE_CREATE: Topic = Topic(Cow::Borrowed("/lease/create"));
    /// Labels of a lease were changed; the key is its id: `expires`. Not told where only its end was put off.
    pub const LEASE_UPDATE: Topic = Topic(Cow::Borrowed("/lease/update"));
    /// A lease was deleted; the key is its id.
    pub const LEASE_DELETE: Topic = Topic(Cow::Borrowed("/lease/delete"));
    /// A lease has run out; the key is its id.
    pub const LEASE_EXPIRE: Topic = Topic(Cow::Borrowed("/lease/expire"));
    /// A namespace was made; it is named as the event's namespace, as in the next two.
    pub const NAMESPACE_CREATE: Topic = Topic(Cow::Borrowed("/namespace/create"));
    /// Labels of a namespace were changed.
    pub const NAMESPACE_UPDATE: Topic = Topic(Cow::Borrowed("/namespace/update"));
    /// A namespace was deleted.
    pub const NAMESPACE_DELETE: Topic = Topic(Cow::Borrowed("/namespace/delete"));
    /// A collection removed something: how many, by kind (`snapshot`, `layer` …), `stayed`, `mark_us`, `sweep_us`.
    pub const GC_DONE: Topic = Topic(Cow::Borrowed("/gc/done"));
    /// A collection left something undone, for another reason than the last: `failed`, `reason`.
    pub const GC_FAIL: Topic = Topic(Cow::Borrowed("/gc/fail"));
    /// A layer was registered; the key is its chain id.
    pub const LAYER_CREATE: Topic = Topic(Cow::Borrowed("/layer/create"));
    /// A layer's last reference is gone; the key is its chain id.
    pub const LAYER_DELETE: Topic = Topic(Cow::Borrowed("/layer/delete"));
    /// The pool has got fuller than 80, 90, 95 or 99 %; told once on the way up: `percent`, `filling`. Or its metadata
    /// are getting short: `reason`.
    pub const POOL_LOW: Topic = Topic(Cow::Borrowed("/pool/low"));
    /// The pool has run out of room: `reason`.
    pub const POOL_FULL: Topic = Topic(Cow::Borrowed("/pool/full"));
    /// The pool doesn't work as it should, as when it has become read-only: `reason`.
    pub const POOL_FAIL: Topic = Topic(Cow::Borrowed("/pool/fail"));
    /// The pool has room again, and is well.
    pub const POOL_RECOVER: Topic = Topic(Cow::Borrowed("/pool/recover"));
    /// Files of the pool have been made larger: `device` (`data` or `metadata`), `bytes`.
    pub const POOL_GROW: Topic = Topic(Cow::Borrowed("/pool/grow"));
    /// The store was restored from a backup: sequence numbers leap, what was between is unknown.
    pub const STORE_RESTORE: Topic = Topic(Cow::Borrowed("/store/restore"));
    /// `check --repair` mended something: `what`.
    pub const STORE_REPAIR: Topic = Topic(Cow::Borrowed("/store/repair"));

    /// A topic as it was read.
    pub fn from_text(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of thing.
    pub topic: Topic,
    /// Where; `None` where no namespace is concerned.
    pub namespace: Option<Namespace>,
    /// To which object; empty where it is none in particular.
    pub key: String,
    /// More about it, by topic.
    pub details: BTreeMap<String, String>,
    /// When.
    pub at: SystemTime,
}

impl Event {
    /// Something happens now.
    pub fn new(topic: Topic) -> Self {
        Self {
            topic,
            namespace: None,
            key: String::new(),
            details: BTreeMap::new(),
            at: SystemTime::now(),
        }
    }

    /// To this object of this namespace.
    pub fn about(topic: Topic, namespace: &Namespace, key: impl fmt::Display) -> Self {
        Self { namespace: Some(namespace.clone()), key: key.to_string(), ..Self::new(topic) }
    }

    /// With one more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.details.insert(name.to_owned(), value.to_string());
        self
    }
}

/// An event that has become durable, with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Rises by one from event to event, over restarts; only a restored store leaps.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
}

/// Takes events from those who change no record of the store, like the watcher of the pool. What
/// does change records puts its events into the same batch.
pub trait Publisher: Send + Sync + fmt::Debug {
    /// Makes the event durable and shows it to the readers. Blocks for one synced write, so not to
    /// be called under a lock. A failure is logged: the event is lost, nothing else.
    fn publish(&self, event: Event);
}
