//! What the layer store refuses, and what can go wrong below it.

use std::io;
use std::path::PathBuf;

use crate::types::{ChainId, DiffId, MAX_DEPTH};
use crate::{layer, meta, snapshot, tree};

/// The error of every operation on layers, read-write layers and images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No layer has this chain id.
    #[error("layer {0} not found")]
    LayerNotFound(ChainId),
    /// No read-write layer has this name.
    #[error("read-write layer {0:?} not found")]
    RwNotFound(String),
    /// No image has this name.
    #[error("image {0:?} not found")]
    ImageNotFound(String),
    /// A read-write layer of this name exists.
    #[error("read-write layer {0:?} already exists")]
    RwExists(String),
    /// The layer would stand on too many.
    #[error("max depth exceeded: layer {0} stands on {MAX_DEPTH} layers already")]
    MaxDepth(ChainId),
    /// A reference was to be given back that nobody has.
    #[error("layer not retained: {0} has no reference by a user")]
    NotRetained(ChainId),
    /// The same for a read-write layer, which a lease still holds.
    #[error("read-write layer not retained: nobody has a reference of {0:?}, only leases hold it")]
    RwNotRetained(String),
    /// The layer to compare with is not below the other.
    #[error("layer {ancestor} is not below layer {chain}: cannot provide diff to non-parent")]
    NotAncestor {
        /// The layer.
        chain: ChainId,
        /// The one that isn't below it.
        ancestor: ChainId,
    },
    /// The layer's bytes are not those that were announced.
    #[error("the layer's diff id is {found}, but {expected} was announced: its data is damaged")]
    WrongDiffId {
        /// What was announced.
        expected: DiffId,
        /// What the bytes have.
        found: DiffId,
    },
    /// An argument that says nothing sensible.
    #[error("{0}")]
    InvalidArgument(String),
    /// The file is no image, or a damaged one.
    #[error("not a sound image: {0}")]
    InvalidImage(String),
    /// A layer's tar could not be read, unpacked or written.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// The snapshots below failed or refused.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// Comparing two trees failed.
    #[error("comparing two layers")]
    Tree(#[from] tree::Error),
    /// A file operation failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl From<meta::Error> for Error {
    fn from(error: meta::Error) -> Self {
        Error::Snapshot(error.into())
    }
}

/// What the layer store returns.
pub type Result<T> = std::result::Result<T, Error>;
