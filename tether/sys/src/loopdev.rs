//! Loop devices: one ioctl to attach, autoclear so that a crash leaves none behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::libc;

use crate::check;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often to try again when another process takes the free device first.
const RACES: u32 = 64;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// Bypass the page cache of the backing file.
    pub direct_io: bool,
    /// Logical block size; 0 is the default of 512.
    pub block_size: u32,
}

/// An attached loop device. It is autoclear: when this and every other opener (a mount in a
/// guest) is closed, the device is free again.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    number: u32,
    major: u32,
    minor: u32,
}

impl LoopDevice {
    /// Attaches an open file to a free loop device.
    ///
    /// # Errors
    /// `ENOENT` or `EPERM` when loop devices cannot be used here; `EBUSY` when other processes
    /// kept taking the free device.
    pub fn attach(backing: BorrowedFd<'_>, options: Options) -> io::Result<Self> {
        let control = File::open("/dev/loop-control")?;
        for _ in 0..RACES {
            // SAFETY: no memory is involved.
            let number =
                check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })? as u32;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                // The node may be made late by devtmpfs.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            match Self::configure(&file, backing, options) {
                Ok(()) => {
                    let (major, minor) = crate::mount::split_dev(file.metadata()?.rdev());
                    return Ok(Self {
                        file,
                        number,
                        major,
                        minor,
                    });
                }
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    fn configure(file: &File, backing: BorrowedFd<'_>, options: Options) -> io::Result<()> {
        let mut flags = LO_FLAGS_AUTOCLEAR;
        if options.read_only {
            flags |= LO_FLAGS_READ_ONLY;
        }
        if options.direct_io {
            flags |= LO_FLAGS_DIRECT_IO;
        }
        // SAFETY: LoopConfig consists of integers only, for which zero is valid.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = backing.as_raw_fd() as u32;
        config.block_size = options.block_size;
        config.info.flags = flags;
        // SAFETY: `config` has the layout of struct loop_config and lives across the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) })
            .map(drop)
    }

    /// Returns N of `/dev/loopN`.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns major and minor.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// Returns the open device.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the descriptor that keeps the device attached.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// Takes the backing file's new size.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn refresh_size(&self) -> io::Result<()> {
        // SAFETY: no memory is involved.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), LOOP_SET_CAPACITY as _) }).map(drop)
    }

    /// Writes back and detaches; with other openers left, when the last of them closes.
    ///
    /// # Errors
    /// What fsync and the ioctl say.
    pub fn detach(self) -> io::Result<()> {
        // A device that was told to detach refuses the writes of its own cache.
        self.file.sync_all()?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), LOOP_CLR_FD as _) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_is_read_through_its_loop_device_and_the_device_goes_with_its_owner() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
        let device = LoopDevice::attach(file.as_fd(), Options::default()).unwrap();
        let mut block = [0; 512];
        device.file().read_exact_at(&mut block, 512).unwrap();
        assert_eq!(block, [7; 512]);
        let (major, _) = device.device();
        assert_eq!(major, 7);
        device.detach().unwrap();
    }
}
