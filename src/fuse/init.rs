//! What is agreed with the kernel when the mount starts.

use fuser::{InitFlags, KernelConfig};

use super::backing::Backings;

/// Longest read or write in one request, in bytes.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that nobody waits for (read-ahead) which may be under way at a time.
const MAX_BACKGROUND: u16 = 64;

/// Asked for where the kernel offers it.
///
/// Left out on purpose: `WRITEBACK_CACHE` (excludes passthrough), `READDIRPLUS_AUTO` (always is better here),
/// `AUTO_INVAL_DATA` (only we change files), `POSIX_LOCKS` and `FLOCK_LOCKS` (locks stay in the kernel),
/// `SETXATTR_EXT` (fuser panics), `ALLOW_IDMAP` (requests would come without the caller's uid),
/// `CREATE_SUPP_GROUP` (we keep our rights when creating).
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_ACL,
];

/// Takes what the kernel offers. `passthrough`: whether to take that too.
pub fn agree(config: &mut KernelConfig, backings: &Backings, passthrough: bool) {
    for flag in WANTED {
        if config.add_capabilities(*flag).is_err() {
            tracing::info!(?flag, "the kernel doesn't offer this");
        }
    }
    // One level below us, so that an overlayfs may still stand on top.
    let offered = passthrough && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
    if offered && config.set_max_stack_depth(1).is_ok() {
        backings.offer();
    }
    // Both limits hold for any value in range, and fuser clamps.
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        tracing::debug!(nearest, "largest write");
    }
    if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
        tracing::debug!(nearest, "requests in the background");
    }
    tracing::info!(passthrough = offered, "FUSE {}", config.kernel_abi());
}
