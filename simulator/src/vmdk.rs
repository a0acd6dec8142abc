//! Real virtual disks: VMDK files as ESXi leaves them on a datastore.
//!
//! Two shapes, and `qemu-img` accepts both:
//!
//! | disk | files | contents |
//! |---|---|---|
//! | without a parent | `x.vmdk` (descriptor, text) and `x-flat.vmdk` | one flat extent, a sparse file on the host |
//! | child of another | `x.vmdk` | hosted sparse: header, embedded descriptor, grain tables, 64 KiB grains |
//!
//! A child names its parent by a relative path (`parentFileNameHint`) and by the content id that
//! the parent had when the child was made (`parentCID`). Writing a disk gives it a new content id,
//! so a child whose parent was changed behind its back does not open.
//!
//! Everything here blocks: callers on tokio use `spawn_blocking`.
//!
//! **Locks.** An opened disk holds `flock` on its extent: exclusive for the disk that is written,
//! shared for its parents. That is ESXi's rule, with ESXi's text ("Failed to lock the file"), and
//! the kernel drops the lock with the process.
//!
//! **Crashes.** In a child, data goes into its grain before the grain table points at it, so a
//! SIGKILL at any moment leaves a disk that is consistent and holds every write that was answered.

mod chain;
mod create;
mod descriptor;
mod error;
mod layer;
mod ops;
mod roots;
mod sparse;

pub use chain::{Access, Chain};
pub use create::{create_child, create_flat};
pub use descriptor::{Descriptor, DescriptorError, ExtentLine, parse_descriptor};
pub use error::Error;
pub use ops::{Info, copy, delete, extend, files, inspect, rename};
pub use roots::Roots;

/// Bytes in one sector, the unit of every count in the format.
pub const SECTOR: u64 = 512;

/// Bytes in one grain of the disks that we write: what VMware's own hosted disks use.
pub const GRAIN: u64 = 64 * 1024;

/// The largest disk that vSphere has: 62 TB.
pub const MAX_CAPACITY: u64 = 62 << 40;

/// The longest chain that opens. ESXi stops at 255 links for instant clones and at 32 snapshots;
/// an image may have 127 layers and its container one more.
pub const MAX_CHAIN: usize = 255;
