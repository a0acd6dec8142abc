//! Builds and reads `bootstrap.iso` and `appliance.iso`.
//!
//! Three layers, each usable alone:
//!
//! - [`cpio`]: the "newc" archives that Linux unpacks as its first root file system;
//! - [`image`]: ISO 9660 images with Rock Ridge names, written deterministically, read with limits;
//! - [`initramfs`]: the two put together, as every VM of ours boots: an archive, gzip-compressed, at
//!   [`INITRD_PATH`] of an image, and [`VERSION_PATH`] beside it.
//!
//! Everything that is read here may come from a datastore that others write to, so the readers trust no length,
//! offset or name that they find.
//!
//! ```
//! use iso::{cpio, image, initramfs};
//!
//! let mut archive = cpio::Writer::new(Vec::new());
//! archive.file("init", 0o755, b"#!").unwrap();
//! let initrd = initramfs::compress(&archive.finish().unwrap()).unwrap();
//!
//! let mut image = image::Builder::new("BOOTSTRAP");
//! image.file(iso::INITRD_PATH, initrd).unwrap();
//! let mut bytes = Vec::new();
//! image.write(&mut bytes).unwrap();
//!
//! let mut reader = iso::Reader::new(std::io::Cursor::new(bytes)).unwrap();
//! assert_eq!(reader.entry("/boot/initrd.gz").unwrap().path, "/boot/initrd.gz");
//! ```

pub mod cpio;
pub mod image;
pub mod initramfs;

pub use image::{Builder, Reader};

/// The compressed root file system inside each of our images.
pub const INITRD_PATH: &str = "/boot/initrd.gz";
/// Where the kernel will lie once an image has to boot on a hypervisor by itself.
pub const KERNEL_PATH: &str = "/boot/vmlinuz";
/// The folder reserved for the boot loader.
pub const BOOT_LOADER_DIR: &str = "/isolinux";
/// A small JSON document: `{"name":…,"version":…,"initrdSha256":…}`.
pub const VERSION_PATH: &str = "/vic-version.json";

/// Paths that callers may not use for anything but their purpose.
pub const RESERVED_PATHS: [&str; 3] = [KERNEL_PATH, "/boot/grub", BOOT_LOADER_DIR];
