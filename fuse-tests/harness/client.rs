//! A blocking client of the daemon's admin service: the same calls as the command line, without a process for each.

use std::path::Path;

use thinfs::grpc::proto::thinfs::admin::v1 as admin;
use thinfs::grpc::proto::thinfs::admin::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// One connection; every call blocks its thread.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    admin: AdminClient<Channel>,
}

/// What a call answered: its value, or the gRPC code.
pub type Answer<T> = Result<T, Code>;

fn code(status: Status) -> Code {
    status.code()
}

impl Client {
    /// Connects to a daemon that listens.
    pub fn connect(socket: &Path) -> Client {
        Self::try_connect(socket).expect("connect to the daemon")
    }

    /// Connects to a daemon that may be gone.
    pub fn try_connect(socket: &Path) -> Option<Client> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let uri = format!("unix://{}", socket.display());
        let endpoint =
            tonic::transport::Endpoint::from_shared(uri).expect("a socket path is a URI");
        let admin = runtime.block_on(AdminClient::connect(endpoint)).ok()?;
        Some(Client { runtime, admin })
    }

    pub fn prepare(&mut self, key: &str, parent: &str) -> Answer<admin::Snapshot> {
        let request =
            admin::PrepareRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        self.runtime.block_on(self.admin.prepare(request)).map(|r| r.into_inner()).map_err(code)
    }

    /// Prepares a snapshot with a size of its own.
    pub fn prepare_sized(&mut self, key: &str, parent: &str, size: u64) -> Answer<admin::Snapshot> {
        let labels = [("containerd.io/snapshot/max-size".to_owned(), size.to_string())].into();
        let request = admin::PrepareRequest {
            key: key.into(),
            parent: parent.into(),
            labels,
            ..Default::default()
        };
        self.runtime.block_on(self.admin.prepare(request)).map(|r| r.into_inner()).map_err(code)
    }

    /// Sets one label.
    pub fn label(&mut self, key: &str, label: &str, value: &str) -> Answer<admin::Snapshot> {
        let labels = [(label.to_owned(), value.to_owned())].into();
        let request = admin::UpdateRequest { key: key.into(), labels, ..Default::default() };
        self.runtime.block_on(self.admin.update(request)).map(|r| r.into_inner()).map_err(code)
    }

    pub fn view(&mut self, key: &str, parent: &str) -> Answer<admin::Snapshot> {
        let request =
            admin::ViewRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        self.runtime.block_on(self.admin.view(request)).map(|r| r.into_inner()).map_err(code)
    }

    pub fn commit(&mut self, key: &str, name: &str) -> Answer<admin::Snapshot> {
        let request =
            admin::CommitRequest { key: key.into(), name: name.into(), ..Default::default() };
        self.runtime.block_on(self.admin.commit(request)).map(|r| r.into_inner()).map_err(code)
    }

    pub fn remove(&mut self, key: &str) -> Answer<()> {
        let request = admin::RemoveRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.admin.remove(request)).map(drop).map_err(code)
    }

    /// Every snapshot of the default namespace.
    pub fn list(&mut self) -> Vec<admin::Snapshot> {
        self.runtime.block_on(async {
            let mut stream =
                self.admin.list(admin::ListRequest::default()).await.expect("list").into_inner();
            let mut all = Vec::new();
            while let Some(reply) = stream.message().await.expect("list goes on") {
                all.extend(reply.snapshots);
            }
            all
        })
    }

    /// Disagreements between store and backend.
    pub fn check(&mut self) -> Vec<String> {
        self.runtime
            .block_on(self.admin.check(admin::CheckRequest::default()))
            .expect("check")
            .into_inner()
            .problems
    }

    /// Waits until the reaper has been through once.
    pub fn gc(&mut self) -> admin::GcReply {
        self.try_gc().expect("gc")
    }

    /// The same of a daemon that may be gone.
    pub fn try_gc(&mut self) -> Answer<admin::GcReply> {
        let reply = self.runtime.block_on(self.admin.gc(admin::GcRequest::default()));
        reply.map(|r| r.into_inner()).map_err(code)
    }

    pub fn status(&mut self) -> admin::StatusReply {
        self.runtime
            .block_on(self.admin.status(admin::StatusRequest::default()))
            .expect("status")
            .into_inner()
    }
}
