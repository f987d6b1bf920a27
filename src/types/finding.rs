//! What a check finds.

use std::fmt;

/// One disagreement, explained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What it is about: a snapshot, a volume, an index row, a file.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What will or can be done about it.
    pub remedy: String,
    /// Whether `check --repair` does that.
    pub mendable: bool,
}

impl Finding {
    /// Something that `check --repair` mends, and how.
    pub fn mendable(
        object: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            object: object.into(),
            problem: problem.into(),
            remedy: remedy.into(),
            mendable: true,
        }
    }

    /// Something that only a person can do something about, and what.
    pub fn manual(
        object: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { mendable: false, ..Self::mendable(object, problem, remedy) }
    }
}

/// Tests compare findings with the lines that they print.
#[cfg(test)]
impl PartialEq<String> for Finding {
    fn eq(&self, line: &String) -> bool {
        let own = self.to_string();
        own == *line
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}
