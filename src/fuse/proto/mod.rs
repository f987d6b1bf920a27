//! The FUSE protocol as the kernel speaks it: `include/uapi/linux/fuse.h`, of which thinfs uses what is here.
//!
//! | file | what |
//! |---|---|
//! | `wire` | the structs, byte for byte |
//! | `flags` | bits in their fields |
//! | `request` | a request, decoded |
//! | `reply` | the way of an answer: exactly one for each request |
//! | `device` | `/dev/fuse`: requests, answers, notices, backing files |
//! | `init` | what is agreed on when a mount begins |
//!
//! Knows neither files nor the tree. A library for this exists (`fuser`, used until thinfs 0.1), but what it
//! leaves out is what a root filesystem shows: nameless files, birth times, when set-user-id bits go, idmapped
//! mounts; and what makes a mount outlive its daemon: taking a connection over without its beginning, and
//! requests sent once more.
//!
//! Numbers are in the machine's own byte order, strings end with a NUL.

pub mod device;
pub mod flags;
pub mod init;
pub mod reply;
pub mod request;
pub mod wire;

pub use device::{BackingId, Device};
pub use reply::Reply;
pub use request::Request;
