//! What a client is told of an error: a gRPC code, the message with its causes, and, in the
//! metadata entry [`REMEDY`], what to do about it. The border where errors are logged, once.

use std::error::Error;
use std::fmt::Write as _;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tracing::Level;

use crate::{meta, snapshot, volume};

/// Longest message of a status, in bytes. It travels as a header in which a byte may become three,
/// and a client that follows the defaults of HTTP/2 takes no more than 16 KiB of headers: of a longer
/// message it would see nothing but a broken call.
const MOST_MESSAGE: usize = 4096;

/// Metadata entry of an error status: what the caller can do, one line of ASCII.
pub const REMEDY: &str = "thinfs-remedy";

/// How an error is told and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    code: Code,
    level: Level,
    remedy: Option<&'static str>,
}

/// The status for an error of the rules; logs it.
pub fn of(error: snapshot::Error) -> Status {
    let told = told(&error);
    let message = with_causes(&error);
    log(told, &message);
    let mut status = Status::new(told.code, bounded(message));
    if let Some(remedy) = told.remedy {
        status.metadata_mut().insert(REMEDY, MetadataValue::from_static(remedy));
    }
    status
}

/// The beginning of a message that is too long for a status; the log has all of it.
pub(super) fn bounded(mut message: String) -> String {
    const CUT: char = '…';
    if message.len() > MOST_MESSAGE {
        let mut end = MOST_MESSAGE - CUT.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push(CUT);
    }
    message
}

/// The message with all its causes, each said once.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            // Writing to a String can't fail.
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

/// Exhaustive on purpose: a new error makes its author choose.
fn told(error: &snapshot::Error) -> Told {
    use snapshot::Error as E;
    match error {
        E::InvalidName(_) => expected(Code::InvalidArgument, None),
        E::InvalidArgument(_) => expected(Code::InvalidArgument, None),
        E::NotFound(_) => expected(Code::NotFound, Some("list what there is with `thinfs ls`")),
        E::ParentNotFound(_) => expected(
            Code::NotFound,
            Some("list possible parents with `thinfs ls --kind committed`"),
        ),
        E::AlreadyExists(_) => expected(
            Code::AlreadyExists,
            Some("choose another key, or remove that one with `thinfs rm`"),
        ),
        E::ParentNotCommitted { .. } => {
            expected(Code::InvalidArgument, Some("commit the parent first with `thinfs commit`"))
        }
        E::WrongKind { .. } => {
            expected(Code::FailedPrecondition, Some("see its kind with `thinfs info`"))
        }
        E::HasChildren(_) => {
            expected(Code::FailedPrecondition, Some("see its children with `thinfs tree`"))
        }
        E::FailedPrecondition(_) => expected(Code::FailedPrecondition, None),
        E::NoSuch { .. } => expected(
            Code::NotFound,
            Some("list what there is with `thinfs lease ls` and `thinfs namespace ls`"),
        ),
        E::Exists { .. } => expected(Code::AlreadyExists, Some("choose another name")),
        E::Stopping => expected(Code::Unavailable, Some("try again when the daemon has started")),
        E::Store(error) => told_store(error),
        E::Volume(error) => told_volume(error),
        E::Rollback { cause, .. } => Told { level: Level::ERROR, ..told(cause) },
    }
}

fn told_store(error: &meta::Error) -> Told {
    use meta::Error as E;
    let (code, remedy) = match error {
        E::Write { .. } | E::WritePanicked | E::Poisoned { .. } => {
            (Code::Unavailable, "look after the root's disk, then restart the daemon")
        }
        E::IdsExhausted => {
            (Code::ResourceExhausted, "start a new root: this one has used up its ids")
        }
        E::InUse { .. }
        | E::NewerSchema { .. }
        | E::Open { .. }
        | E::Foreign
        | E::Io { .. }
        | E::Migration { .. }
        | E::Backup { .. }
        | E::NoBackup(_)
        | E::Headless(_)
        | E::Read { .. }
        | E::Corrupt { .. } => {
            (Code::Internal, "look at the daemon's log, then run `thinfs check`")
        }
    };
    Told { code, level: Level::ERROR, remedy: Some(remedy) }
}

fn told_volume(error: &volume::Error) -> Told {
    use volume::Error as E;
    match error {
        E::Busy(..) => Told {
            code: Code::FailedPrecondition,
            level: Level::INFO,
            remedy: Some(
                "end the programs that have files of the snapshot open (see `fuser -vm`), then try again",
            ),
        },
        E::ReadOnly(_) => expected(Code::FailedPrecondition, None),
        E::Missing(_) => Told {
            code: Code::Unavailable,
            level: Level::ERROR,
            remedy: Some("see what is missing with `thinfs check`"),
        },
        E::NoSpace(_) => Told {
            code: Code::ResourceExhausted,
            level: Level::WARN,
            remedy: Some("remove snapshots and run `thinfs gc`, or make the pool or disk larger"),
        },
        E::Cancelled(_) => expected(Code::Cancelled, None),
        E::NotFaulty(_) => {
            expected(Code::NotFound, Some("list those that are with `thinfs faulty`"))
        }
        E::Io { .. } | E::Backend { .. } => Told {
            code: Code::Internal,
            level: Level::ERROR,
            remedy: Some("look at the daemon's log and at `dmesg`"),
        },
    }
}

/// An answer that callers reckon with: not worth a line of the usual log.
fn expected(code: Code, remedy: Option<&'static str>) -> Told {
    Told { code, level: Level::DEBUG, remedy }
}

fn log(told: Told, message: &str) {
    let code = told.code;
    match told.level {
        Level::ERROR => tracing::error!(?code, "{message}"),
        Level::WARN => tracing::warn!(?code, "{message}"),
        Level::INFO => tracing::info!(?code, "{message}"),
        Level::DEBUG => tracing::debug!(?code, "{message}"),
        Level::TRACE => tracing::trace!(?code, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::types::{InvalidName, Kind, VolumeId};

    fn io_error() -> volume::Error {
        volume::Error::Io {
            context: "mounting volume 7".into(),
            source: io::Error::other("no such thing"),
        }
    }

    #[test]
    fn each_error_has_the_code_that_containerd_expects() {
        use snapshot::Error as E;
        let wrong_kind =
            E::WrongKind { key: "a".into(), kind: Kind::View, needs: "commit needs an active one" };
        let not_committed = E::ParentNotCommitted { parent: "a".into(), kind: Kind::Active };
        let table = [
            (E::InvalidName(InvalidName::EmptyKey), Code::InvalidArgument),
            (E::InvalidArgument("filter".into()), Code::InvalidArgument),
            (E::NotFound("a".into()), Code::NotFound),
            (E::ParentNotFound("a".into()), Code::NotFound),
            (E::AlreadyExists("a".into()), Code::AlreadyExists),
            (E::NoSuch { what: "lease", name: "a".into() }, Code::NotFound),
            (E::Exists { what: "lease", name: "a".into() }, Code::AlreadyExists),
            (not_committed, Code::InvalidArgument),
            (wrong_kind, Code::FailedPrecondition),
            (E::HasChildren("a".into()), Code::FailedPrecondition),
            (E::FailedPrecondition("a".into()), Code::FailedPrecondition),
            (E::Stopping, Code::Unavailable),
            (
                E::Volume(volume::Error::Busy(VolumeId(7), "open files".into())),
                Code::FailedPrecondition,
            ),
            (E::Volume(volume::Error::ReadOnly(VolumeId(7))), Code::FailedPrecondition),
            (E::Volume(volume::Error::Missing(VolumeId(7))), Code::Unavailable),
            (E::Volume(volume::Error::NoSpace("the pool is full".into())), Code::ResourceExhausted),
            (E::Volume(volume::Error::Cancelled("usage".into())), Code::Cancelled),
            (E::Volume(io_error()), Code::Internal),
            (E::Rollback { cause: Box::new(E::Stopping), rollback: io_error() }, Code::Unavailable),
            (E::Store(meta::Error::Poisoned { reason: "disk".into() }), Code::Unavailable),
            (E::Store(meta::Error::IdsExhausted), Code::ResourceExhausted),
            (E::Store(meta::Error::InUse { dir: "/r".into(), owner: None }), Code::Internal),
        ];
        for (error, code) in table {
            let told = of(error);
            assert_eq!(told.code(), code, "{told:?}");
        }
    }

    #[test]
    fn remove_with_children_says_remove() {
        let status = of(snapshot::Error::HasChildren("base".into()));
        assert!(status.message().contains("remove"), "{status:?}");
    }

    #[test]
    fn causes_are_told_once_each() {
        let status = of(snapshot::Error::Volume(io_error()));
        assert_eq!(status.message(), "mounting volume 7: no such thing");
    }

    #[test]
    fn a_long_message_is_cut_to_what_a_header_holds() {
        use snapshot::Error as E;
        for (text, most_in_header) in [("x", 4_200), ("é", 12_600), ("世", 12_600), ("🦀", 12_600)]
        {
            let exact = text.repeat(MOST_MESSAGE / text.len());
            assert_eq!(bounded(exact.clone()), exact);
            let status = of(E::FailedPrecondition("sorry: ".to_owned() + &text.repeat(1 << 18)));
            let message = status.message();
            assert!(message.starts_with(&format!("sorry: {text}")) && message.ends_with("…"));
            assert!(
                (MOST_MESSAGE - 8..=MOST_MESSAGE).contains(&message.len()),
                "{}",
                message.len()
            );
            let headers = status.into_http::<()>().into_parts().0.headers;
            let length: usize = headers.iter().map(|(name, v)| name.as_str().len() + v.len()).sum();
            assert!((4096..most_in_header).contains(&length), "{text}: {length}");
        }
    }

    #[test]
    fn a_remedy_travels_in_the_metadata() {
        let status = of(snapshot::Error::NotFound("a".into()));
        assert_eq!(status.metadata().get(REMEDY).unwrap(), "list what there is with `thinfs ls`");
    }
}
