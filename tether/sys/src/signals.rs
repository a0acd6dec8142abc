//! Signals as descriptors, and the blocked set.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::check;

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: `set` is valid; an invalid number is refused by libc.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// Blocks signals in the calling thread (threads made later inherit that).
///
/// # Errors
/// What sigprocmask says.
pub fn block(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: `set` is valid and the old set is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}

/// Unblocks everything and gives every signal its default action; for a child before exec.
///
/// # Errors
/// What sigprocmask says.
pub fn reset() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; SIGKILL and the like are refused without harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = set_of(&[]);
    // SAFETY: `set` is valid and the old set is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}

/// A descriptor from which blocked signals are read (close-on-exec, non-blocking).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// One signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The signal.
    pub signal: i32,
    /// Who sent it (0: the kernel, or a process outside the PID namespace).
    pub pid: u32,
}

impl SignalFd {
    /// Blocks the signals and opens a descriptor for them.
    ///
    /// # Errors
    /// What sigprocmask and signalfd say.
    pub fn open(signals: &[i32]) -> io::Result<Self> {
        block(signals)?;
        let set = set_of(signals);
        // SAFETY: `set` is valid.
        let fd = check(unsafe {
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        })?;
        // SAFETY: the kernel just gave us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes one pending signal, if there is one.
    ///
    /// # Errors
    /// What read says.
    pub fn read(&self) -> io::Result<Option<Received>> {
        // SAFETY: the struct is plain data, for which zero is valid.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is as long as said.
        let n = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if n == size as isize {
            return Ok(Some(Received {
                signal: info.ssi_signo as i32,
                pid: info.ssi_pid,
            }));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
