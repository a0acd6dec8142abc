//! The directory that a layer is unpacked into.
//!
//! Nothing here takes a path from the archive to the kernel but through [`Tree::parent`], which
//! resolves it with the root as `/`, and single names relative to the directory it returned.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::UnpackError;
use super::entry::{Place, Whiteout, place, whiteout};
use super::tar::{Entry, Kind, TarReader};

/// Directories deeper than this are not removed: nobody has them, and each level costs a
/// descriptor.
const MAX_DEPTH: usize = 400;
/// The last second that ext4 can store, and the first that docker keeps.
const MAX_TIME: i64 = (1 << 34) - 1;
const BUFFER: usize = 256 * 1024;

/// A directory that was opened on the way to an entry.
#[derive(Clone)]
struct Parent {
    fd: Rc<OwnedFd>,
    inode: u64,
}

/// The state of one unpacking.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory used last: most entries follow their neighbours.
    last: Option<(Vec<u8>, Parent)>,
    /// Hashes of (directory's inode, name) of all that this layer made: opaque whiteouts spare it.
    made: HashSet<u64>,
    hash: RandomState,
    /// Directories' times, set when nothing more is put into them.
    times: Vec<(Vec<u8>, TimeSpec)>,
    file_bytes: u64,
    buffer: Vec<u8>,
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn refused(entry: &Entry, why: &'static str) -> UnpackError {
    UnpackError::Entry {
        path: shown(&entry.path),
        why,
    }
}

fn failed(what: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> UnpackError {
    let path = shown(path);
    move |errno| UnpackError::Write {
        what,
        path,
        source: errno.into(),
    }
}

fn failed_io(what: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> UnpackError {
    let path = shown(path);
    move |source| UnpackError::Write { what, path, source }
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, UnpackError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(root, flags, Mode::empty())
            .map_err(failed("open the directory", root.as_os_str().as_bytes()))?;
        Ok(Self {
            root: fd,
            last: None,
            made: HashSet::new(),
            hash: RandomState::new(),
            times: Vec::new(),
            file_bytes: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Puts one entry into the tree; its data comes from `data`.
    pub(super) fn apply<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let place = place(&entry.path).map_err(|why| refused(entry, why))?;
        let Place::Below { parent, name } = place else {
            return self.root_entry(entry);
        };
        match whiteout(&parent, &name).map_err(|why| refused(entry, why))? {
            Whiteout::No => {}
            Whiteout::Ignore => return Ok(()),
            Whiteout::Remove(hidden) => {
                if let Some(dir) = self.existing(entry, &parent)? {
                    self.remove(entry, &dir.fd, hidden)?;
                }
                return Ok(());
            }
            Whiteout::Opaque => {
                if let Some(dir) = self.existing(entry, &parent)? {
                    self.empty(entry, &dir, 0)?;
                }
                return Ok(());
            }
        }
        let dir = self.parent(entry, &parent)?;
        match &entry.kind {
            Kind::File => self.file(entry, &dir, &name, data)?,
            Kind::Directory => {
                let path = [&parent[..], b"/", &name].concat();
                self.directory(entry, &dir, &name, path)?;
            }
            Kind::Symlink(target) => {
                self.replace(entry, &dir, &name, |fd, name| {
                    symlinkat(&target[..], fd, name)
                })?;
                // Names behind it mean another directory from now on.
                self.last = None;
                self.attributes_at(entry, &dir, &name, true)?;
            }
            Kind::Hardlink(target) => self.hardlink(entry, &dir, &name, target)?,
            Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::CharDevice(major, minor) => {
                        (SFlag::S_IFCHR, makedev(major.into(), minor.into()))
                    }
                    Kind::BlockDevice(major, minor) => {
                        (SFlag::S_IFBLK, makedev(major.into(), minor.into()))
                    }
                    _ => (SFlag::S_IFIFO, 0),
                };
                let mode = Mode::from_bits_truncate(0o600);
                self.replace(entry, &dir, &name, |fd, name| {
                    mknodat(fd, name, kind, mode, device)
                })?;
                self.attributes_at(entry, &dir, &name, false)?;
            }
            Kind::Other(_) => return Err(refused(entry, "it is of an unknown type")),
        }
        self.made.insert(self.key(dir.inode, &name));
        Ok(())
    }

    /// Sets the directories' times and returns the bytes in files.
    pub(super) fn finish(mut self) -> Result<u64, UnpackError> {
        for (path, time) in std::mem::take(&mut self.times) {
            let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            match self.resolve(&path, how) {
                Ok(fd) => futimens(&fd, &time, &time).map_err(failed("set the time of", &path))?,
                // A later entry put something else there.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(failed("open", &path)(errno)),
            }
        }
        Ok(self.file_bytes)
    }

    fn key(&self, inode: u64, name: &[u8]) -> u64 {
        self.hash.hash_one((inode, name))
    }

    /// Opens a path with the root as `/`: links, absolute and with `..`, stay inside.
    fn resolve(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        // The kernel gives up with EAGAIN when directories move meanwhile; nobody moves these.
        for _ in 0..16 {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    fn resolve_directory(&self, path: &[u8]) -> Result<Parent, Errno> {
        let fd = self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let inode = fstat(&fd)?.st_ino;
        Ok(Parent {
            fd: Rc::new(fd),
            inode,
        })
    }

    /// The directory `path` if it is there.
    fn existing(&mut self, entry: &Entry, path: &[u8]) -> Result<Option<Parent>, UnpackError> {
        if let Some((last, parent)) = &self.last
            && last == path
        {
            return Ok(Some(parent.clone()));
        }
        match self.resolve_directory(path) {
            Ok(parent) => {
                self.last = Some((path.to_vec(), parent.clone()));
                Ok(Some(parent))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ELOOP) => Err(refused(entry, "its directory is a loop of links")),
            Err(Errno::ENOTDIR) => Err(refused(entry, "a part of its name is not a directory")),
            Err(Errno::EXDEV) => Err(refused(entry, "its directory is on another file system")),
            Err(errno) => Err(failed("open the directory of", &entry.path)(errno)),
        }
    }

    /// The directory `path`, made if it is missing.
    fn parent(&mut self, entry: &Entry, path: &[u8]) -> Result<Parent, UnpackError> {
        if let Some(parent) = self.existing(entry, path)? {
            return Ok(parent);
        }
        let mut above = self
            .resolve_directory(b".")
            .map_err(failed("open the root for", path))?;
        let mut end = 0;
        for part in path.split(|b| *b == b'/') {
            end += part.len();
            let prefix = &path[..end];
            end += 1;
            above = match self.existing(entry, prefix)? {
                Some(found) => found,
                None => {
                    match mkdirat(&*above.fd, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) => self.made.insert(self.key(above.inode, part)),
                        Err(Errno::EEXIST) => {
                            return Err(refused(entry, "its directory is a link to nothing"));
                        }
                        Err(errno) => return Err(failed("make the directory", prefix)(errno)),
                    };
                    self.resolve_directory(prefix)
                        .map_err(failed("open", prefix))?
                }
            };
        }
        self.last = Some((path.to_vec(), above.clone()));
        Ok(above)
    }

    /// Makes something new under `name`; what is there goes first.
    fn replace(
        &mut self,
        entry: &Entry,
        dir: &Parent,
        name: &[u8],
        make: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        match make(&dir.fd, name) {
            Err(Errno::EEXIST) => {
                self.remove(entry, &dir.fd, name)?;
                make(&dir.fd, name).map_err(failed("make", &entry.path))
            }
            other => other.map_err(failed("make", &entry.path)),
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        dir: &Parent,
        name: &[u8],
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let opened = match openat(&*dir.fd, name, flags, mode) {
            Err(Errno::EEXIST) => {
                self.remove(entry, &dir.fd, name)?;
                openat(&*dir.fd, name, flags, mode)
            }
            other => other,
        };
        let file = File::from(opened.map_err(failed("create", &entry.path))?);
        match &entry.sparse {
            None => self.copy(entry, data, data_len(entry), |part, _| {
                (&file).write_all(part)
            })?,
            Some(map) => {
                file.set_len(entry.size)
                    .map_err(failed_io("size", &entry.path))?;
                for &(at, len) in map {
                    self.copy(entry, data, len, |part, done| {
                        file.write_all_at(part, at + done)
                    })?;
                }
            }
        }
        self.file_bytes += entry.size;
        self.attributes(entry, &file, false)
    }

    fn copy<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
        len: u64,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<(), UnpackError> {
        let mut done = 0;
        while done < len {
            let want = (len - done).min(BUFFER as u64) as usize;
            let got = match data.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(UnpackError::Read(e)),
            };
            write(&self.buffer[..got], done).map_err(failed_io("write", &entry.path))?;
            done += got as u64;
        }
        Ok(())
    }

    fn directory(
        &mut self,
        entry: &Entry,
        dir: &Parent,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o700);
        let opened = match mkdirat(&*dir.fd, name, mode) {
            Ok(()) => openat(&*dir.fd, name, flags, Mode::empty()),
            Err(Errno::EEXIST) => match openat(&*dir.fd, name, flags, Mode::empty()) {
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    self.remove(entry, &dir.fd, name)?;
                    self.last = None;
                    mkdirat(&*dir.fd, name, mode)
                        .and_then(|()| openat(&*dir.fd, name, flags, Mode::empty()))
                }
                other => other,
            },
            Err(errno) => Err(errno),
        };
        let fd = File::from(opened.map_err(failed("make the directory", &entry.path))?);
        self.times.push((path, time_of(entry)));
        self.attributes(entry, &fd, true)
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(entry, "it would replace the root"));
        }
        let fd = self
            .resolve(b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(failed("open", &entry.path))?;
        self.times.push((b".".to_vec(), time_of(entry)));
        self.attributes(entry, &File::from(fd), true)
    }

    fn hardlink(
        &mut self,
        entry: &Entry,
        dir: &Parent,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let place =
            place(target).map_err(|_| refused(entry, "its target leads out of the root"))?;
        let Place::Below {
            parent,
            name: target,
        } = place
        else {
            return Err(refused(entry, "its target is the root"));
        };
        let Some(from) = self.existing(entry, &parent)? else {
            return Err(refused(entry, "its target does not exist"));
        };
        if from.inode == dir.inode && target == name {
            return Err(refused(entry, "it is a link to itself"));
        }
        self.replace(entry, dir, name, |fd, name| {
            linkat(&*from.fd, &target[..], fd, name, AtFlags::empty())
        })
    }

    /// Owner, mode, attributes and time of an open file or directory.
    fn attributes(&self, entry: &Entry, file: &File, directory: bool) -> Result<(), UnpackError> {
        let (uid, gid) = owner(entry)?;
        // The owner first: changing it takes the set-id bits and capabilities away.
        fchown(file, Some(uid), Some(gid)).map_err(failed("own", &entry.path))?;
        fchmod(file, mode_of(entry)).map_err(failed("set the mode of", &entry.path))?;
        for (key, value) in &entry.xattrs {
            use xattr::FileExt as _;
            let set = file.set_xattr(std::ffi::OsStr::from_bytes(key), value);
            attribute_set(entry, key, set)?;
        }
        if !directory {
            let time = time_of(entry);
            futimens(file, &time, &time).map_err(failed("set the time of", &entry.path))?;
        }
        Ok(())
    }

    /// The same for what cannot be opened: links, devices and fifos.
    fn attributes_at(
        &self,
        entry: &Entry,
        dir: &Parent,
        name: &[u8],
        link: bool,
    ) -> Result<(), UnpackError> {
        let (uid, gid) = owner(entry)?;
        fchownat(
            &*dir.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(failed("own", &entry.path))?;
        if !link {
            // It was made a moment ago and is no link.
            fchmodat(&*dir.fd, name, mode_of(entry), FchmodatFlags::FollowSymlink)
                .map_err(failed("set the mode of", &entry.path))?;
        }
        if !entry.xattrs.is_empty() {
            // There is no call for attributes of a name in an open directory. The last component
            // is not followed.
            let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.fd.as_raw_fd()));
            path.push(std::ffi::OsStr::from_bytes(name));
            for (key, value) in &entry.xattrs {
                let set = xattr::set(&path, std::ffi::OsStr::from_bytes(key), value);
                attribute_set(entry, key, set)?;
            }
        }
        let time = time_of(entry);
        utimensat(
            &*dir.fd,
            name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(failed("set the time of", &entry.path))
    }

    /// Removes whatever is under `name`, if anything.
    fn remove(&mut self, entry: &Entry, dir: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {
                remove_directory(dir, name, 0).map_err(failed("remove", &entry.path))?;
            }
            Err(errno) => return Err(failed("remove", &entry.path)(errno)),
        }
        // It may have been the directory used last, or a link on the way to it.
        self.last = None;
        Ok(())
    }

    /// Removes all that the layers below put into a directory.
    fn empty(&mut self, entry: &Entry, dir: &Parent, depth: usize) -> Result<(), UnpackError> {
        let deep = failed("empty", &entry.path);
        if depth > MAX_DEPTH {
            return Err(deep(Errno::ENAMETOOLONG));
        }
        for name in names(&dir.fd, b".").map_err(deep)? {
            if !self.made.contains(&self.key(dir.inode, &name)) {
                self.remove(entry, &dir.fd, &name)?;
                continue;
            }
            // It is of this layer; what is in it may be older.
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            if let Ok(fd) = openat(&*dir.fd, &name[..], flags, Mode::empty()) {
                let inode = fstat(&fd).map_err(failed("empty", &entry.path))?.st_ino;
                self.empty(
                    entry,
                    &Parent {
                        fd: Rc::new(fd),
                        inode,
                    },
                    depth + 1,
                )?;
            }
        }
        Ok(())
    }
}

fn data_len(entry: &Entry) -> u64 {
    entry.size
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), UnpackError> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(refused(entry, "its owner is out of range"));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

fn mode_of(entry: &Entry) -> Mode {
    Mode::from_bits_truncate(entry.mode)
}

fn time_of(entry: &Entry) -> TimeSpec {
    let (seconds, nanos) = entry.mtime;
    match seconds {
        s if s < 0 => TimeSpec::new(0, 0),
        s if s > MAX_TIME => TimeSpec::new(MAX_TIME, 0),
        s => TimeSpec::new(s, i64::from(nanos)),
    }
}

/// Attributes that this file system cannot hold are left out, as docker does.
fn attribute_set(entry: &Entry, key: &[u8], set: io::Result<()>) -> Result<(), UnpackError> {
    match set {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::ENOTSUP as i32) => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) && key.starts_with(b"user.") => {
            Ok(())
        }
        Err(e) => Err(failed_io("set an attribute of", &entry.path)(e)),
    }
}

/// The names in a directory of `dir`.
fn names(dir: &OwnedFd, name: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut open = Dir::openat(dir, name, flags, Mode::empty())?;
    let mut all = Vec::new();
    for item in open.iter() {
        let name = item?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            all.push(name);
        }
    }
    Ok(all)
}

fn remove_directory(dir: &OwnedFd, name: &[u8], depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::ENAMETOOLONG);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty())?;
    for name in names(&inner, b".")? {
        match unlinkat(&inner, &name[..], UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) => remove_directory(&inner, &name, depth + 1)?,
            Err(errno) => return Err(errno),
        }
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
}
