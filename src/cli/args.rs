//! What the command line accepts, with the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
  usage                a line each: key, size, inodes
  diff                 a line each: change (added, modified, deleted), path; path_hex if the path
                       is not UTF-8
  mounts               a line each: type, source, options
  gc                   destroyed, waiting, failed
  check                sound, problems
  faulty               a line each: thin_id, why; with --retry also gone
  status               version, pid, started, root, mount, socket, containerd_namespace, backend,
                       details, capacity, namespaces, pending, volumes, faulty, reaper

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
    Diff(DiffArgs),
    Label(LabelArgs),
    /// Reclaim now what removed snapshots left behind, and wait for it
    ///
    /// The daemon does this by itself in the background; gc is for scripts that measure the free
    /// space afterwards.
    Gc,
    /// Show the daemon: backend, space, namespaces, activated volumes
    Status,
    /// Compare the store with what the backend really has
    ///
    /// Changes nothing. Prints a line for each disagreement and exits with code 8 if there is one.
    Check,
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
    /// Most that its filesystem can hold (thin backend), like 20G; a parent's size is the least
    #[arg(long, value_name = "SIZE")]
    pub(super) size: Option<crate::config::Bytes>,
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
#[command(after_help = "Examples:\n  thinfs faulty\n  thinfs faulty --retry 1042\n  thinfs faulty --retry")]
pub(super) struct FaultyArgs {
    /// Delete the thin devices and forget the ids
    #[arg(long)]
    pub(super) retry: bool,
    /// Thin ids [default: all that are set aside]
    #[arg(value_name = "ID", requires = "retry")]
    pub(super) ids: Vec<u32>,
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

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write a label as KEY=VALUE".to_owned()),
    }
}
