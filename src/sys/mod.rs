//! Raw system calls and ioctls: the only unsafe code of the crate. One file a subject.

pub mod creds;
pub mod direct;
pub mod discard;
pub mod filesystem;
pub mod fuse;
pub mod handle;
pub mod inherited;
pub mod ioctl;
pub mod lease;
pub mod loopdev;
pub mod mount;
pub mod poll;
pub mod thread;
