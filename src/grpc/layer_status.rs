//! What a client is told of an error of the layer store.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::status::{self, REMEDY, bounded, with_causes};
use crate::layer;
use crate::layer_store::Error;

/// The status for an error; logs it.
pub(super) fn of(error: Error) -> Status {
    let error = match error {
        Error::Snapshot(error) => return status::of(error),
        error => error,
    };
    let (code, remedy) = match &error {
        Error::Snapshot(_) => (Code::Internal, None),
        Error::LayerNotFound(_) => (Code::NotFound, Some("list layers with `thinfs layer ls`")),
        Error::RwNotFound(_) => {
            (Code::NotFound, Some("list read-write layers with `thinfs rw ls`"))
        }
        Error::ImageNotFound(_) => (Code::NotFound, Some("list images with `thinfs image ls`")),
        Error::RwExists(_) => (
            Code::AlreadyExists,
            Some("choose another name, or take a reference with `thinfs rw get`"),
        ),
        Error::MaxDepth(_) => (
            Code::FailedPrecondition,
            Some("flatten the layers below with `thinfs layer export --flat`"),
        ),
        Error::NotRetained(_) => {
            (Code::FailedPrecondition, Some("see who holds it with `thinfs layer info`"))
        }
        Error::RwNotRetained(_) => (
            Code::FailedPrecondition,
            Some("end its leases: see `thinfs --namespace layers lease ls`"),
        ),
        Error::NotAncestor { .. } => {
            (Code::InvalidArgument, Some("see what is below it with `thinfs layer tree`"))
        }
        Error::WrongDiffId { .. } | Error::InvalidImage(_) => {
            (Code::InvalidArgument, Some("fetch the image again"))
        }
        Error::InvalidArgument(_) => (Code::InvalidArgument, None),
        Error::Layer(error) => of_engine(error),
        Error::Tree(_) | Error::Io { .. } => {
            (Code::Internal, Some("look at the daemon's log and at `dmesg`"))
        }
    };
    let message = with_causes(&error);
    match code {
        Code::Internal | Code::DataLoss => tracing::error!(?code, "{message}"),
        _ => tracing::debug!(?code, "{message}"),
    }
    let mut status = Status::new(code, bounded(message));
    if let Some(remedy) = remedy {
        status.metadata_mut().insert(REMEDY, MetadataValue::from_static(remedy));
    }
    status
}

fn of_engine(error: &layer::Error) -> (Code, Option<&'static str>) {
    use layer::Error as E;
    match error {
        E::Input(_) | E::Malformed { .. } | E::Refused { .. } | E::Limit { .. } => {
            (Code::InvalidArgument, None)
        }
        E::Compression(_) => (Code::InvalidArgument, Some("decompress it first")),
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => (
            Code::ResourceExhausted,
            Some("remove snapshots and run `thinfs gc`, or make the pool or disk larger"),
        ),
        E::Io { .. } | E::Tree(_) | E::RecordOutput(_) => {
            (Code::Internal, Some("look at the daemon's log and at `dmesg`"))
        }
        E::Output(_) => (Code::FailedPrecondition, Some("whoever reads the output has gone")),
        E::RecordInput(_) | E::Record(_) | E::Verify(_) => {
            (Code::DataLoss, Some("import the layer again: what is stored of it was changed"))
        }
        E::Cancelled => (Code::Cancelled, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a header of more than 16 KiB, a client sees a broken stream and none of this.
    #[test]
    fn a_long_name_leaves_room_for_the_rest_of_the_status() {
        let path = "世".repeat(1 << 18);
        let status = of(Error::Layer(layer::Error::Refused { path, what: "a name" }));
        assert!(status.message().starts_with("invalid archive: entry \"世"));
        let headers = status.into_http::<()>().into_parts().0.headers;
        let length: usize = headers.iter().map(|(name, v)| name.as_str().len() + v.len()).sum();
        assert!((4096..13_000).contains(&length), "{length}");
    }
}
