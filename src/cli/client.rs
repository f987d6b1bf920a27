//! The connection to the daemon.

use std::io;
use std::path::Path;

use tonic::transport::{Channel, Endpoint};

use super::error::{Error, Result};
use crate::grpc::proto::thinfs::admin::v1::admin_client::AdminClient;

/// The daemon's admin service, and the namespace that the user works in.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) admin: AdminClient<Channel>,
    pub(super) namespace: String,
}

impl Client {
    /// Connects; tells "not running" apart from other failures.
    pub(super) async fn connect(socket: &Path, namespace: String) -> Result<Self> {
        // A plain connection first: its error says what tonic's buries.
        if let Err(source) = tokio::net::UnixStream::connect(socket).await {
            return Err(match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning(socket.to_owned()),
                _ => Error::Unreachable { socket: socket.to_owned(), source },
            });
        }
        let path = socket.to_str().ok_or_else(|| Error::SocketPath(socket.to_owned()))?;
        let failed = |source| Error::Transport { socket: socket.to_owned(), source };
        let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        // A message of a hundred snapshots can hold 100 × (key + parent + labels): no limit here.
        let admin = AdminClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { admin, namespace })
    }

    /// The namespace, for a request.
    pub(super) fn ns(&self) -> String {
        self.namespace.clone()
    }
}
