//! Images: a name for a chain of layers and the configuration that belongs to it.
//!
//! ```text
//!  OCI archive, OCI layout, docker-archive          source: members by name
//!        │ source ─▶ manifest (which images, which blobs) ─▶ import: layers in order, then one batch
//!        ▼                                                     names the image
//!  export: OCI archive (docker's manifest.json beside) ◀─ configuration + each layer's own tar
//! ```
//!
//! Every digest on the way is verified: index → manifest → configuration → diff ids. A layer's bytes
//! are right when its diff id is the one that the configuration has, whatever it was compressed
//! with.

mod export;
mod import;
mod json;
mod manifest;
mod source;
mod spool;

pub use import::{ImportImage, ImportedImage};
pub use source::Source;
