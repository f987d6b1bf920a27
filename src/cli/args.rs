//! What the command line accepts, with the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::gc_args::{GcArgs, Lease, LeaseArgs, NamespaceArgs};
use super::layer_args::{ImageArgs, LayerArgs, RwArgs};
use crate::config::{GLOBAL, Place, Settings};
use crate::types::Namespace;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an error that none of the following fits
  2  wrong usage, or an argument that can't be used
  3  not found
  4  already exists
  5  not possible in the present state: of the wrong kind, has children, in use
  6  the daemon doesn't answer
  7  no space left
  8  `check` found disagreements";

const QUICK_START: &str = "\
Quick start:
  thinfs serve &                          start the daemon (as root)
  dir=$(thinfs prepare base-1)            an empty snapshot; prints its directory
  tar -C \"$dir\" -xf rootfs.tar
  thinfs commit base-1 base               now read-only, and a parent for others
  cd \"$(thinfs prepare web --parent base)\"
  thinfs ls

";

const JSON: &str = "\
JSON, with --json; sizes in bytes, times in RFC 3339, null where there is nothing:
  ls                   a line each: namespace, key, kind, parent, id, labels, created, updated,
                       usage {size, inodes}, path
  prepare, view, commit, info, label   the same, one object
  tree                 the same with depth; parents come before their children
  usage                a line each: key, size, inodes, exclusive, shared
  resize               the snapshot
  trim                 a line each: key, bytes
  diff                 a line each: change (added, modified, deleted), path; path_hex if the path
                       is not UTF-8
  mounts               a line each: type, source, options
  check                sound, problems, findings and mended [{object, problem, remedy, mendable}]
  faulty               a line each: thin_id, why; with --retry also gone
  events               a line each: sequence, at, topic, namespace, key, details; or gone {from, to}
  gc                   destroyed, waiting, failed, collected [{namespace, kind, id, why}],
                       stayed [the same], expired, mark_us, sweep_us
  lease ls, lease info, lease create   namespace, id, labels, created, expires,
                       resources [{kind, id}]
  namespace ls         name, labels, created
  layer, image, rw     a line each, of what they list, make or remove
  status               version, pid, started, root, mount, socket, containerd_namespace, backend,
                       details, capacity {total, used, block_size, metadata_total, metadata_used, most,
                       rate, full_in}, namespaces, pending, volumes, gc, activity,
                       faulty [{thin_id, why}], reaper [{volume, tries, state, reason}]
  status --fuse        requests (a count for each kind), synchronous (that somebody waited for),
                       waited (in the threads for what may take long), passthrough (opens of files
                       whose content goes past the daemon)

";

/// Snapshots as plain directories.
#[derive(Debug, Parser)]
#[command(name = "thinfs", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(after_long_help = long_help(), subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) place: Place,
    /// Configuration file (TOML) [default: /etc/thinfs/config.toml, if it exists]
    #[arg(long, global = true, help_heading = GLOBAL)]
    #[arg(value_name = "FILE", env = "THINFS_CONFIG", hide_env_values = true)]
    pub(super) config: Option<PathBuf>,
    /// Namespace of the snapshots; keys of different namespaces never meet
    #[arg(long, short, global = true, help_heading = GLOBAL, default_value = Namespace::DEFAULT)]
    #[arg(value_name = "NAME", env = "THINFS_NAMESPACE", hide_env_values = true)]
    pub(super) namespace: String,
    /// Print JSON: an object, or one a line where there can be several
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

fn long_help() -> String {
    format!("{QUICK_START}{JSON}{EXIT_CODES}")
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(Box<ServeArgs>),
    Prepare(PrepareArgs),
    View(ViewArgs),
    Commit(CommitArgs),
    Rm(RmArgs),
    Ls(LsArgs),
    /// Draw which snapshot stands on which, with what each holds of its own
    #[command(after_help = "Example:\n  thinfs tree")]
    Tree,
    Info(KeyArgs),
    Usage(UsageArgs),
    Mounts(MountsArgs),
    Resize(ResizeArgs),
    Trim(TrimArgs),
    Diff(DiffArgs),
    Label(LabelArgs),
    Lease(LeaseArgs),
    Namespace(NamespaceArgs),
    Gc(GcArgs),
    Layer(LayerArgs),
    Image(ImageArgs),
    Rw(RwArgs),
    Status(StatusArgs),
    Check(CheckArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Events(EventsArgs),
    Faulty(FaultyArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Run the daemon in the foreground
///
/// Serves the snapshots below the mount point until SIGTERM or SIGINT, which stop it cleanly:
/// nothing stays mounted or activated. A second signal hurries. Needs root and /dev/fuse.
///
/// Settings come from the configuration file, the environment and these flags, the later winning.
/// RUST_LOG chooses what is logged (default: info).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thinfs serve
  thinfs serve --root /srv/thinfs --mount /snapshots --backend native
  thinfs serve --data-device /dev/vg/data --metadata-device /dev/vg/meta")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Make a read-write snapshot and print its directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cd \"$(thinfs prepare web --parent base)\"
  thinfs prepare scratch --size 2G --label owner=ci")]
pub(super) struct PrepareArgs {
    /// Key of the new snapshot
    pub(super) key: String,
    /// Committed snapshot to start from [default: start empty]
    #[arg(long, short, value_name = "NAME")]
    pub(super) parent: Option<String>,
    #[command(flatten)]
    pub(super) labels: Labels,
    #[command(flatten)]
    pub(super) lease: Lease,
    /// Most that its filesystem can hold (thin backend), like 20G; a parent's size is the least
    #[arg(long, value_name = "SIZE")]
    pub(super) size: Option<crate::config::Bytes>,
    /// Filesystem of an empty snapshot (thin backend): ext4, xfs or ext2; children have their parent's
    #[arg(long, value_name = "NAME", conflicts_with = "parent")]
    pub(super) fs_type: Option<crate::config::FsType>,
}

/// Make a read-only view of a committed snapshot and print its directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ls \"$(thinfs view look --parent base)\"")]
pub(super) struct ViewArgs {
    /// Key of the new view
    pub(super) key: String,
    /// Committed snapshot to look at [default: an empty view]
    #[arg(long, short, value_name = "NAME")]
    pub(super) parent: Option<String>,
    #[command(flatten)]
    pub(super) labels: Labels,
    #[command(flatten)]
    pub(super) lease: Lease,
}

/// Turn an active snapshot into a committed one and print its directory
///
/// The key disappears, the name appears; the content is on stable storage before that. Labels are
/// not inherited.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs commit web web-v1 --label release=1")]
pub(super) struct CommitArgs {
    /// Key of the active snapshot
    pub(super) key: String,
    /// Name of the committed one
    pub(super) name: String,
    #[command(flatten)]
    pub(super) labels: Labels,
    #[command(flatten)]
    pub(super) lease: Lease,
    /// Never collect it, whatever becomes of leases: sets the label containerd.io/gc.root
    #[arg(long)]
    pub(super) keep: bool,
    /// Committed snapshot to stand on, for one that was prepared without a parent
    #[arg(long, short, value_name = "NAME")]
    pub(super) parent: Option<String>,
}

/// Remove snapshots
///
/// Answers at once; the space comes back in the background (see `thinfs gc`). Goes on with the
/// other keys if one can't be removed.
#[derive(Debug, Args)]
#[command(visible_alias = "remove", after_help = "Example:\n  thinfs rm web scratch")]
pub(super) struct RmArgs {
    /// Keys or names
    #[arg(required = true, value_name = "KEY")]
    pub(super) keys: Vec<String>,
}

/// List snapshots
#[derive(Debug, Args)]
#[command(
    visible_alias = "list",
    after_help = "\
Filters compare name, parent, kind and labels.\"key\" with == != ~= (regular expression), or ask
whether there is a value. A comma means AND, several --filter mean OR.

Examples:
  thinfs ls --kind committed
  thinfs ls --filter 'labels.\"owner\"==ci,parent==base' --filter 'name~=^tmp-'
  thinfs ls --json | jq -r 'select(.usage.size > 1000000) | .key'"
)]
pub(super) struct LsArgs {
    /// Only snapshots of this kind; can be repeated
    #[arg(long, short, value_enum)]
    pub(super) kind: Vec<KindArg>,
    /// Only snapshots that match; can be repeated
    #[arg(long, short, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// Measure active snapshots and views too
    #[arg(long, short)]
    pub(super) usage: bool,
    /// List at most so many, in key order
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<std::num::NonZeroU32>,
    /// List only keys greater than this one: the last of the page before
    #[arg(long, value_name = "KEY")]
    pub(super) after: Option<String>,
}

/// A kind, as a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KindArg {
    Active,
    View,
    Committed,
}

impl KindArg {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

/// Show all that is known of a snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs info base")]
pub(super) struct KeyArgs {
    /// Key or name
    pub(super) key: String,
}

/// Show what snapshots hold of their own, without their parents
///
/// SIZE and INODES are the difference to the parent. On the thin backend ALONE is what removing the snapshot would
/// free now, SHARED what others (children, siblings) have, too; without keys the last line sums up the pool.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  thinfs usage\n  thinfs usage web scratch")]
pub(super) struct UsageArgs {
    /// Keys or names [default: all]
    #[arg(value_name = "KEY")]
    pub(super) keys: Vec<String>,
}

/// Show how to mount an active snapshot or a view elsewhere
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs mounts web")]
pub(super) struct MountsArgs {
    /// Key
    pub(super) key: String,
}

/// Make an active snapshot's filesystem larger, while it is in use (thin backend)
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs resize web 40G")]
pub(super) struct ResizeArgs {
    /// Key
    pub(super) key: String,
    /// Its new size, like 40G; it can't shrink
    pub(super) size: crate::config::Bytes,
}

/// Hand the free space inside active snapshots back to the pool and the disk below (thin backend)
///
/// A commit does this by itself where it gives something back (see `serve --trim-on-commit`).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  thinfs trim\n  thinfs trim web")]
pub(super) struct TrimArgs {
    /// Keys [default: all active snapshots]
    #[arg(value_name = "KEY")]
    pub(super) keys: Vec<String>,
}

/// List the paths that differ between two snapshots
///
/// A: only in the second (added), M: in both but not the same (modified), D: only in the first
/// (deleted). An unusual path is quoted like a C string.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs diff base web")]
pub(super) struct DiffArgs {
    /// The one to compare with
    #[arg(value_name = "A")]
    pub(super) a: String,
    /// The one to compare
    #[arg(value_name = "B")]
    pub(super) b: String,
}

/// Set or delete labels of a snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs label web owner=ci stage=    sets owner, deletes stage")]
pub(super) struct LabelArgs {
    /// Key or name
    pub(super) key: String,
    /// Labels; an empty value deletes
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
}

/// Labels of a new snapshot.
#[derive(Debug, Args)]
pub(super) struct Labels {
    /// A label; can be repeated
    #[arg(long = "label", short, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
}

/// Show thin ids that are set aside, and why; with --retry, give back what the pool has under them
///
/// A thin id is set aside when the pool has something under it that no record explains: it was taken
/// when a snapshot was to be made, or it was found when a pool was adopted by force. It is never
/// used again and never deleted by itself. --retry deletes the thin devices; exits with code 5 if
/// one can't be deleted.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  thinfs faulty\n  thinfs faulty --retry 1042\n  thinfs faulty --retry"
)]
pub(super) struct FaultyArgs {
    /// Delete the thin devices and forget the ids
    #[arg(long)]
    pub(super) retry: bool,
    /// Thin ids [default: all that are set aside]
    #[arg(value_name = "ID", requires = "retry")]
    pub(super) ids: Vec<u32>,
}

/// Show the daemon: backend, space, namespaces, activated volumes
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  thinfs status\n  thinfs status --fuse")]
pub(super) struct StatusArgs {
    /// Show what the kernel has asked of the daemon since the mount, by kind of request
    ///
    /// What the kernel answers from its caches, or reads and writes by itself, is not in it.
    #[arg(long)]
    pub(super) fuse: bool,
}

/// Check that the store, its indexes and the volumes fit together
///
/// Prints each disagreement with what can be done about it, and exits with code 8 if there is one.
/// Changes nothing, unless told to repair.
///
/// With --repair: index rows are made or dropped as the records want them; records that are lost or
/// damaged are made again from the indexes; parents that don't exist are let go of; volumes that
/// belong to no snapshot get one in the namespace lost-and-found; ids and usages are put right; and
/// what no record names is destroyed, also what a restored backup or a damaged store had kept.
/// Content that a record names is never destroyed.
///
/// With --offline, the daemon doesn't run: only the store is mended, and volumes are compared where
/// they are plain directories. A store that doesn't open is replaced by what can be read of it and
/// set aside.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thinfs check
  thinfs check --repair
  thinfs check --offline --repair")]
pub(super) struct CheckArgs {
    /// Mend what can be mended without loss
    #[arg(long)]
    pub(super) repair: bool,
    /// Look at the root itself; the daemon must not run
    #[arg(long)]
    pub(super) offline: bool,
}

/// Copy the metadata store, as of now, into a new directory and print it
///
/// The daemon serves on meanwhile. The copy holds records, not the snapshots' files: back those up
/// with the root's disk.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs backup /var/backups/thinfs-$(date +%F)")]
pub(super) struct BackupArgs {
    /// Directory to make
    pub(super) dir: PathBuf,
}

/// Put a backup in the place of the metadata store; the daemon must not run
///
/// The replaced store is set aside, not removed. Snapshots made since the backup have no record any
/// more: their volumes are kept, and `thinfs check` lists them, until `thinfs check --repair`
/// destroys them. Snapshots removed since then are there again, without their files: they are shown
/// as lost. An active snapshot that was committed since then is active again, with its files as
/// they are now.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  thinfs restore /var/backups/thinfs-2026-11-25 && thinfs serve")]
pub(super) struct RestoreArgs {
    /// Directory that `thinfs backup` made
    pub(super) dir: PathBuf,
}

/// Show what happens, as it happens: snapshots prepared, committed, removed, labelled, and more
///
/// Events of all namespaces are numbered one after the other, over restarts, and the newest 65,536
/// are kept. Whoever remembers the last number can go on from there with --since; a reader that
/// comes too late is told which events are gone. A change and its event become durable together.
///
/// Topics: /snapshot/prepare, commit, remove, update; /layer/create, delete; /lease/create, update,
/// delete, expire; /namespace/create, update, delete; /gc/done, fail; /pool/low, full, fail,
/// recover, grow; /store/restore, repair.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thinfs events
  thinfs events --since 0 --no-wait
  thinfs events --json | jq -r 'select(.topic == \"/snapshot/commit\") | .details.name'")]
pub(super) struct EventsArgs {
    /// Start after the event with this number; 0: with the oldest kept [default: from now on]
    #[arg(long, value_name = "NUMBER")]
    pub(super) since: Option<u64>,
    /// End after those that there are
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  thinfs completions bash > /usr/share/bash-completion/completions/thinfs"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

/// Print the manual page, or write all of them into a directory
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  thinfs man | man -l -\n  thinfs man /usr/local/share/man/man1"
)]
pub(super) struct ManArgs {
    /// Directory for the pages of thinfs and of each subcommand
    pub(super) dir: Option<PathBuf>,
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write a label as KEY=VALUE".to_owned()),
    }
}
