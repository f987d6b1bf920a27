//! placeholder
mod backend;
mod error;
mod limits;
mod root;
mod stop;
pub use error::Error;
/// x
pub fn run(_c: crate::config::Config) -> Result<(), Error> { Ok(()) }
