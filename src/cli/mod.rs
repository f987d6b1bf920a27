//! The command line: what it accepts, and one short function a subcommand.
//!
//! All but `serve`, `completions` and `man` are clients of the daemon's admin service: RocksDB
//! admits one process, and the daemon is it. Nothing here knows the store, the rules or a backend.

mod args;
mod check;
mod client;
mod daemon;
mod diff;
mod error;
mod events;
mod faulty;
mod gc;
mod gc_args;
mod generate;
mod image;
mod json;
mod layer;
mod layer_args;
mod layer_json;
mod lease;
mod list;
mod moving;
mod namespace;
mod output;
mod progress;
mod rw;
mod snapshots;
mod space;
#[cfg(test)]
mod tests;
mod tree;

pub use args::Cli;
pub use error::{Error, ExitCode};

use std::io::{self, Write};
use std::path::PathBuf;

use args::{Command, ServeArgs};
use client::Client;
use error::Result;
use output::Out;

use crate::config::{Config, LogFormat, Place, Settings};

/// What is to be run: `serve` sets up logs of its own kind, so it is told apart early.
#[derive(Debug)]
pub enum Job {
    /// The daemon, with its validated settings.
    Serve(Box<Config>),
    /// Everything else.
    Client(Box<Cli>),
}

impl Job {
    /// Reads and validates the settings that the job needs.
    pub fn of(mut cli: Cli) -> Result<Self> {
        match cli.command {
            Command::Serve(args) => {
                let ServeArgs { settings } = *args;
                let file = Settings::from_file(cli.config.as_deref())?;
                let config = Config::try_from(settings.at(&cli.place).over(file))?;
                Ok(Self::Serve(Box::new(config)))
            }
            command => {
                cli.command = command;
                Ok(Self::Client(Box::new(cli)))
            }
        }
    }

    /// How its log lines look.
    pub fn log_format(&self) -> LogFormat {
        match self {
            Self::Serve(config) => config.log_format,
            Self::Client(_) => LogFormat::Text,
        }
    }

    /// What RUST_LOG means when it isn't set.
    pub fn log_default(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            Self::Client(_) => "warn",
        }
    }

    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Serve(config) => Ok(crate::daemon::run(*config)?),
            Self::Client(cli) => run_client(*cli),
        }
    }
}

/// Standard output is buffered as a whole; a reader that has seen enough (`thinfs ls | head`) ends
/// the command quietly.
fn run_client(cli: Cli) -> Result<()> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut out = Out::new(&mut stdout, cli.json);
    let result = dispatch(cli, &mut out);
    let flushed = stdout.flush().map_err(Error::Output);
    match result.and(flushed) {
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The settings of a root whose daemon doesn't run.
fn config(place: &Place, file: &Option<PathBuf>) -> Result<Config> {
    let file = Settings::from_file(file.as_deref())?;
    Ok(Config::try_from(Settings::default().at(place).over(file))?)
}

fn dispatch(cli: Cli, out: &mut Out) -> Result<()> {
    match cli.command {
        Command::Serve(_) => unreachable!("Job::of takes `serve` out"),
        Command::Completions(args) => generate::completions(&args, out),
        Command::Man(args) => generate::man(&args, out),
        Command::Restore(args) => check::restore(&args, &config(&cli.place, &cli.config)?, out),
        Command::Check(args) if args.offline => {
            check::check_offline(&args, &config(&cli.place, &cli.config)?, out)
        }
        command => {
            let file = || Settings::from_file(cli.config.as_deref());
            let settings = if cli.place.socket.is_some() { Settings::default() } else { file()? };
            let socket = settings.at(&cli.place).socket();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(Error::Runtime)?.block_on(async {
                let mut client = Client::connect(&socket, cli.namespace).await?;
                ask(command, &mut client, out).await
            })
        }
    }
}

async fn ask(command: Command, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    match command {
        Command::Prepare(args) => snapshots::prepare(args, client, out).await,
        Command::View(args) => snapshots::view(args, client, out).await,
        Command::Commit(args) => snapshots::commit(args, client, out).await,
        Command::Rm(args) => snapshots::remove(args, client).await,
        Command::Info(args) => snapshots::info(args, client, out).await,
        Command::Mounts(args) => snapshots::mounts(args, client, out).await,
        Command::Label(args) => snapshots::label(args, client, out).await,
        Command::Resize(args) => space::resize(args, client, out).await,
        Command::Trim(args) => space::trim(args, client, out).await,
        Command::Ls(args) => list::ls(args, client, out).await,
        Command::Usage(args) => space::usage(args, client, out).await,
        Command::Tree => tree::tree(client, out).await,
        Command::Diff(args) => diff::diff(args, client, out).await,
        Command::Gc(args) => gc::gc(args, client, out).await,
        Command::Lease(args) => lease::lease(args.command, client, out).await,
        Command::Namespace(args) => namespace::namespace(args.command, client, out).await,
        Command::Layer(args) => layer::run(args.command, client, out).await,
        Command::Image(args) => image::run(args.command, client, out).await,
        Command::Rw(args) => rw::run(args.command, client, out).await,
        Command::Status(args) => daemon::status(args, client, out).await,
        Command::Check(args) => check::check(args, client, out).await,
        Command::Backup(args) => check::backup(args, client, out).await,
        Command::Events(args) => events::events(args, client, out).await,
        Command::Faulty(args) => faulty::faulty(args, client, out).await,
        Command::Serve(_) | Command::Completions(_) | Command::Man(_) | Command::Restore(_) => {
            unreachable!("needs no daemon")
        }
    }
}
