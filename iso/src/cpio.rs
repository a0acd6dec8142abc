//! "newc" cpio archives, the format of an initramfs.
//!
//! An archive is a sequence of members: a 110-byte header of hexadecimal text, the name, the data, each padded to
//! four bytes, ending with a member named `TRAILER!!!`. Linux accepts several archives one after the other, with
//! zeroes between them; so does [`Reader`].

mod reader;
mod unpack;
mod writer;

pub use reader::{Limits, Member, ReadError, Reader};
pub use unpack::{UnpackError, unpack};
pub use writer::Writer;

/// The bits of a mode that say what kind of file it is.
pub const TYPE_MASK: u32 = 0o170_000;
/// A directory.
pub const TYPE_DIR: u32 = 0o040_000;
/// A regular file.
pub const TYPE_FILE: u32 = 0o100_000;
/// A symbolic link; its data is the target.
pub const TYPE_SYMLINK: u32 = 0o120_000;
/// A character device.
pub const TYPE_CHAR: u32 = 0o020_000;

const MAGIC: &[u8; 6] = b"070701";
const HEADER_LEN: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// Bytes needed to bring `len` to a multiple of four.
fn padding(len: u64) -> usize {
    usize::from((4 - (len % 4) as u8) % 4)
}
