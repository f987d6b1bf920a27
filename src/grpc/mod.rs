//! The daemon's socket: containerd's snapshot service, our own admin service and the layer
//! store's, side by side.
//!
//! Adapters only: a method decodes its request, calls the rules on a blocking thread, encodes the
//! answer. What went wrong becomes a gRPC status at one place, [`status`]. Nothing here knows a
//! device, RocksDB or FUSE's protocol; the FUSE root is known as directory names and one function
//! that waits until the kernel shows what has changed.

pub mod admin;
mod call;
pub mod containerd;
mod convert;
mod diff;
mod events;
mod gc;
mod layer_convert;
mod layer_status;
mod layer_work;
pub mod layers;
mod leases;
mod namespaces;
mod passed;
mod server;
mod socket;
mod space;
pub mod status;
mod together;

pub use passed::descriptor;
pub use server::{ServeError, serve};
pub use socket::{Listener, SocketError};

/// Messages, clients and servers generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated; the protos hold the docs
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/services.rs"));
}

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::fs::names;
use crate::gc::Collector;
use crate::layer_store::LayerStore;
use crate::snapshot::{Info, Snapshots};
use crate::types::{Kind, MountForm, Namespace, SnapshotKey};

/// What the services work on. Shared by every request.
pub struct Context {
    /// The rules.
    pub snapshots: Arc<Snapshots>,
    /// Namespaces, leases and the collector.
    pub collector: Arc<Collector>,
    /// The layer store on them.
    pub layers: Arc<LayerStore>,
    /// Returns once the kernel shows every change that is durable by now.
    pub settle: Box<dyn Fn() + Send + Sync>,
    /// What the kernel has asked of the mount so far.
    pub requests: Box<dyn Fn() -> Requests + Send + Sync>,
    /// The namespace that containerd's service works in.
    pub containerd_namespace: Namespace,
    /// How snapshots are mounted whose labels don't say.
    pub mount_form: MountForm,
    /// Holds everything that the daemon keeps.
    pub root: PathBuf,
    /// Where the snapshots appear.
    pub mount: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// When the daemon started.
    pub started: SystemTime,
}

/// What the kernel has asked of the mount, as `status` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Every kind of request, with its count.
    pub counts: Vec<(&'static str, u64)>,
    /// Those that somebody waited for.
    pub synchronous: u64,
    /// Those that were handed to the threads for what may take long.
    pub waited: u64,
    /// How often a file was opened whose content goes past the daemon.
    pub passthrough: u64,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("mount", &self.mount)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The directory of a snapshot.
    fn directory_of(&self, namespace: &Namespace, kind: Kind, key: &SnapshotKey) -> String {
        let path = self.mount.join(names::path_of(&Namespace::default(), namespace, kind, key));
        path.to_str()
            .expect("config admits only a UTF-8 mount point, and keys are UTF-8")
            .to_owned()
    }

    fn directory(&self, info: &Info) -> String {
        self.directory_of(&info.namespace, info.snapshot.kind, &info.key)
    }
}
