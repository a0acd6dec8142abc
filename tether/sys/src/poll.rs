//! poll(2), for single-threaded event loops.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use crate::check;

/// Waits until one of the descriptors can be read (or its other end is gone), and tells which.
///
/// `timeout_ms` below zero waits for ever.
///
/// # Errors
/// What poll says; an interruption is an empty answer.
pub fn readable(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polls: Vec<_> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: pointer and length describe `polls`.
    let ret = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    match check(ret) {
        Ok(_) => Ok(polls.iter().map(|p| p.revents != 0).collect()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(e) => Err(e),
    }
}
