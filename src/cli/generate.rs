//! Completions and manual pages, generated from the definition of the command line.

use clap::CommandFactory as _;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::error::{Error, Result};
use super::output::Out;

pub(super) fn completions(args: &CompletionsArgs, out: &mut Out) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "thinfs", &mut script);
    out.raw(&script)?;
    Ok(())
}

pub(super) fn man(args: &ManArgs, out: &mut Out) -> Result<()> {
    match &args.dir {
        Some(dir) => {
            let failed = |source| Error::Write { path: dir.clone(), source };
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            out.raw(&page)?;
        }
    }
    Ok(())
}
