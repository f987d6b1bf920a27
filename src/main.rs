//! The thinfs program: the daemon and its command line.

use std::process::ExitCode;

use clap::Parser as _;
use thinfs::cli::{Cli, Error, Job};
use thinfs::config::LogFormat;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Ended(code)) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::from(error.exit_code() as u8)
        }
    }
}

fn run() -> Result<(), Error> {
    let job = Job::of(Cli::parse())?;
    set_up_logs(job.log_format(), job.log_default());
    job.run()
}

/// Lines go to standard error; RUST_LOG chooses which. What `log` users say is included.
fn set_up_logs(format: LogFormat, default: &str) {
    let chosen = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&chosen).unwrap_or_else(|error| {
        eprintln!(
            "thinfs: RUST_LOG={chosen} is not understood ({error}): logging {default} instead"
        );
        EnvFilter::new(default)
    });
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().init(),
    }
}
