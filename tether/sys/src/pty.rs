//! Pseudo terminals.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

use crate::{check, cpath};

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// The two ends of a pseudo terminal, both close-on-exec.
#[derive(Debug)]
pub struct Pty {
    /// The end that the terminal emulator holds.
    pub master: OwnedFd,
    /// The end that becomes the process's terminal.
    pub slave: OwnedFd,
    /// N of `/dev/pts/N`.
    pub number: u32,
}

/// Opens a pair from the multiplexer at `ptmx` (`/dev/ptmx`, or `/dev/pts/ptmx` of one's own devpts).
///
/// # Errors
/// What open and the ioctls say.
pub fn open(ptmx: &Path) -> io::Result<Pty> {
    let path = cpath(ptmx)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string that lives across the call.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor.
    let master = unsafe { OwnedFd::from_raw_fd(fd) };
    let unlock: libc::c_int = 0;
    // SAFETY: the ioctl reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let mut number: libc::c_uint = 0;
    // SAFETY: the ioctl writes one unsigned int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    // SAFETY: the third argument of TIOCGPTPEER is a set of open flags.
    let fd = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel just gave us this descriptor.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Pty {
        master,
        slave,
        number,
    })
}

/// Makes a terminal the controlling one of the calling session leader.
///
/// # Errors
/// `EPERM` when the caller leads no session or has a terminal.
pub fn make_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is a plain integer.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size; the foreground processes get SIGWINCH when it differs.
///
/// # Errors
/// What the ioctl says.
pub fn set_size(tty: BorrowedFd<'_>, size: WinSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the ioctl reads one winsize.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Returns the size.
///
/// # Errors
/// What the ioctl says.
pub fn size(tty: BorrowedFd<'_>) -> io::Result<WinSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the ioctl writes one winsize.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(WinSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_written_at_one_end_is_read_at_the_other_and_the_size_is_shared() {
        let pty = open(Path::new("/dev/ptmx")).unwrap();
        set_size(pty.master.as_fd(), WinSize { rows: 33, cols: 99 }).unwrap();
        assert_eq!(
            size(pty.slave.as_fd()).unwrap(),
            WinSize { rows: 33, cols: 99 }
        );
        let mut slave = std::fs::File::from(pty.slave);
        let mut master = std::fs::File::from(pty.master);
        slave.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        master.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}
