//! Why a command failed: what the user reads, what to do about it, and the exit code.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

use crate::grpc::status::{REMEDY, with_causes};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// The exit codes that `thinfs --help` documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// An error that none of the following fits.
    Error = 1,
    /// Wrong usage, or an argument that can't be used.
    Usage = 2,
    /// Not found.
    NotFound = 3,
    /// Already exists.
    AlreadyExists = 4,
    /// Not possible in the present state.
    Precondition = 5,
    /// The daemon doesn't answer.
    Unreachable = 6,
    /// No space left.
    NoSpace = 7,
    /// `check` found disagreements.
    Unsound = 8,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings can't be used.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The daemon couldn't start, or failed.
    #[error(transparent)]
    Daemon(#[from] crate::daemon::Error),
    /// Nobody listens.
    #[error("no daemon is running at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is for others.
    #[error("the socket {} may not be used by this user", .0.display())]
    NotAllowed(PathBuf),
    /// No connection came of it.
    #[error("cannot talk to the daemon at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The daemon said no.
    #[error("cannot {what}: {}", .status.message())]
    Refused {
        /// What was asked for.
        what: String,
        /// The answer.
        status: Box<Status>,
    },
    /// Some of several; those have been reported already.
    #[error("{failed} of {of} could not be removed")]
    Several {
        /// How many failed.
        failed: usize,
        /// Of how many.
        of: usize,
        /// The exit code of the first.
        code: ExitCode,
    },
    /// `check` found disagreements.
    #[error("{found} {}", if *found == 1 { "disagreement" } else { "disagreements" })]
    Unsound {
        /// How many.
        found: usize,
        /// How many of them `check --repair` mends.
        mendable: usize,
    },
    /// Thin ids that couldn't be given back; they have been told already.
    #[error("{0} thin ids are still set aside")]
    StillFaulty(usize),
    /// The socket's path can't be an address.
    #[error("the socket path {} is not valid UTF-8", .0.display())]
    SocketPath(PathBuf),
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An archive would go to the screen.
    #[error("standard output is a terminal: an archive would only garble it")]
    Terminal,
    /// No image has this name.
    #[error("image {0:?} not found")]
    NoImage(String),
    /// The image is only a configuration.
    #[error("image {0:?} has no layers, so it has no files")]
    NoLayers(String),
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output can't be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// The command that `lease run` was to run couldn't be run.
    #[error("cannot run {command}")]
    Command {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command that `lease run` ran has ended with this exit code, and said why itself.
    #[error("the command ended with {0}")]
    Ended(u8),
    /// The async runtime can't be made.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// What the user reads: the message with its causes, then what to do if that is known.
    pub fn report(&self) -> String {
        let error = format!("thinfs: {}", with_causes(self));
        match self.remedy() {
            Some(remedy) => format!("{error}\n  help: {remedy}"),
            None => error,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NotRunning(_) => {
                Some("start it with `thinfs serve`, or name its socket with --socket".to_owned())
            }
            Self::NotAllowed(_) => Some("run the command as root".to_owned()),
            Self::Refused { status, .. } => status
                .metadata()
                .get(REMEDY)
                .and_then(|remedy| remedy.to_str().ok())
                .map(str::to_owned),
            Self::Unsound { mendable: 0, .. } => None,
            Self::Unsound { mendable, .. } => {
                Some(format!("`thinfs check --repair` mends {mendable} of them"))
            }
            Self::Terminal => Some("redirect it into a file or a pipe".to_owned()),
            Self::NoImage(_) => Some("list images with `thinfs image ls`".to_owned()),
            Self::Daemon(error) => error.remedy().map(str::to_owned),
            Self::Config(_)
            | Self::Unreachable { .. }
            | Self::Several { .. }
            | Self::StillFaulty(_)
            | Self::SocketPath(_)
            | Self::Read { .. }
            | Self::NoLayers(_)
            | Self::Write { .. }
            | Self::Output(_)
            | Self::Command { .. }
            | Self::Ended(_)
            | Self::Runtime(_) => None,
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::SocketPath(_) | Self::Terminal => ExitCode::Usage,
            Self::NoImage(_) | Self::NoLayers(_) => ExitCode::NotFound,
            Self::NotRunning(_) | Self::NotAllowed(_) | Self::Unreachable { .. } => {
                ExitCode::Unreachable
            }
            Self::Refused { status, .. } => code_of(status.code()),
            Self::Several { code, .. } => *code,
            Self::Unsound { .. } => ExitCode::Unsound,
            Self::StillFaulty(_) => ExitCode::Precondition,
            Self::Daemon(_)
            | Self::Command { .. }
            | Self::Ended(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Output(_)
            | Self::Runtime(_) => ExitCode::Error,
        }
    }
}

fn code_of(code: Code) -> ExitCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ExitCode::Usage,
        Code::NotFound => ExitCode::NotFound,
        Code::AlreadyExists => ExitCode::AlreadyExists,
        Code::FailedPrecondition | Code::Aborted => ExitCode::Precondition,
        Code::Unavailable => ExitCode::Unreachable,
        Code::ResourceExhausted => ExitCode::NoSpace,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => ExitCode::Error,
    }
}

/// Says what was asked for when the daemon refuses it.
pub(super) trait Asked<T> {
    fn asked(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Asked<T> for std::result::Result<T, Status> {
    fn asked(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|status| Error::Refused { what: what(), status: Box::new(status) })
    }
}

/// What removing `of` things came to. One failure is the command's; of several each is reported, and
/// the first decides the exit code.
pub(super) fn several(mut errors: Vec<Error>, of: usize) -> Result<()> {
    let Some(code) = errors.first().map(Error::exit_code) else { return Ok(()) };
    if of == 1
        && let Some(error) = errors.pop()
    {
        return Err(error);
    }
    for error in &errors {
        eprintln!("{}", error.report());
    }
    Err(Error::Several { failed: errors.len(), of, code })
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn refused(status: Status) -> Error {
        Err::<(), _>(status).asked(|| "remove \"a\"".to_owned()).unwrap_err()
    }

    #[test]
    fn of_several_removals_the_first_failure_decides_the_exit_code() {
        let errors = vec![refused(Status::not_found("gone")), refused(Status::internal("broken"))];
        assert_eq!(several(errors, 3).unwrap_err().exit_code(), ExitCode::NotFound);
        assert!(several(Vec::new(), 3).is_ok());
    }

    #[test]
    fn a_single_removal_fails_with_its_own_error() {
        let error =
            several(vec![refused(Status::failed_precondition("has children"))], 1).unwrap_err();
        assert_eq!(error.report(), "thinfs: cannot remove \"a\": has children");
    }
}
