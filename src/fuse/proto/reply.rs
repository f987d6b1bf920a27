//! The answer to a request: exactly one, whatever happens.

use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::device::Device;
use super::flags::UNIQUE_RESEND;

/// The duty to answer a request. Dropped without an answer (the work panicked, or its pool is gone) it
/// answers `EIO`, so that nobody waits for ever.
#[derive(Debug)]
pub struct Reply {
    device: Arc<Device>,
    unique: u64,
    answered: bool,
}

impl Reply {
    /// For the request of this number.
    pub fn new(device: Arc<Device>, unique: u64) -> Self {
        Self { device, unique, answered: false }
    }

    /// The device that the answer goes to.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The request's number, the same when it is sent again.
    pub fn unique(&self) -> u64 {
        self.unique & !UNIQUE_RESEND
    }

    /// Answers with a failure.
    pub fn error(self, errno: Errno) {
        self.answer(-errno.raw_os_error(), &[]);
    }

    /// Answers that it is done.
    pub fn ok(self) {
        self.answer(0, &[]);
    }

    /// Answers with a struct.
    pub fn send(self, body: &(impl IntoBytes + Immutable)) {
        self.answer(0, &[body.as_bytes()]);
    }

    /// Answers with two structs, or with one and bytes.
    pub fn send_both(
        self,
        body: &(impl IntoBytes + Immutable),
        more: &(impl IntoBytes + Immutable + ?Sized),
    ) {
        self.answer(0, &[body.as_bytes(), more.as_bytes()]);
    }

    /// Answers with structs, one behind the other. False: nobody has taken the answer.
    pub fn deliver(self, bodies: &[&[u8]]) -> bool {
        self.answer(0, bodies)
    }

    /// Answers with bytes.
    pub fn data(self, data: &[u8]) {
        self.answer(0, &[data]);
    }

    fn answer(mut self, error: i32, parts: &[&[u8]]) -> bool {
        self.answered = true;
        self.device.answer(self.unique, error, parts)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            self.device.answer(self.unique, -Errno::IO.raw_os_error(), &[]);
        }
    }
}
