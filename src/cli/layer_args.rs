//! What `layer`, `image` and `rw` accept, with the help texts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// OCI layers: import, give back byte for byte, list, remove
///
/// A layer is named by its chain id, which stands for its tar and everything below it. It stays as
/// long as somebody holds it: whoever imported it, an image, a read-write layer or a layer on it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  base=$(thinfs layer import < base.tar.gz)
  app=$(thinfs layer import --parent \"$base\" < app.tar.zst)
  thinfs layer export \"$app\" > app.tar          the very bytes, uncompressed
  thinfs rw create web --parent \"$app\"")]
pub(super) struct LayerArgs {
    #[command(subcommand)]
    pub(super) command: LayerCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum LayerCommand {
    /// Unpack a layer's tar from standard input and print its chain id
    ///
    /// gzip and zstd are recognised. A layer that exists already gets one more reference.
    Import {
        /// Chain id of the layer below [default: none, a base layer]
        #[arg(long, short, value_name = "CHAIN")]
        parent: Option<String>,
        /// The tar [default: standard input]
        file: Option<PathBuf>,
    },
    /// Write a layer's tar to standard output, byte for byte as it was imported
    Export {
        /// Chain id
        chain: String,
        /// Write a new tar instead: what changed since this layer below it
        #[arg(long, value_name = "CHAIN", conflicts_with = "flat")]
        from: Option<String>,
        /// Write a new tar instead: everything that is there
        #[arg(long)]
        flat: bool,
    },
    /// List layers, parents before their children
    #[command(visible_alias = "list")]
    Ls,
    /// Draw which layer stands on which
    Tree,
    /// Show all that is known of a layer, and who holds it
    Info {
        /// Chain id
        chain: String,
    },
    /// Take a reference, so that the layer stays
    Get {
        /// Chain id
        chain: String,
    },
    /// Give a reference back; print what was removed with the last one
    #[command(visible_aliases = ["release", "remove"])]
    Rm {
        /// Chain ids
        #[arg(required = true, value_name = "CHAIN")]
        chains: Vec<String>,
    },
    /// Remove layers that nobody holds, which an interrupted removal can leave
    Prune,
}

/// Images: import from archives, list, export, remove
///
/// An image is a name for a chain of layers and their configuration. MOUNT/images/NAME shows its
/// files; `/` in the name is written as %2F there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thinfs image import debian.tar                 from docker save, ctr export or skopeo
  thinfs image import layout --only v2 --name app:2
  ls \"$(thinfs image path debian:12)\"
  thinfs rw create web --parent debian:12
  thinfs image export debian:12 > debian.oci.tar")]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    pub(super) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Import an OCI archive, an OCI layout directory or a docker archive
    ///
    /// Digests are verified; layers that are there already are not unpacked again. A name that is
    /// taken names the new image afterwards.
    Import {
        /// The archive or the directory; - is standard input [default: -]
        file: Option<PathBuf>,
        /// What to call the image [default: as the archive does]
        #[arg(long)]
        name: Option<String>,
        /// Which image of an archive that holds several, as the archive calls it [default: all]
        #[arg(long, value_name = "IMAGE")]
        only: Option<String>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Print the directory of an image's files
    Path {
        /// The image
        name: String,
    },
    /// Write an image to standard output as an OCI archive, which docker reads too
    ///
    /// Layers are uncompressed and byte for byte those that were imported.
    Export {
        /// The image
        name: String,
    },
    /// Remove images, and the layers that nobody else holds
    #[command(visible_alias = "remove")]
    Rm {
        /// The images
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Read-write layers: a writable directory on a layer or an image
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cd \"$(thinfs rw create web --parent debian:12)\"
  thinfs rw changes web
  thinfs rw commit web                           a new layer with the changes
  thinfs rw rm web")]
pub(super) struct RwArgs {
    #[command(subcommand)]
    pub(super) command: RwCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum RwCommand {
    /// Make a read-write layer and print its directory
    Create {
        /// Its name
        name: String,
        /// Chain id of a layer, or name of an image [default: start empty]
        #[arg(long, short, value_name = "CHAIN|IMAGE")]
        parent: Option<String>,
        /// A tar with files that are there from the start and don't count as changes
        #[arg(long, value_name = "TAR")]
        init: Option<PathBuf>,
        /// Security label that it will be mounted with; kept and shown
        #[arg(long, value_name = "LABEL", default_value = "")]
        mount_label: String,
        /// Most that its filesystem can hold (thin backend), like 20G
        #[arg(long, value_name = "SIZE")]
        size: Option<crate::config::Bytes>,
    },
    /// Take a reference and print its directory
    Get {
        /// Its name
        name: String,
    },
    /// List read-write layers
    #[command(visible_alias = "list")]
    Ls {
        /// Measure them
        #[arg(long, short)]
        usage: bool,
    },
    /// Show all that is known of a read-write layer
    Info {
        /// Its name
        name: String,
    },
    /// List the paths that it changed
    Changes {
        /// Its name
        name: String,
    },
    /// Make a layer of what it changed, on its parent, and print the chain id
    Commit {
        /// Its name
        name: String,
    },
    /// Give a reference back; with the last one it goes
    #[command(visible_aliases = ["release", "remove"])]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
