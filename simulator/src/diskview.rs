//! Attached disks as block devices: chains of VMDKs behind FUSE, loop devices on top.
//!
//! ```text
//! guest's block node ─ loop device (direct I/O, autoclear) ─ file on our FUSE ─ Chain ─ VMDK files
//! ```
//!
//! **Nothing stays behind.** The FUSE file system is a *detached* mount: it has no place in any
//! mount namespace and lives only as a descriptor of this process, with a file per attached disk.
//! `/dev/fuse`, that mount and the loop devices are all close-on-exec. When the process is killed,
//! the connection is gone, every request fails at once, and the loop devices clear themselves when
//! their guests let go of them.
//!
//! **Threads.** The requests are served by threads of their own that never wait for anything but
//! the datastore's files: a guest's write may be needed to free the memory that anything else in
//! this process waits for. Callers on tokio use `spawn_blocking` for [`DiskView::attach`] and
//! [`AttachedDisk::detach`].

mod fs;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tether_sys::loopdev::{LoopDevice, Options};
use tether_sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, FsContext, open_at};

use crate::vmdk::{self, Access, Chain, Roots};
use fs::{DiskFs, Table};

/// Threads that serve requests. Two keep two cores busy; more only help when the datastore's
/// files are not in memory and a read has to wait.
pub const THREADS: usize = 4;

/// Why a disk could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk does not open.
    #[error("cannot open the virtual disk {}", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: vmdk::Error,
    },
    /// The host does not give what is needed.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A guest still uses the device.
    #[error("the device of {} is still in use", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
    },
}

impl Error {
    /// Tells whether the same call can succeed later with nothing repaired in between.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Disk { source, .. } => source.is_retryable(),
            Self::Host { .. } => false,
            Self::InUse { .. } => true,
        }
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

/// The file system with one file per attached disk. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct DiskView(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roots: Roots,
    table: Arc<Table>,
    /// The detached mount. Closing it ends the serving threads once no loop device is left.
    mount: OwnedFd,
}

impl DiskView {
    /// Makes the mount and starts the serving threads. `roots`: where disks may lie.
    ///
    /// # Errors
    /// [`Error::Host`] without root, or on a kernel without FUSE.
    pub fn start(roots: Roots) -> Result<Self, Error> {
        let table = Arc::new(Table::default());
        let serving = table.clone();
        // The kernel's memory flag is inherited by threads: it is set on one that ends here.
        let starter = std::thread::Builder::new()
            .name("diskview".into())
            .spawn(move || Self::mount(serving))
            .map_err(host("start a thread"))?;
        let mount = starter.join().map_err(|_| Error::Host {
            what: "start FUSE",
            source: io::Error::other("panic"),
        })??;
        Ok(Self(Arc::new(Inner {
            roots,
            table,
            mount,
        })))
    }

    fn mount(table: Arc<Table>) -> Result<OwnedFd, Error> {
        if let Err(error) = tether_sys::process::set_io_flusher() {
            tracing::warn!(%error, "disks are served without PR_SET_IO_FLUSHER");
        }
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(host("open /dev/fuse"))?;
        let context = FsContext::open("fuse").map_err(host("make a FUSE file system"))?;
        let set = || -> io::Result<OwnedFd> {
            context.set("source", "vic-disks")?;
            // fsconfig takes fuse's descriptor as text.
            context.set("fd", &device.as_raw_fd().to_string())?;
            context.set("rootmode", "40000")?;
            context.set("user_id", "0")?;
            context.set("group_id", "0")?;
            context.mount(ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)
        };
        let mount = set().map_err(host("mount FUSE"))?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(THREADS);
        let session = fuser::Session::from_fd(
            DiskFs::new(table),
            device.into(),
            fuser::SessionACL::Owner,
            config,
        )
        .map_err(host("greet FUSE"))?;
        // The threads end by themselves when the file system is gone.
        session.spawn().map_err(host("start the FUSE threads"))?;
        Ok(mount)
    }

    /// Opens the chain under `top` and puts a loop device on it.
    ///
    /// # Errors
    /// [`Error::Disk`] (with [`vmdk::Error::Locked`] when another has it), [`Error::Host`].
    pub fn attach(&self, top: &Path, access: Access) -> Result<AttachedDisk, Error> {
        let chain = Chain::open(top, access, &self.0.roots).map_err(|source| Error::Disk {
            path: top.to_path_buf(),
            source,
        })?;
        let capacity = chain.capacity();
        let number = self.0.table.insert(chain);
        let opened = self.open(number, access);
        let file = opened.inspect_err(|_| self.0.table.remove(number))?;
        // From here on the table's entry goes with the last reference to the file.
        let options = Options {
            read_only: access == Access::ReadOnly,
            direct_io: true,
            block_size: 512,
        };
        let device =
            LoopDevice::attach(file.as_fd(), options).map_err(host("attach a loop device"))?;
        Ok(AttachedDisk {
            view: self.clone(),
            path: top.to_path_buf(),
            number,
            capacity,
            device,
        })
    }

    fn open(&self, number: u64, access: Access) -> Result<File, Error> {
        use nix::libc::{O_CLOEXEC, O_RDONLY, O_RDWR};
        let mode = if access == Access::ReadOnly {
            O_RDONLY
        } else {
            O_RDWR
        };
        open_at(
            self.0.mount.as_fd(),
            &number.to_string(),
            mode | O_CLOEXEC,
            0,
        )
        .map(File::from)
        .map_err(host("open a disk's file"))
    }

    /// Number of disks that are attached now, or detached but still in use.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.0.table.len()
    }
}

/// An attached disk. Dropping it lets go of the device; [`AttachedDisk::detach`] also waits until
/// the disk's files are unlocked.
#[derive(Debug)]
pub struct AttachedDisk {
    view: DiskView,
    path: PathBuf,
    number: u64,
    capacity: u64,
    device: LoopDevice,
}

impl AttachedDisk {
    /// Major and minor number of the block device.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.device.device()
    }

    /// N of `/dev/loopN`.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.device.number()
    }

    /// The open block device.
    #[must_use]
    pub fn file(&self) -> &File {
        self.device.file()
    }

    /// The disk that it shows.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Lets go of the device and waits until nobody uses it and the disk is unlocked.
    ///
    /// # Errors
    /// [`Error::InUse`] when a guest still has it open or mounted at the deadline. The device is
    /// let go of all the same, and free when the guest is done.
    pub fn detach(self, deadline: Duration) -> Result<(), Error> {
        let Self {
            view,
            path,
            number,
            device,
            ..
        } = self;
        drop(device);
        if view.0.table.wait_gone(number, deadline) {
            Ok(())
        } else {
            Err(Error::InUse { path })
        }
    }
}
