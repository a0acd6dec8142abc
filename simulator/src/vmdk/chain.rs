//! An open chain: the top disk, which may be written, over its parents.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::layer::{Extent, Layer};
use super::ops::new_cid;
use super::sparse::{Allocating, Entry, Tables};
use super::{Error, Roots};

/// What an opener wants to do with the top disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Others may read too; nobody may write.
    ReadOnly,
    /// Nobody else may have it open.
    ReadWrite,
}

/// An open virtual disk with all its parents.
///
/// All methods take `&self` and may be called by several threads at once. Two writes at once to
/// one place end in either order, as on a real disk.
#[derive(Debug)]
pub struct Chain {
    top: Layer,
    access: Access,
    /// The content id was changed for this opening.
    stamped: AtomicBool,
    /// Something was written since the last flush.
    dirty: AtomicBool,
}

impl Chain {
    /// Opens the disk at `top` and, read-only, its parents.
    ///
    /// # Errors
    /// [`Error::Locked`] when another has it open for writing (or at all, when writing is wanted),
    /// [`Error::ParentModified`], [`Error::Outside`] and the rest of [`Error`].
    pub fn open(top: &Path, access: Access, roots: &Roots) -> Result<Self, Error> {
        let top = Layer::open(top, access == Access::ReadWrite, roots)?;
        Ok(Self {
            top,
            access,
            stamped: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
        })
    }

    /// Capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.top.capacity
    }

    /// Number of disks in the chain, this one included.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.top.depth()
    }

    /// How it was opened.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Fills `buf` from byte `at` on.
    ///
    /// # Errors
    /// Beyond the end: `InvalidInput`; else the host's error.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.check(at, buf.len() as u64)?;
        self.top.read(buf, at)
    }

    /// Writes `data` at byte `at`. It is durable after the next [`Chain::flush`].
    ///
    /// # Errors
    /// Read-only chains: `PermissionDenied`; beyond the end: `InvalidInput`; else the host's
    /// error, `StorageFull` among them.
    pub fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.start_write(at, data.len() as u64)?;
        match &self.top.extent {
            Extent::Flat(offset) => self.top.file.write_all_at(data, offset + at),
            Extent::Sparse(tables) => self.write_sparse(tables, data, at),
        }
    }

    /// Makes `len` bytes from `at` on read as zeros, and gives their space back where it can.
    ///
    /// # Errors
    /// As [`Chain::write_at`].
    pub fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.start_write(at, len)?;
        match &self.top.extent {
            Extent::Flat(offset) => punch(&self.top.file, offset + at, len),
            Extent::Sparse(tables) => self.zero_sparse(tables, at, len),
        }
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The host's error.
    pub fn flush(&self) -> io::Result<()> {
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.top
                .file
                .sync_data()
                .inspect_err(|_| self.dirty.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    /// Calls `f` with each run of bytes that is not known to be zero, in order, a piece of at most
    /// `piece` bytes at a time.
    pub(super) fn each_run(
        &self,
        piece: u64,
        mut f: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = 0;
        while at < self.top.capacity {
            let (source, run) = self.top.resolve(at, self.top.capacity - at)?;
            let end = at + run;
            match source {
                None => at = end,
                Some((layer, from)) => {
                    let hole = match &layer.extent {
                        Extent::Flat(_) => hole_at(&layer.file, from)?.min(run),
                        Extent::Sparse(_) => 0,
                    };
                    at += hole;
                    let len = (end - at).min(piece);
                    if len > 0 {
                        f(at, len)?;
                    }
                    at += len;
                }
            }
        }
        Ok(())
    }

    fn check(&self, at: u64, len: u64) -> io::Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.top.capacity => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "beyond the end of the disk",
            )),
        }
    }

    fn start_write(&self, at: u64, len: u64) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        self.check(at, len)?;
        self.dirty.store(true, Ordering::Release);
        if !self.stamped.swap(true, Ordering::AcqRel) {
            super::ops::stamp(&self.top.path, &self.top.file, new_cid())?;
        }
        Ok(())
    }

    fn write_sparse(&self, tables: &Tables, data: &[u8], at: u64) -> io::Result<()> {
        let (grain, file) = (tables.grain, &self.top.file);
        let end = at + data.len() as u64;
        let mut pos = at;
        while pos < end {
            let within = pos % grain;
            let mut stop = (pos - within + grain).min(end);
            let part = |from: u64, to: u64| &data[(from - at) as usize..(to - at) as usize];
            match tables.entry(file, pos / grain)? {
                Entry::At(start) => {
                    // As many grains as follow in the file at the same distance.
                    while stop < end
                        && tables.entry(file, stop / grain)?
                            == Entry::At(start + (stop - (pos - within)))
                    {
                        stop = (stop + grain).min(end);
                    }
                    file.write_all_at(part(pos, stop), start + within)?;
                }
                Entry::Absent | Entry::Zero => {
                    while stop < end && !matches!(tables.entry(file, stop / grain)?, Entry::At(_)) {
                        stop = (stop + grain).min(end);
                    }
                    let mut allocating = tables.allocate(file)?;
                    self.write_new(tables, &mut allocating, part(pos, stop), pos)?;
                }
            }
            pos = stop;
        }
        Ok(())
    }

    /// Writes where grains were missing a moment ago; another thread may have made some since.
    fn write_new(
        &self,
        tables: &Tables,
        allocating: &mut Allocating<'_>,
        data: &[u8],
        at: u64,
    ) -> io::Result<()> {
        let (grain, file) = (tables.grain, &self.top.file);
        let end = at + data.len() as u64;
        // Grains that need a place, from `from` to `pos`, are written together.
        let mut from = at;
        let mut pos = at;
        while pos < end {
            let number = pos / grain;
            let stop = ((number + 1) * grain).min(end);
            let part = &data[(pos - at) as usize..(stop - at) as usize];
            let entry = tables.entry(file, number)?;
            let settled = match entry {
                Entry::At(start) => {
                    file.write_all_at(part, start + pos % grain)?;
                    true
                }
                _ if !is_zero(part) => false,
                Entry::Zero => true,
                Entry::Absent => self.leave_zero(tables, allocating, number, part.len() as u64)?,
            };
            if settled {
                self.place(
                    tables,
                    allocating,
                    &data[(from - at) as usize..(pos - at) as usize],
                    from,
                )?;
                from = stop;
            }
            pos = stop;
        }
        self.place(tables, allocating, &data[(from - at) as usize..], from)
    }

    /// Handles zeros written over an absent grain: nothing to do when it reads as zeros anyhow,
    /// and a mark is enough when they cover it. Returns whether that settled it.
    fn leave_zero(
        &self,
        tables: &Tables,
        allocating: &Allocating<'_>,
        number: u64,
        len: u64,
    ) -> io::Result<bool> {
        let start = number * tables.grain;
        let size = tables.grain.min(self.top.capacity - start);
        let (below, run) = self.top.resolve(start, size)?;
        if below.is_none() && run == size {
            return Ok(true);
        }
        if len == size && tables.has_zero_grains() {
            allocating.publish_zero(number, 1)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives new grains to `data`, filling what it does not cover from below.
    fn place(
        &self,
        tables: &Tables,
        allocating: &mut Allocating<'_>,
        data: &[u8],
        at: u64,
    ) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (grain, file) = (tables.grain, &self.top.file);
        let end = at + data.len() as u64;
        let first = at / grain;
        let count = end.div_ceil(grain) - first;
        let (start, stop) = (first * grain, (first + count) * grain);
        let place = allocating.reserve(count)?;
        // The grain still resolves to what was below: zero grain, parent or nothing.
        let fill = |from: u64, to: u64| -> io::Result<()> {
            if from == to {
                return Ok(());
            }
            let mut old = vec![0u8; (to - from) as usize];
            let inside = to.min(self.top.capacity).saturating_sub(from) as usize;
            self.top.read(&mut old[..inside], from)?;
            file.write_all_at(&old, place + (from - start))
        };
        fill(start, at)?;
        file.write_all_at(data, place + (at - start))?;
        fill(end, stop)?;
        allocating.publish(first, count, place)
    }

    fn zero_sparse(&self, tables: &Tables, at: u64, len: u64) -> io::Result<()> {
        let (grain, file) = (tables.grain, &self.top.file);
        let end = at + len;
        let mut pos = at;
        while pos < end {
            let number = pos / grain;
            let stop = ((number + 1) * grain).min(end);
            match tables.entry(file, number)? {
                Entry::At(start) => punch(file, start + pos % grain, stop - pos)?,
                Entry::Zero => {}
                Entry::Absent => {
                    let zeros = vec![0u8; (stop - pos) as usize];
                    let mut allocating = tables.allocate(file)?;
                    self.write_new(tables, &mut allocating, &zeros, pos)?;
                }
            }
            pos = stop;
        }
        Ok(())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if let (Access::ReadWrite, Extent::Sparse(tables)) = (self.access, &self.top.extent) {
            // Only space is lost when this fails, until the disk is closed the next time.
            if let Err(error) = tables.trim(&self.top.file) {
                tracing::warn!(disk = %self.top.path.display(), %error, "cannot trim a virtual disk");
            }
        }
    }
}

/// Length of the hole that begins at `from`; 0 where there is data.
fn hole_at(file: &File, from: u64) -> io::Result<u64> {
    match lseek(file, from as i64, Whence::SeekData) {
        Ok(data) => Ok(data as u64 - from),
        Err(Errno::ENXIO) => Ok(u64::MAX),
        // Not every file system knows its holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Frees a range of a file, or writes zeros where the file system cannot.
fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, mode, at as i64, len as i64) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            let zeros = vec![0u8; len.min(1 << 20) as usize];
            let mut done = 0;
            while done < len {
                let n = (len - done).min(zeros.len() as u64);
                file.write_all_at(&zeros[..n as usize], at + done)?;
                done += n;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn is_zero(data: &[u8]) -> bool {
    let (head, words, tail) = (data.first(), data.chunks_exact(16), data.len() % 16);
    head.is_none_or(|b| *b == 0)
        && data[data.len() - tail..].iter().all(|b| *b == 0)
        && words.into_iter().all(|w| w == [0u8; 16])
}
