//! How a snapshot's files are handed to whoever mounts them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the answer to Mounts names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountForm {
    /// The snapshot's directory, to be bound.
    #[default]
    Bind,
    /// The block device with the snapshot's filesystem, to be mounted, or given to a virtual
    /// machine.
    Block,
}

impl MountForm {
    /// The word in settings and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            MountForm::Bind => "bind",
            MountForm::Block => "block",
        }
    }
}

impl fmt::Display for MountForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no mount form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mount form: it takes \"bind\" or \"block\"")]
pub struct UnknownMountForm(String);

impl FromStr for MountForm {
    type Err = UnknownMountForm;

    fn from_str(word: &str) -> Result<Self, UnknownMountForm> {
        match word {
            "bind" => Ok(MountForm::Bind),
            "block" => Ok(MountForm::Block),
            other => Err(UnknownMountForm(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_reads_back_as_it_is_written_and_nothing_else_is_one() {
        for form in [MountForm::Bind, MountForm::Block] {
            assert_eq!(form.as_str().parse(), Ok(form));
        }
        for word in ["", "Bind", "device", "block "] {
            assert_eq!(word.parse::<MountForm>(), Err(UnknownMountForm(word.to_owned())));
        }
    }
}
