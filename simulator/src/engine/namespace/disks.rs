//! A guest's disks as block devices of the host.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use tether_sys::loopdev::{LoopDevice, Options};

use super::protocol::Disk;
use crate::diskview::{AttachedDisk, DiskView};
use crate::engine::{DiskSpec, EngineError};
use crate::vmdk::Access;

/// How long the kernel may take to let go of a device that nobody uses.
const DETACH_DEADLINE: Duration = Duration::from_secs(5);

/// A disk that has a block device.
#[derive(Debug)]
pub(super) enum Attached {
    /// A VMDK chain.
    Chain(AttachedDisk),
    /// A raw image.
    Raw(LoopDevice),
}

impl Attached {
    /// Attaches a disk; blocks.
    pub(super) fn open(view: Option<&DiskView>, disk: &DiskSpec) -> Result<Self, EngineError> {
        let what = || format!("attach {}", disk.vmdk.display());
        if is_raw(&disk.vmdk) {
            let open = || -> io::Result<LoopDevice> {
                let file = File::options()
                    .read(true)
                    .write(!disk.read_only)
                    .open(&disk.vmdk)?;
                let options = Options {
                    read_only: disk.read_only,
                    ..Options::default()
                };
                LoopDevice::attach(file.as_fd(), options)
            };
            return open().map(Self::Raw).map_err(EngineError::step(what()));
        }
        let Some(view) = view else {
            let source = io::Error::other("this engine was started without virtual disks");
            return Err(EngineError::step(what())(source));
        };
        let access = if disk.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        view.attach(&disk.vmdk, access)
            .map(Self::Chain)
            .map_err(|e| EngineError::step(what())(io::Error::other(e)))
    }

    /// Describes the disk to the helper.
    pub(super) fn describe(&self, disk: &DiskSpec) -> Disk {
        let (major, minor) = match self {
            Self::Chain(d) => d.device(),
            Self::Raw(d) => d.device(),
        };
        Disk {
            slot: (disk.slot.bus, disk.slot.unit),
            major,
            minor,
        }
    }

    /// Tells whether a guest has the device mounted (or otherwise claimed).
    pub(super) fn is_mounted(&self) -> bool {
        use std::os::unix::fs::OpenOptionsExt;
        let number = match self {
            Self::Chain(d) => d.number(),
            Self::Raw(d) => d.number(),
        };
        let opened = File::options()
            .read(true)
            .custom_flags(nix::libc::O_EXCL)
            .open(format!("/dev/loop{number}"));
        opened.is_err_and(|e| e.raw_os_error() == Some(nix::libc::EBUSY))
    }

    /// Lets go of the disk, and waits until it is closed; blocks.
    pub(super) fn close(self) -> Result<(), EngineError> {
        match self {
            Self::Chain(disk) => {
                let path = disk.path().display().to_string();
                disk.detach(DETACH_DEADLINE)
                    .map_err(|_| EngineError::InUse(path))
            }
            Self::Raw(device) => {
                // Autoclear does it anyway when the device closes.
                let _ = device.detach();
                Ok(())
            }
        }
    }
}

fn is_raw(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "img")
}
