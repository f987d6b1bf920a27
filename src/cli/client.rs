//! The connection to the daemon.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{self, Channel, Endpoint};

use super::error::{Error, Result};
use crate::grpc::proto::thinfs::admin::v1::admin_client::AdminClient;
use crate::grpc::proto::thinfs::admin::v1::leases_client::LeasesClient;
use crate::grpc::proto::thinfs::admin::v1::namespaces_client::NamespacesClient;
use crate::grpc::proto::thinfs::layers::v1::layers_client::LayersClient;

/// The daemon's services, and the namespace that the user works in.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) admin: AdminClient<Channel>,
    pub(super) leases: LeasesClient<Channel>,
    pub(super) namespaces: NamespacesClient<Channel>,
    pub(super) layers: LayersClient<Channel>,
    pub(super) namespace: String,
    /// Where the daemon was found.
    pub(super) socket: PathBuf,
}

impl Client {
    /// Connects; tells "not running" apart from other failures.
    pub(super) async fn connect(socket: &Path, namespace: String) -> Result<Self> {
        let path = socket.to_str().ok_or_else(|| Error::SocketPath(socket.to_owned()))?;
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))
            .map_err(|source| failed(socket, source))?;
        let channel = endpoint.connect().await.map_err(|source| failed(socket, source))?;
        // A message of a hundred snapshots can hold 100 × (key + parent + labels): no limit here.
        let admin = AdminClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let leases = LeasesClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let layers = LayersClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let namespaces = NamespacesClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { admin, leases, namespaces, layers, namespace, socket: socket.to_owned() })
    }

    /// The namespace, for a request.
    pub(super) fn ns(&self) -> String {
        self.namespace.clone()
    }
}

/// tonic says "transport error"; what the user needs to know stands among its causes.
fn failed(socket: &Path, source: transport::Error) -> Error {
    let socket = socket.to_owned();
    match io_kind(&source) {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Error::NotRunning(socket)
        }
        Some(io::ErrorKind::PermissionDenied) => Error::NotAllowed(socket),
        _ => Error::Unreachable { socket, source },
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}
