//! End-to-end tests: a real `thinfs serve`, a real FUSE mount, real programs.
//!
//! Every test starts daemons of its own and ends in `Daemon::finish`, which stops them cleanly and checks that no
//! mount, loop device, dm device or half-made tree is left.
#![allow(clippy::unwrap_used, missing_docs)]

mod harness;

mod block;
mod cli;
mod conformance;
mod containers;
mod crash;
mod fidelity;
mod gc;
mod kubernetes;
mod layer_store;
mod layers;
mod lifecycle;
mod model;
mod readme;
mod restart;
mod scale;
mod snapshots;
mod space;
mod store;
mod suites;
mod survival;
mod systemd;
mod wire;
