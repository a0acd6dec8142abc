//! The FUSE side: a flat directory whose files are chains, named by their inode numbers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::vmdk::{Access, Chain};

/// The largest request: what kernels give FUSE without a change of their settings.
const MAX_REQUEST: u32 = 1 << 20;
/// Requests of loop devices that may wait in the kernel's queue at once.
const BACKGROUND: u16 = 128;
/// Attributes never change while a disk is attached.
const TTL: Duration = Duration::from_secs(3600);
const FIRST_DISK: u64 = 2;

/// The attached disks.
#[derive(Debug)]
pub(super) struct Table {
    next: AtomicU64,
    /// `None` while a disk is being closed: it is still locked then.
    disks: Mutex<HashMap<u64, Option<Arc<Chain>>>>,
    gone: Condvar,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(FIRST_DISK),
            disks: Mutex::default(),
            gone: Condvar::new(),
        }
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Option<Arc<Chain>>>> {
        self.disks
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Adds a disk under a number that is never used again.
    pub(super) fn insert(&self, chain: Chain) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Some(Arc::new(chain)));
        number
    }

    /// Closes a disk.
    pub(super) fn remove(&self, number: u64) {
        let taken = self.lock().get_mut(&number).and_then(Option::take);
        let Some(mut chain) = taken else {
            return;
        };
        // Whoever waits must find it unlocked. No request is under way after a release, so the
        // loop ends at once.
        loop {
            match Arc::try_unwrap(chain) {
                Ok(last) => break drop(last),
                Err(shared) => {
                    chain = shared;
                    std::thread::yield_now();
                }
            }
        }
        self.lock().remove(&number);
        self.gone.notify_all();
    }

    fn get(&self, number: u64) -> Option<Arc<Chain>> {
        self.lock().get(&number).cloned().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until a disk is closed; false at the deadline.
    pub(super) fn wait_gone(&self, number: u64, deadline: Duration) -> bool {
        let disks = self.lock();
        let waited = self
            .gone
            .wait_timeout_while(disks, deadline, |disks| disks.contains_key(&number))
            .unwrap_or_else(|poison| poison.into_inner());
        !waited.1.timed_out()
    }
}

/// The file system that fuser serves.
pub(super) struct DiskFs {
    table: Arc<Table>,
    born: SystemTime,
}

thread_local! {
    /// Each serving thread's buffer for reads, kept between requests.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Errno::EROFS,
        io::ErrorKind::InvalidInput => Errno::EINVAL,
        _ => error.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
    }
}

impl DiskFs {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            born: SystemTime::UNIX_EPOCH,
        }
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = if ino == INodeNo::ROOT {
            (FileType::Directory, 0o700, 0)
        } else {
            (
                FileType::RegularFile,
                0o600,
                self.table.get(ino.0)?.capacity(),
            )
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            crtime: self.born,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn with(&self, ino: INodeNo, f: impl FnOnce(&Chain) -> io::Result<()>) -> Result<(), Errno> {
        let chain = self.table.get(ino.0).ok_or(Errno::ENOENT)?;
        f(&chain).map_err(|error| {
            tracing::warn!(disk = ino.0, %error, "a request of a virtual disk failed");
            errno(&error)
        })
    }
}

impl Filesystem for DiskFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Several requests of one loop device at once. Kernels without it are only slower.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name
            .to_str()
            .and_then(|n| n.parse::<u64>().ok())
            .filter(|n| *n >= FIRST_DISK);
        let found = number
            .filter(|_| parent == INodeNo::ROOT)
            .and_then(|n| self.attributes(INodeNo(n)));
        match found {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(chain) = self.table.get(ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        if chain.access() == Access::ReadOnly && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        );
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let mut len = size as usize;
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let done = self.with(ino, |chain| {
                len = len.min(chain.capacity().saturating_sub(offset) as usize);
                chain.read_at(&mut buffer[..len], offset)
            });
            match done {
                Ok(()) => reply.data(&buffer[..len]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(ino, |chain| chain.write_at(data, offset)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        match self.with(ino, Chain::flush) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        use nix::libc::{FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.with(ino, |chain| chain.zero_at(offset, length)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.table.remove(ino.0);
    }
}
