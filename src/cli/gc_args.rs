//! What `gc`, `lease` and `namespace` accept, with the help texts.

use clap::{Args, Subcommand};

use super::args::{Labels, label};
use crate::config::Span;

/// Collect garbage and reclaim the space of what was removed
///
/// Runs the collector over all namespaces but containerd's, then waits until everything removed was
/// tried to be destroyed once. The daemon does both by itself in the background.
///
/// Garbage is what was made under a lease (--lease, `thinfs lease run`) and that nothing refers to
/// any more: no lease, no child, no label containerd.io/gc.ref, no mount; and in a namespace made
/// with --collect everything that nothing refers to. The label containerd.io/gc.root keeps a
/// snapshot. Other snapshots stay until you remove them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  thinfs gc --dry-run\n  thinfs gc --wait")]
pub(super) struct GcArgs {
    /// Print what would go and why, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
    /// Wait until everything removed is destroyed, that with open files too
    #[arg(long)]
    pub(super) wait: bool,
}

/// Hold snapshots for a while: make and end leases
///
/// What is made under a lease is held by it, and collected when the lease has ended and nothing
/// else refers to it.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct LeaseArgs {
    #[command(subcommand)]
    pub(super) command: LeaseCommand,
}

/// What can be done with leases.
#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    Create(LeaseCreateArgs),
    /// List leases
    Ls,
    /// Show a lease and what it holds
    Info(LeaseIdArgs),
    /// Have a lease hold snapshots, layers or read-write layers that exist
    Add(HoldArgs),
    /// Have a lease hold something no longer
    Drop(HoldArgs),
    /// Put off a lease's end
    Renew(LeaseRenewArgs),
    /// Delete leases; what nothing else holds is collected
    Rm(LeaseRmArgs),
    Run(LeaseRunArgs),
}

/// Make a lease and print its id
#[derive(Debug, Args)]
#[command(after_help = "Example:
  lease=$(thinfs lease create --ttl 1h)
  thinfs prepare scratch --parent base --lease \"$lease\"
  thinfs lease rm \"$lease\"")]
pub(super) struct LeaseCreateArgs {
    /// Its id [default: a new one]
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Time after which it ends by itself, like 90s or 24h [default: it doesn't]
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: Option<Span>,
    /// Hold snapshots and their parents only, not what their labels refer to
    #[arg(long)]
    pub(super) flat: bool,
    #[command(flatten)]
    pub(super) labels: Labels,
}

/// A lease's id.
#[derive(Debug, Args)]
pub(super) struct LeaseIdArgs {
    /// The lease's id
    pub(super) id: String,
}

/// What a lease is to hold, or not.
#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// The lease's id
    pub(super) lease: String,
    /// Keys of snapshots, chain ids of layers, names of read-write layers
    #[arg(required = true, value_name = "KEY")]
    pub(super) ids: Vec<String>,
    /// What they are: snapshot, layer or rw; leases of layers and read-write layers are made with
    /// --namespace layers
    #[arg(long, default_value = "snapshot")]
    pub(super) kind: String,
}

/// A new end.
#[derive(Debug, Args)]
pub(super) struct LeaseRenewArgs {
    /// The lease's id
    pub(super) id: String,
    /// Time from now after which it ends by itself
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: Span,
}

/// Which leases.
#[derive(Debug, Args)]
pub(super) struct LeaseRmArgs {
    /// Collect what they held at once, and wait for it
    #[arg(long)]
    pub(super) wait: bool,
    /// The leases' ids
    #[arg(required = true, value_name = "LEASE")]
    pub(super) ids: Vec<String>,
}

/// Run a command under a lease of its own
///
/// The command, and what it starts, finds the lease in THINFS_LEASE: what thinfs prepares and
/// commits there is held as long as the command runs and collected afterwards, unless something
/// else refers to it; keep a result with `thinfs commit --keep`. The lease ends when the command
/// does, however it does; if `thinfs lease run` itself is killed, it ends after --ttl. Exits with
/// the command's exit code.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  thinfs lease run -- sh -ec 'make -C \"$(thinfs prepare build --parent tools)\"
    thinfs commit build result --keep'")]
pub(super) struct LeaseRunArgs {
    /// How long the lease outlives a killed `thinfs lease run`
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(super) ttl: Span,
    /// Collect at once when the command has ended, and wait for it
    #[arg(long)]
    pub(super) wait: bool,
    #[command(flatten)]
    pub(super) labels: Labels,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

/// Make, list, label and delete namespaces
///
/// A namespace need not be made before it is used; this is for its labels.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct NamespaceArgs {
    #[command(subcommand)]
    pub(super) command: NamespaceCommand,
}

/// What can be done with namespaces.
#[derive(Debug, Subcommand)]
pub(super) enum NamespaceCommand {
    /// Make a namespace
    Create(NamespaceCreateArgs),
    /// List namespaces: those that were made, and those that something lives in
    Ls,
    /// Set or delete labels of a namespace
    Label {
        /// Its name
        name: String,
        /// Labels; an empty value deletes
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Delete namespaces that nothing lives in
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// A new namespace.
#[derive(Debug, Args)]
pub(super) struct NamespaceCreateArgs {
    /// Its name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) labels: Labels,
    /// Everything in it that nothing refers to is garbage, however it was made
    #[arg(long)]
    pub(super) collect: bool,
}

/// The lease that a new snapshot is made under.
#[derive(Debug, Args)]
pub(super) struct Lease {
    /// Lease that holds it; it is collected when nothing holds it any more
    #[arg(long, value_name = "ID", env = super::lease::VARIABLE, hide_env_values = true)]
    pub(super) lease: Option<String>,
}
