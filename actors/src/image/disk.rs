//! Access to disks that are attached to our own VM: chosen where the program is put together.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use tether_protocol::config::Slot;

/// Something that takes a while.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, DiskError>> + Send + 'a>>;

/// A disk could not be formatted, mounted or let go.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A program or system call failed.
    #[error("{tried} the disk in slot {slot}")]
    Io {
        /// What was tried.
        tried: &'static str,
        /// Where.
        slot: Slot,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The disk did not appear.
    #[error("no disk appeared in slot {0}")]
    Missing(Slot),
    /// The formatter failed.
    #[error("mke2fs failed: {0}")]
    Format(String),
}

/// What is done with the disks of our own VM.
pub trait DiskAccess: std::fmt::Debug + Send + Sync + 'static {
    /// Makes an ext4 on a disk, with nothing at all in it.
    fn format(&self, slot: Slot) -> Doing<'_, ()>;
    /// Mounts a disk; gives the directory.
    fn mount(&self, slot: Slot) -> Doing<'_, PathBuf>;
    /// Unmounts a disk; everything is on it when this answers. A disk that is not mounted is fine.
    fn unmount(&self, slot: Slot) -> Doing<'_, ()>;
    /// The slots whose disks are mounted, as far as this can be told.
    fn mounted(&self) -> Pin<Box<dyn Future<Output = Vec<Slot>> + Send + '_>> {
        Box::pin(async { Vec::new() })
    }
}
