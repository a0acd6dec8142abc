//! Operations on whole disks: inspect, copy, move, extend, delete.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};

use super::create::{
    check_capacity, create_new, file_name, flat_descriptor, flat_path, new_uuid, relative,
    write_new,
};
use super::descriptor::Descriptor;
use super::layer::{Found, find, lock_file, open_plain};
use super::sparse::{DESCRIPTOR_AT, DESCRIPTOR_SECTORS};
use super::{Access, Chain, Error, MAX_CAPACITY, Roots, SECTOR};

/// What a disk's descriptor and files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The file that was asked about.
    pub path: PathBuf,
    /// Capacity in bytes.
    pub capacity: u64,
    /// Space that its own files take on the host.
    pub allocated: u64,
    /// Id in vSphere's notation, `6000C29x-….`; empty when the descriptor has none.
    pub uuid: String,
    /// Content id.
    pub cid: u32,
    /// The parent's path as the descriptor gives it, joined to this disk's directory.
    pub parent: Option<PathBuf>,
    /// The content id that the parent must have.
    pub parent_cid: u32,
    /// `vmfs`, `monolithicSparse`, ….
    pub create_type: String,
    /// The file that holds the data; equal to `path` when sparse.
    pub extent: PathBuf,
}

/// Reads a disk's descriptor. Takes no lock: an open disk can be inspected.
///
/// # Errors
/// [`Error::NotFound`], or one that says what is wrong with it.
pub fn inspect(path: &Path) -> Result<Info, Error> {
    let found = find(path)?;
    let mut allocated = 0;
    for file in files_of(&found) {
        let meta = std::fs::symlink_metadata(&file).map_err(|e| Error::io("examine", &file, e))?;
        allocated += meta.blocks() * SECTOR;
    }
    Ok(Info {
        path: path.to_path_buf(),
        capacity: found.capacity,
        allocated,
        uuid: vsphere_uuid(found.descriptor.ddb.get("ddb.uuid").map_or("", |u| u)),
        cid: found.descriptor.cid,
        parent: found.parent()?,
        parent_cid: found.descriptor.parent_cid,
        create_type: found.descriptor.create_type.clone(),
        extent: found.extent,
    })
}

/// The files that make up a disk, the named one first.
///
/// # Errors
/// As [`inspect`].
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(files_of(&find(path)?))
}

fn files_of(found: &Found) -> Vec<PathBuf> {
    let mut all = vec![found.path.clone()];
    if found.extent != found.path {
        all.push(found.extent.clone());
    }
    all
}

/// Copies a disk into a new one without a parent, as CopyVirtualDisk does: the copy holds what the
/// whole chain of `from` holds. Holes stay holes, and the host shares blocks if it can.
///
/// # Errors
/// [`Error::Locked`] when `from` is being written, [`Error::AlreadyExists`], and the rest.
pub fn copy(from: &Path, to: &Path, roots: &Roots) -> Result<Info, Error> {
    let source = find(&roots.resolve(from)?)?;
    let extent = flat_path(to)?;
    let descriptor = flat_descriptor(&extent, source.capacity, &new_uuid())?;
    let target = create_new(&extent)?;
    let copied = (|| {
        target
            .set_len(source.capacity)
            .map_err(|e| Error::io("size", &extent, e))?;
        if source.header.is_none() && !source.descriptor.has_parent() && source.flat_offset == 0 {
            let file = open_plain(&source.extent, false)?;
            lock_file(&file, from, false)?;
            copy_data(&file, &target, source.capacity)
                .map_err(|e| Error::io("copy to", &extent, e))?;
        } else {
            let chain = Chain::open(from, Access::ReadOnly, roots)?;
            let mut buf = vec![0u8; 1 << 20];
            chain
                .each_run(buf.len() as u64, |at, len| {
                    let part = &mut buf[..len as usize];
                    chain.read_at(part, at)?;
                    if part.iter().any(|b| *b != 0) {
                        target.write_all_at(part, at)?;
                    }
                    Ok(())
                })
                .map_err(|e| Error::io("copy to", &extent, e))?;
        }
        write_new(to, descriptor.render().as_bytes())
    })();
    if let Err(error) = copied {
        let _ = std::fs::remove_file(&extent);
        return Err(error);
    }
    inspect(to)
}

/// Copies the parts of a sparse file that hold data.
fn copy_data(from: &File, to: &File, len: u64) -> io::Result<()> {
    let mut at = 0i64;
    while (at as u64) < len {
        let start = match lseek(from, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = lseek(from, start, Whence::SeekHole)?.min(len as i64);
        let (mut source, mut target) = (start, start);
        while source < end {
            let want = (end - source) as usize;
            match copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                    copy_by_hand(from, to, source as u64, end as u64)?;
                    source = end;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        at = end;
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buf = vec![0u8; 1 << 20];
    while at < end {
        let part = (end - at).min(buf.len() as u64) as usize;
        from.read_exact_at(&mut buf[..part], at)?;
        to.write_all_at(&buf[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// Takes the exclusive lock: nobody may have the disk open while its files change.
fn lock_alone(found: &Found) -> Result<File, Error> {
    let file = open_plain(&found.extent, true)?;
    lock_file(&file, &found.path, true)?;
    Ok(file)
}

/// Deletes a disk's files. Its parent stays; children of it no longer open.
///
/// # Errors
/// [`Error::Locked`] when it is open, also as a parent; [`Error::NotFound`].
pub fn delete(path: &Path) -> Result<(), Error> {
    let found = find(path)?;
    let _lock = match lock_alone(&found) {
        Ok(lock) => Some(lock),
        // A descriptor whose extent is gone can still be deleted.
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    // The descriptor first: what is left after a crash in between is not a disk any more.
    for file in files_of(&found) {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("delete", &file, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Moves a disk within one host file system, under another name if wanted.
///
/// Its parent is found from the new place; its children, if any, do not find it any more.
///
/// # Errors
/// [`Error::Locked`] when it is open, [`Error::AlreadyExists`], [`Error::NotFound`].
pub fn rename(from: &Path, to: &Path) -> Result<Info, Error> {
    let found = find(from)?;
    let lock = lock_alone(&found)?;
    let mut descriptor = found.descriptor.clone();
    if let Some(parent) = found.parent()? {
        descriptor.parent_hint = Some(relative(to, &parent)?);
    }
    let move_one = |a: &Path, b: &Path| {
        // A hard link fails where rename would replace; both names are on one file system.
        std::fs::hard_link(a, b).map_err(|e| Error::io("move to", b, e))?;
        std::fs::remove_file(a).map_err(|e| Error::io("move", a, e))
    };
    if found.extent == found.path {
        descriptor.extents[0].file = file_name(to)?;
        move_one(from, to)?;
        write_embedded(to, &lock, &descriptor)?;
    } else {
        let extent = flat_path(to)?;
        descriptor.extents[0].file = file_name(&extent)?;
        if to.symlink_metadata().is_ok() {
            return Err(Error::AlreadyExists {
                path: to.to_path_buf(),
            });
        }
        move_one(&found.extent, &extent)?;
        write_new(to, descriptor.render().as_bytes())?;
        std::fs::remove_file(from).map_err(|e| Error::io("delete", from, e))?;
    }
    inspect(to)
}

/// Enlarges a disk without a parent.
///
/// # Errors
/// [`Error::Invalid`] when it would shrink or has a parent (ESXi refuses that too),
/// [`Error::Locked`] when it is open.
pub fn extend(path: &Path, capacity: u64) -> Result<Info, Error> {
    let found = find(path)?;
    let capacity = check_capacity(path, capacity, MAX_CAPACITY)?;
    if found.header.is_some() || found.descriptor.has_parent() {
        return Err(Error::invalid(
            path,
            "only a disk without a parent can be extended",
        ));
    }
    if capacity < found.capacity {
        return Err(Error::invalid(path, "a disk cannot shrink"));
    }
    let lock = lock_alone(&found)?;
    lock.set_len(found.flat_offset + capacity)
        .map_err(|e| Error::io("size", &found.extent, e))?;
    let mut descriptor = found.descriptor.clone();
    descriptor.extents[0].sectors = capacity / SECTOR;
    replace_text(path, &descriptor)?;
    inspect(path)
}

/// A new content id: anything but the two values with a meaning.
pub(super) fn new_cid() -> u32 {
    loop {
        let cid = rand::random::<u32>();
        if cid != u32::MAX && cid != u32::MAX - 1 && cid != 0 {
            return cid;
        }
    }
}

/// Gives a disk a new content id: `file` is its extent, open for writing.
pub(super) fn stamp(path: &Path, file: &File, cid: u32) -> io::Result<()> {
    let found = find(path).map_err(io::Error::other)?;
    let mut descriptor = found.descriptor.clone();
    descriptor.cid = cid;
    if found.extent == found.path {
        write_embedded(path, file, &descriptor).map_err(io::Error::other)
    } else {
        replace_text(path, &descriptor).map_err(io::Error::other)
    }
}

/// Replaces a descriptor file at once.
fn replace_text(path: &Path, descriptor: &Descriptor) -> Result<(), Error> {
    let name = file_name(path)?;
    let temporary = path.with_file_name(format!(".{name}~"));
    let _ = std::fs::remove_file(&temporary);
    write_new(&temporary, descriptor.render().as_bytes())?;
    std::fs::rename(&temporary, path).map_err(|e| Error::io("replace", path, e))
}

fn write_embedded(path: &Path, file: &File, descriptor: &Descriptor) -> Result<(), Error> {
    let found = find_header(path)?;
    let mut text = descriptor.render().into_bytes();
    if text.len() as u64 > found.1 {
        return Err(Error::unsupported(
            path,
            "there is no room for its descriptor",
        ));
    }
    text.resize(found.1 as usize, 0);
    file.write_all_at(&text, found.0)
        .map_err(|e| Error::io("write", path, e))
}

/// Where the embedded descriptor is, and its room.
fn find_header(path: &Path) -> Result<(u64, u64), Error> {
    let found = find(path)?;
    Ok(found
        .header
        .map_or((DESCRIPTOR_AT, DESCRIPTOR_SECTORS * SECTOR), |h| {
            (h.descriptor_at, h.descriptor_len)
        }))
}

/// `60 00 C2 9f …-…` → `6000C29f-….` in vSphere's notation.
fn vsphere_uuid(raw: &str) -> String {
    let hex: String = raw.chars().filter(char::is_ascii_hexdigit).collect();
    if hex.len() != 32 {
        return String::new();
    }
    let hex = format!("{}{}", hex[..6].to_uppercase(), &hex[6..]);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
