//! Commit: what a read-write layer changed becomes a layer on its parent.

use std::thread;

use super::error::{Error, Result};
use super::{LayerStore, Progress, Register, Registered};
use crate::layer;
use crate::types::{GivenName, Holder};

impl LayerStore {
    /// Registers what the read-write layer changed as a layer on its parent, with a user's
    /// reference. The read-write layer stays as it is; what is written to it meanwhile is in the
    /// layer or not.
    ///
    /// The tar of the changes goes through a pipe from the one tree to the other, so that the layer
    /// is what anybody else makes of its tar.
    pub fn commit_rw(&self, name: &GivenName, progress: &Progress) -> Result<Registered> {
        let parent = self.rw(name)?.layer.parent;
        let (reader, writer) =
            std::io::pipe().map_err(|source| Error::Layer(layer::Error::Input(source)))?;
        let register = Register { parent, expected: None, holder: Holder::User, progress };
        thread::scope(|scope| {
            let written = scope.spawn(|| self.rw_tar_stream(name, writer, &progress.cancel));
            let registered = self.register(reader, register);
            match written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(_) => registered,
                // A pipe that nobody reads any more is not why it failed.
                Err(Error::Layer(layer::Error::Output(_))) if registered.is_err() => registered,
                Err(error) => {
                    if let Ok(registered) = registered {
                        self.release(&registered.chain)?;
                    }
                    Err(error)
                }
            }
        })
    }
}
