//! The daemon's settings: plain data, validated before anything starts.
//!
//! Three layers, the later winning: the file (TOML), the environment (`THINFS_*`), the flags. clap
//! merges the last two, so [`Settings`] is what one layer says and [`Config`] what all of them
//! amount to. Nothing here opens, makes or checks a directory: that is the daemon's start.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::types::{InvalidName, LAYERS, MountForm, Namespace};

mod bytes;
mod gc;
mod time;

pub use bytes::Bytes;
pub use gc::{Collecting, Fraction};
pub use time::Span;

/// The heading of the flags that every subcommand takes.
pub(crate) const GLOBAL: &str = "Global options";
/// Where settings are read from when no file is named and this one exists.
pub const DEFAULT_FILE: &str = "/etc/thinfs/config.toml";
/// Where a daemon keeps everything unless told otherwise.
pub const DEFAULT_ROOT: &str = "/var/lib/thinfs";
/// How many volumes stay activated while nobody uses them.
pub const DEFAULT_MAX_ACTIVE: usize = 128;
/// The thinfs namespace that containerd's snapshots live in.
pub const DEFAULT_CONTAINERD_NAMESPACE: &str = "containerd";
/// Size of an empty snapshot's filesystem, as containerd's devmapper users choose it.
const DEFAULT_VOLUME_SIZE: Bytes = Bytes(10 << 30);
/// ext4 with a journal doesn't fit into less.
const MIN_VOLUME_SIZE: Bytes = Bytes(16 << 20);
/// A pool of fewer data blocks than this holds no filesystem.
const MIN_POOL_SIZE: Bytes = Bytes(64 << 20);

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file isn't TOML, or has a key that no setting has.
    #[error("configuration file {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        message: String,
    },
    /// A path isn't absolute.
    #[error("{setting} must be an absolute path, not {path:?}")]
    RelativePath {
        /// The setting's name.
        setting: &'static str,
        /// What was given.
        path: PathBuf,
    },
    /// A path that goes into messages isn't UTF-8.
    #[error("{setting} must be valid UTF-8, not {path:?}")]
    NotUtf8 {
        /// The setting's name.
        setting: &'static str,
        /// What was given.
        path: PathBuf,
    },
    /// A size is below what works.
    #[error("{setting} must be at least {least}, not {given}")]
    TooSmall {
        /// The setting's name.
        setting: &'static str,
        /// The least that works.
        least: Bytes,
        /// What was given.
        given: Bytes,
    },
    /// No volume could ever stay activated.
    #[error("max-active must be at least 1")]
    NoActive,
    /// The layer store's snapshots would be offered to containerd's garbage collector.
    #[error("the containerd namespace must not be {LAYERS:?}, which is the layer store's")]
    LayersNamespace,
    /// Settings that exclude each other, or need each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// The namespace for containerd isn't one.
    #[error(transparent)]
    Namespace(#[from] InvalidName),
}

/// Which backend is to hold the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// dm-thin where it can be used, else plain directories.
    #[default]
    Auto,
    /// A thin device for each snapshot.
    Thin,
    /// A directory for each snapshot.
    Native,
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Thin => "thin",
            Self::Native => "native",
        })
    }
}

/// The filesystem in a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// The default.
    #[default]
    Ext4,
    /// Needs volumes of 300M or more, and maps 65M of each before anything is written.
    Xfs,
    /// Without a journal.
    Ext2,
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Ext2 => "ext2",
        })
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A path on the command line counts from the working directory.
fn from_here(text: &str) -> Result<PathBuf, std::io::Error> {
    std::path::absolute(text)
}

/// Where the daemon is: all that its clients need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Place {
    /// Directory that holds everything [default: /var/lib/thinfs]
    #[arg(long, global = true, help_heading = GLOBAL)]
    #[arg(value_name = "DIR", env = "THINFS_ROOT", hide_env_values = true, value_parser = from_here)]
    pub root: Option<PathBuf>,
    /// The daemon's socket [default: ROOT/thinfs.sock]
    #[arg(long, global = true, help_heading = GLOBAL)]
    #[arg(value_name = "PATH", env = "THINFS_SOCKET", hide_env_values = true, value_parser = from_here)]
    pub socket: Option<PathBuf>,
}

/// What one layer says; `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    #[arg(skip)]
    root: Option<PathBuf>,
    #[arg(skip)]
    socket: Option<PathBuf>,
    /// Where the snapshots appear [default: ROOT/mnt]
    #[arg(long, value_name = "DIR", env = "THINFS_MOUNT", hide_env_values = true, value_parser = from_here)]
    mount: Option<PathBuf>,
    /// What holds the files [default: auto]
    #[arg(long, value_enum, env = "THINFS_BACKEND", hide_env_values = true)]
    backend: Option<BackendChoice>,
    /// Size of the data file of the thin-pool that thinfs makes [default: from the free space]
    #[arg(long, value_name = "SIZE", env = "THINFS_POOL_SIZE", hide_env_values = true)]
    pool_size: Option<Bytes>,
    /// Size up to which that data file grows by itself when it gets full [default: it doesn't]
    #[arg(long, value_name = "SIZE", env = "THINFS_POOL_MAX_SIZE", hide_env_values = true)]
    pool_max_size: Option<Bytes>,
    /// Block device for the thin-pool's data; needs --metadata-device
    #[arg(long, value_name = "DEV", env = "THINFS_DATA_DEVICE", hide_env_values = true, value_parser = from_here)]
    data_device: Option<PathBuf>,
    /// Block device for the thin-pool's metadata; needs --data-device
    #[arg(long, value_name = "DEV", env = "THINFS_METADATA_DEVICE", hide_env_values = true, value_parser = from_here)]
    metadata_device: Option<PathBuf>,
    /// Device-mapper name of a thin-pool that exists already
    #[arg(long, value_name = "NAME", env = "THINFS_POOL", hide_env_values = true)]
    pool: Option<String>,
    /// Take a pool that doesn't match the metadata store (thin backend)
    ///
    /// For one start, after a pool, its data device or a store was brought back from a copy, or one of them is gone
    /// for good. Snapshots that the pool doesn't have are lost, and what they have on another data device;
    /// thin devices that no snapshot names are set aside, see `thinfs faulty`. Not for configuration files.
    #[arg(long)]
    #[serde(skip)]
    force_adopt: bool,
    /// Size of an empty snapshot's filesystem on a thin device [default: 10G]
    #[arg(long, value_name = "SIZE", env = "THINFS_VOLUME_SIZE", hide_env_values = true)]
    volume_size: Option<Bytes>,
    /// Filesystem of an empty snapshot on a thin device [default: ext4]
    #[arg(long, value_enum, env = "THINFS_FS_TYPE", hide_env_values = true)]
    fs_type: Option<FsType>,
    /// More options for that filesystem's mkfs, as one word with spaces; they win over thinfs's own
    #[arg(
        long,
        value_name = "OPTIONS",
        env = "THINFS_FS_OPTIONS",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    fs_options: Option<String>,
    /// Whether a commit hands back what was removed in the snapshot, where that is worth it [default: true]
    #[arg(long, value_name = "BOOL", env = "THINFS_TRIM_ON_COMMIT", hide_env_values = true)]
    trim_on_commit: Option<bool>,
    /// How many volumes stay activated while nobody uses them [default: 128]
    #[arg(long, value_name = "N", env = "THINFS_MAX_ACTIVE", hide_env_values = true)]
    max_active: Option<usize>,
    /// The thinfs namespace that containerd's snapshots live in [default: containerd]
    #[arg(long, value_name = "NAME", env = "THINFS_CONTAINERD_NAMESPACE", hide_env_values = true)]
    containerd_namespace: Option<String>,
    #[command(flatten)]
    #[serde(default)]
    gc: gc::Settings,
    /// How snapshots are mounted whose labels don't say: bind, their directory; block, their block
    /// device, which needs the thin backend [default: bind]
    #[arg(long, value_name = "FORM", env = "THINFS_MOUNT_FORM", hide_env_values = true)]
    mount_form: Option<MountForm>,
    /// How log lines look; RUST_LOG chooses which [default: text]
    #[arg(long, value_enum, env = "THINFS_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<LogFormat>,
}

impl Settings {
    /// The settings of a file. `None`: [`DEFAULT_FILE`], which need not exist.
    pub fn from_file(path: Option<&Path>) -> Result<Self, Error> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_toml(&text, path),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && !required => {
                Ok(Self::default())
            }
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    fn from_toml(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text)
            .map_err(|e| Error::Parse { path: path.to_owned(), message: e.to_string() })
    }

    /// These settings, with `place` where it says something.
    pub fn at(mut self, place: &Place) -> Self {
        self.root = place.root.clone().or(self.root);
        self.socket = place.socket.clone().or(self.socket);
        self
    }

    /// These settings where they say something, else `below`.
    pub fn over(self, below: Self) -> Self {
        Self {
            root: self.root.or(below.root),
            socket: self.socket.or(below.socket),
            mount: self.mount.or(below.mount),
            backend: self.backend.or(below.backend),
            pool_size: self.pool_size.or(below.pool_size),
            pool_max_size: self.pool_max_size.or(below.pool_max_size),
            data_device: self.data_device.or(below.data_device),
            metadata_device: self.metadata_device.or(below.metadata_device),
            pool: self.pool.or(below.pool),
            force_adopt: self.force_adopt || below.force_adopt,
            volume_size: self.volume_size.or(below.volume_size),
            fs_type: self.fs_type.or(below.fs_type),
            fs_options: self.fs_options.or(below.fs_options),
            trim_on_commit: self.trim_on_commit.or(below.trim_on_commit),
            max_active: self.max_active.or(below.max_active),
            containerd_namespace: self.containerd_namespace.or(below.containerd_namespace),
            gc: self.gc.over(below.gc),
            mount_form: self.mount_form.or(below.mount_form),
            log_format: self.log_format.or(below.log_format),
        }
    }

    /// Where a client finds the daemon's socket. Less is checked than for a daemon: a client
    /// answers for none of the other settings.
    pub fn socket(&self) -> PathBuf {
        let root = || self.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT));
        self.socket.clone().unwrap_or_else(|| root().join("thinfs.sock"))
    }
}

/// What the thin-pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolSource {
    /// Sparse files below the root, on loop devices; `size` of the data file, else from free space.
    Files {
        /// Bytes of the data file.
        size: Option<u64>,
        /// Bytes that it may grow to by itself.
        most: Option<u64>,
    },
    /// These two block devices.
    Devices {
        /// Holds the data.
        data: PathBuf,
        /// Holds the pool's metadata.
        metadata: PathBuf,
    },
    /// A pool that someone else made and keeps.
    Existing(String),
}

/// The daemon's validated settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Holds everything.
    pub root: PathBuf,
    /// Where the snapshots appear.
    pub mount: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Which backend.
    pub backend: BackendChoice,
    /// What the pool is made of, should the backend be thin.
    pub pool: PoolSource,
    /// Takes a pool that doesn't match the metadata store.
    pub force_adopt: bool,
    /// Bytes of an empty snapshot's filesystem on a thin device.
    pub volume_size: u64,
    /// The filesystem of an empty snapshot on a thin device.
    pub fs_type: FsType,
    /// More words for its mkfs.
    pub fs_options: Vec<String>,
    /// Whether a commit discards what was removed.
    pub trim_on_commit: bool,
    /// How many volumes stay activated while nobody uses them.
    pub max_active: usize,
    /// Where containerd's snapshots live.
    pub containerd_namespace: Namespace,
    /// When the collector runs.
    pub gc: Collecting,
    /// How snapshots are mounted whose labels don't say.
    pub mount_form: MountForm,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl TryFrom<Settings> for Config {
    type Error = Error;

    fn try_from(settings: Settings) -> Result<Self, Error> {
        let root = absolute("root", settings.root.clone().unwrap_or_else(|| DEFAULT_ROOT.into()))?;
        let mount = settings.mount.clone().unwrap_or_else(|| root.join("mnt"));
        let volume_size = settings.volume_size.unwrap_or(DEFAULT_VOLUME_SIZE);
        let max_active = settings.max_active.unwrap_or(DEFAULT_MAX_ACTIVE);
        let containerd =
            settings.containerd_namespace.as_deref().unwrap_or(DEFAULT_CONTAINERD_NAMESPACE);
        if max_active == 0 {
            return Err(Error::NoActive);
        }
        let backend = settings.backend.unwrap_or_default();
        Ok(Self {
            mount: absolute("mount", mount)?,
            socket: absolute("socket", settings.socket())?,
            backend,
            pool: pool_source(backend, &settings)?,
            force_adopt: settings.force_adopt,
            volume_size: at_least("volume-size", MIN_VOLUME_SIZE, volume_size)?,
            fs_type: settings.fs_type.unwrap_or_default(),
            fs_options: words(settings.fs_options.as_deref()),
            trim_on_commit: settings.trim_on_commit.unwrap_or(true),
            max_active,
            gc: settings.gc.clone().into(),
            containerd_namespace: not_layers(Namespace::new(containerd)?)?,
            mount_form: mount_form(backend, &settings)?,
            log_format: settings.log_format.unwrap_or_default(),
            root,
        })
    }
}

/// containerd's collector removes what it finds in its namespace and doesn't know.
fn not_layers(namespace: Namespace) -> Result<Namespace, Error> {
    if namespace.as_str() == LAYERS { Err(Error::LayersNamespace) } else { Ok(namespace) }
}

/// Plain directories have no block devices.
fn mount_form(backend: BackendChoice, settings: &Settings) -> Result<MountForm, Error> {
    match (backend, settings.mount_form.unwrap_or_default()) {
        (BackendChoice::Native, MountForm::Block) => Err(Error::Conflict(
            "mount-form block needs the thin backend, but the backend is native",
        )),
        (_, form) => Ok(form),
    }
}

fn pool_source(backend: BackendChoice, settings: &Settings) -> Result<PoolSource, Error> {
    let sizes = settings.pool_size.or(settings.pool_max_size);
    let asks_for_pool =
        settings.pool.is_some() || settings.data_device.is_some() || sizes.is_some();
    if backend == BackendChoice::Native && (asks_for_pool || settings.metadata_device.is_some()) {
        return Err(Error::Conflict(
            "pool, pool-size, pool-max-size, data-device and metadata-device belong to the thin backend, but the backend is native",
        ));
    }
    let devices = (settings.data_device.clone(), settings.metadata_device.clone());
    match (settings.pool.clone(), devices, sizes) {
        (Some(name), (None, None), None) => Ok(PoolSource::Existing(name)),
        (None, (Some(data), Some(metadata)), None) => Ok(PoolSource::Devices {
            data: absolute("data-device", data)?,
            metadata: absolute("metadata-device", metadata)?,
        }),
        (None, (None, None), _) => {
            let least = |setting, size| at_least(setting, MIN_POOL_SIZE, size);
            let size = settings.pool_size.map(|size| least("pool-size", size)).transpose()?;
            let most =
                settings.pool_max_size.map(|size| least("pool-max-size", size)).transpose()?;
            Ok(PoolSource::Files { size, most })
        }
        (None, (Some(_), None) | (None, Some(_)), _) => {
            Err(Error::Conflict("data-device and metadata-device must be given together"))
        }
        (Some(_), _, _) => {
            Err(Error::Conflict("pool names a pool that exists: it takes no devices and no sizes"))
        }
        (None, (Some(_), Some(_)), Some(_)) => Err(Error::Conflict(
            "pool-size and pool-max-size are for a pool that thinfs makes in files: a device has its size",
        )),
    }
}

fn words(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn at_least(setting: &'static str, least: Bytes, given: Bytes) -> Result<u64, Error> {
    if given < least { Err(Error::TooSmall { setting, least, given }) } else { Ok(given.0) }
}

/// Paths are handed to clients and kept in messages, so they are UTF-8 and mean the same anywhere.
fn absolute(setting: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    if path.to_str().is_none() {
        return Err(Error::NotUtf8 { setting, path });
    }
    if path.is_absolute() { Ok(path) } else { Err(Error::RelativePath { setting, path }) }
}

#[cfg(test)]
mod tests;
