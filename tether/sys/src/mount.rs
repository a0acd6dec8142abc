//! Mounts: the classic calls, and the descriptor-based ones, which need no path and leave no name.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::libc;

use crate::{check, check_long, cpath, cstr};

pub use nix::libc::{
    MNT_DETACH, MS_BIND, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC,
    MS_RELATIME, MS_REMOUNT, MS_SHARED, MS_SLAVE,
};

/// Read-only, for [`set_attributes`] and [`FsContext::mount`].
pub const ATTR_RDONLY: u64 = 0x1;
/// No set-user-id.
pub const ATTR_NOSUID: u64 = 0x2;
/// No device nodes.
pub const ATTR_NODEV: u64 = 0x4;
/// No executables.
pub const ATTR_NOEXEC: u64 = 0x8;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

/// Mounts as mount(2) does; `source`, `fstype` and `data` may be left out.
///
/// # Errors
/// What mount says.
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    fstype: Option<&str>,
    flags: u64,
    data: Option<&str>,
) -> io::Result<()> {
    let source = source.map(cpath).transpose()?;
    let target = cpath(target)?;
    let fstype = fstype.map(cstr).transpose()?;
    let data = data.map(cstr).transpose()?;
    let ptr = |c: &Option<std::ffi::CString>| c.as_ref().map_or(std::ptr::null(), |c| c.as_ptr());
    // SAFETY: every pointer is null or a C string that lives across the call.
    let ret = unsafe {
        libc::mount(
            ptr(&source),
            target.as_ptr(),
            ptr(&fstype),
            flags,
            ptr(&data).cast(),
        )
    };
    check(ret).map(drop)
}

/// Unmounts; `flags` may be [`MNT_DETACH`].
///
/// # Errors
/// What umount2 says: `EBUSY`, `EINVAL` when nothing is mounted there.
pub fn umount(target: &Path, flags: i32) -> io::Result<()> {
    let target = cpath(target)?;
    // SAFETY: `target` is a C string that lives across the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// Makes `new_root` the root mount and puts the old one at `put_old` (may be the same directory).
///
/// # Errors
/// What `pivot_root` says.
pub fn pivot_root(new_root: &Path, put_old: &Path) -> io::Result<()> {
    let new_root = cpath(new_root)?;
    let put_old = cpath(put_old)?;
    // SAFETY: both are C strings that live across the call.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) })
        .map(drop)
}

/// A file system being configured (`fsopen`).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts a new file system of the given type.
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no such type.
    pub fn open(fstype: &str) -> io::Result<Self> {
        let fstype = cstr(fstype)?;
        // SAFETY: `fstype` is a C string that lives across the call.
        let fd = check_long(unsafe {
            libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC)
        })?;
        // SAFETY: the kernel just gave us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    fn config(
        &self,
        command: u32,
        key: Option<&CStr>,
        value: Option<&CStr>,
        aux: i32,
    ) -> io::Result<()> {
        let ptr = |c: Option<&CStr>| c.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both pointers are null or C strings that live across the call.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                ptr(key),
                ptr(value),
                aux,
            )
        };
        check_long(ret).map(drop)
    }

    /// Sets a `key=value` option.
    ///
    /// # Errors
    /// What fsconfig says.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        self.config(
            FSCONFIG_SET_STRING,
            Some(&cstr(key)?),
            Some(&cstr(value)?),
            0,
        )
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// What fsconfig says.
    pub fn set_flag(&self, key: &str) -> io::Result<()> {
        self.config(FSCONFIG_SET_FLAG, Some(&cstr(key)?), None, 0)
    }

    /// Sets an option whose value is a descriptor (fuse's `fd`).
    ///
    /// # Errors
    /// What fsconfig says.
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.config(FSCONFIG_SET_FD, Some(&cstr(key)?), None, fd.as_raw_fd())
    }

    /// Creates the file system and returns it as a detached mount: it has no place in any
    /// namespace until [`attach`], and goes when the descriptor is closed.
    ///
    /// # Errors
    /// What fsconfig and fsmount say.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, None, None, 0)?;
        // SAFETY: no memory is involved.
        let fd = check_long(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes as u32,
            )
        })?;
        // SAFETY: the kernel just gave us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

/// Makes the whole file system behind a mount read-only, whoever else has it mounted.
///
/// # Errors
/// `EBUSY` while files are open for writing; what fspick and fsconfig say.
pub fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    const FSPICK_CLOEXEC: u32 = 1;
    const FSPICK_EMPTY_PATH: u32 = 8;
    const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
    // SAFETY: the path is an empty C string.
    let fd = check_long(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            mount.as_raw_fd(),
            c"".as_ptr(),
            FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor.
    let context = FsContext(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    context.set_flag("ro")?;
    context.config(FSCONFIG_CMD_RECONFIGURE, None, None, 0)
}

/// Makes a detached bind mount of a path (a directory or a file).
///
/// # Errors
/// What `open_tree` says.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = cpath(path)?;
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` is a C string that lives across the call.
    let fd = check_long(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes a detached bind mount of an open file or directory.
///
/// # Errors
/// What `open_tree` says.
pub fn clone_tree_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the path is an empty C string.
    let fd = check_long(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            fd.as_raw_fd(),
            c"".as_ptr(),
            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH,
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of a mount that was made by descriptor, and makes it private.
///
/// # Errors
/// What `mount_setattr` says.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string, `attr` lives across the call and its size is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check_long(ret).map(drop)
}

/// Puts a detached mount onto a path of the caller's mount namespace.
///
/// # Errors
/// What `move_mount` says.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = cpath(target)?;
    // SAFETY: both paths are C strings that live across the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check_long(ret).map(drop)
}

/// Makes a device node, FIFO or plain file (mode holds the type) below an open directory.
///
/// # Errors
/// What mknodat says.
pub fn mknod_at(dir: BorrowedFd<'_>, name: &str, mode: u32, dev: u64) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a C string that lives across the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) }).map(drop)
}

/// Makes a device number.
#[must_use]
pub fn makedev(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// Splits a device number.
#[must_use]
pub fn split_dev(dev: u64) -> (u32, u32) {
    (libc::major(dev), libc::minor(dev))
}

/// Makes a directory below an open one.
///
/// # Errors
/// What mkdirat says.
pub fn mkdir_at(dir: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a C string that lives across the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Makes a symbolic link below an open directory.
///
/// # Errors
/// What symlinkat says.
pub fn symlink_at(target: &str, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let (target, name) = (cstr(target)?, cstr(name)?);
    // SAFETY: both are C strings that live across the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Removes a name below an open directory.
///
/// # Errors
/// What unlinkat says.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a C string that lives across the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Renames within an open directory, replacing what is there.
///
/// # Errors
/// What renameat says.
pub fn rename_at(dir: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (cstr(from)?, cstr(to)?);
    // SAFETY: both are C strings that live across the call.
    let ret =
        unsafe { libc::renameat(dir.as_raw_fd(), from.as_ptr(), dir.as_raw_fd(), to.as_ptr()) };
    check(ret).map(drop)
}

/// Opens a name below an open directory; `flags` as open(2), close-on-exec is added.
///
/// # Errors
/// What openat says.
pub fn open_at(dir: BorrowedFd<'_>, name: &str, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let name = cstr(name)?;
    // SAFETY: `name` is a C string that lives across the call.
    let fd = check(unsafe {
        libc::openat(
            dir.as_raw_fd(),
            name.as_ptr(),
            flags | libc::O_CLOEXEC,
            mode,
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
