//! Bytes on their way: files that the daemon reads or writes itself, and a bar that shows how far
//! it is, on a terminal only.

use std::fs::File;
use std::future::Future;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use tonic::{Response, Status, Streaming};

use super::error::{Error, Result};
use super::output::size;
use crate::grpc;
use crate::grpc::proto::thinfs::layers::v1 as layers;

/// What the daemon is to read: a file, or standard input.
pub(super) enum Input {
    File(File),
    Stdin,
}

impl Input {
    /// `-` is standard input, too.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        match path.filter(|path| *path != Path::new("-")) {
            None => Ok(Self::Stdin),
            Some(path) => {
                let open = File::open(path);
                open.map(Self::File).map_err(|source| Error::Read { path: path.to_owned(), source })
            }
        }
    }

    pub(super) fn descriptor(&self) -> Result<layers::Descriptor> {
        let stdin = std::io::stdin();
        let fd: BorrowedFd<'_> = match self {
            Self::File(file) => file.as_fd(),
            Self::Stdin => stdin.as_fd(),
        };
        Ok(grpc::descriptor(&fd)?)
    }
}

/// Standard output, for the daemon to write.
pub(super) fn stdout_descriptor() -> Result<layers::Descriptor> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::Terminal);
    }
    Ok(grpc::descriptor(&stdout)?)
}

/// A reply that may only say how far the work is.
pub(super) trait Moving {
    fn progress(&self) -> Option<layers::Progress>;
}

impl Moving for layers::ImportReply {
    fn progress(&self) -> Option<layers::Progress> {
        self.progress
    }
}

impl Moving for layers::ExportReply {
    fn progress(&self) -> Option<layers::Progress> {
        self.progress
    }
}

/// Follows the replies to the last one.
pub(super) async fn follow<M: Moving>(
    doing: &str,
    call: impl Future<Output = std::result::Result<Response<Streaming<M>>, Status>>,
) -> std::result::Result<M, Status> {
    let bar = std::io::stderr().is_terminal().then(|| bar(doing));
    let mut replies = call.await?.into_inner();
    let mut last = None;
    while let Some(reply) = replies.message().await? {
        if let (Some(bar), Some(progress)) = (&bar, reply.progress()) {
            show(bar, doing, progress);
        }
        last = Some(reply);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    last.ok_or_else(|| Status::internal("the daemon ended the stream without an answer"))
}

fn bar(doing: &str) -> ProgressBar {
    ProgressBar::no_length().with_style(style(false)).with_message(doing.to_owned())
}

fn style(bounded: bool) -> ProgressStyle {
    let template = match bounded {
        true => "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        false => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn show(bar: &ProgressBar, doing: &str, progress: layers::Progress) {
    if progress.total > 0 && bar.length().is_none() {
        bar.set_style(style(true));
        bar.set_length(progress.total);
    }
    if progress.layers > 0 {
        let layers::Progress { layer, layers, unpacked, .. } = progress;
        bar.set_message(format!("{doing}, layer {layer} of {layers} ({})", size(unpacked)));
    }
    bar.set_position(progress.moved);
}
