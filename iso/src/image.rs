//! ISO 9660 images with Rock Ridge names.
//!
//! ```text
//! sector 0..16   empty (a boot loader's)      18   path table, little endian    …  directories, breadth first
//!        16      primary volume descriptor    ..   path table, big endian       …  files, in order of their path
//!        17      end of descriptors
//! ```
//! The plain names are upper case and at most 31 characters, as ECMA-119 wants them; the real ones are in the Rock
//! Ridge fields (`NM`, `PX`) of each directory record, which Linux, xorriso and isoinfo show.

mod builder;
mod date;
mod reader;
mod susp;

pub use builder::{BuildError, Builder, Source};
pub use reader::{Entry, FileStream, ReadError, Reader};

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 2048;
/// The sector of the primary volume descriptor.
pub(crate) const DESCRIPTOR: u32 = 16;
/// Where the descriptor has the publisher, and how long that is.
pub(crate) const PUBLISHER: std::ops::Range<usize> = 318..446;
/// Where the descriptor has the volume's name.
pub(crate) const VOLUME_ID: std::ops::Range<usize> = 40..72;
/// Where the descriptor has the root directory's record.
pub(crate) const ROOT_RECORD: std::ops::Range<usize> = 156..190;
/// The flag of a directory's record.
pub(crate) const FLAG_DIR: u8 = 2;
/// The flag of a record that the next one continues.
pub(crate) const FLAG_MULTI_EXTENT: u8 = 0x80;

/// How many sectors `bytes` take.
pub(crate) fn sectors(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR as u64)
}
