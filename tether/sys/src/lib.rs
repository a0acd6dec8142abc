//! System calls that the guest and the namespace engine share; the only unsafe code.
//!
//! Each module wraps one corner of the kernel's interface in safe functions that return
//! [`std::io::Error`]. Nothing here knows about containers: policy lives with the callers.

pub mod bpf;
pub mod caps;
pub mod fdpass;
pub mod loopdev;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod poll;
pub mod power;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod signals;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Turns a libc return value into a result.
fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Turns a raw system call's return value into a result.
fn check_long(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Makes a C string; a NUL inside is `EINVAL`.
fn cstr(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Makes a C string of a path.
fn cpath(path: &Path) -> io::Result<CString> {
    cstr(path.as_os_str().as_bytes())
}
