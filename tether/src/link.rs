//! The serial line to the VCH: dials again when cut, and carries the session's bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tether_protocol::session::SessionGuest;
use tether_sys::process::set_nonblocking;

/// First pause before dialling again, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes that may wait for the line before the session is asked for more.
const ENOUGH: usize = 512 * 1024;

/// The line and the session on it.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    /// What is said to the VCH and heard from it.
    pub session: SessionGuest,
    port: Option<File>,
    out: Vec<u8>,
    sent: usize,
    pause: Duration,
    dial_at: Option<Instant>,
}

impl Link {
    /// A line through the port at `path`; dials at once.
    pub fn new(path: PathBuf, session: SessionGuest) -> Self {
        let mut link = Self {
            path,
            session,
            port: None,
            out: Vec::new(),
            sent: 0,
            pause: FIRST_PAUSE,
            dial_at: None,
        };
        link.dial();
        link
    }

    /// The port while it is open.
    pub fn port(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_ref().map(AsFd::as_fd)
    }

    /// When [`dial`](Self::dial) is due.
    pub fn dial_at(&self) -> Option<Instant> {
        self.dial_at
    }

    /// Opens the port, or notes when to try again.
    pub fn dial(&mut self) {
        match open(&self.path) {
            Ok(port) => {
                self.port = Some(port);
                self.dial_at = None;
            }
            Err(_) => self.dial_later(),
        }
    }

    fn dial_later(&mut self) {
        self.dial_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    fn hang_up(&mut self) {
        self.port = None;
        self.out.clear();
        self.sent = 0;
        self.session.line_down();
        self.dial_later();
    }

    /// Reads what has come. Call when the port is readable.
    pub fn receive(&mut self) {
        let mut buffer = [0; 64 * 1024];
        // A bounded number of reads, so that a fast peer does not starve the processes.
        for _ in 0..4 {
            let Some(port) = &mut self.port else { return };
            match port.read(&mut buffer) {
                Ok(0) => return self.hang_up(),
                Ok(count) => {
                    self.pause = FIRST_PAUSE;
                    self.session.receive(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.hang_up(),
            }
        }
    }

    /// Writes what the session has to say; true when the port must become writable first.
    pub fn transmit(&mut self) -> bool {
        loop {
            if self.port.is_none() {
                return false;
            }
            if self.out.len() - self.sent < ENOUGH {
                self.out.drain(..self.sent);
                self.sent = 0;
                self.session.transmit(&mut self.out);
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                return false;
            }
            let Some(port) = &mut self.port else {
                return false;
            };
            match port.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.hang_up();
                    return false;
                }
            }
        }
    }

    /// Nothing waits to be written, and the VCH has acknowledged everything.
    pub fn is_quiet(&self) -> bool {
        self.session.all_acknowledged() && self.sent == self.out.len()
    }
}

/// A character device, or a socket where the hypervisor's engine offers one.
fn open(path: &std::path::Path) -> io::Result<File> {
    let port = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            File::from(OwnedFd::from(UnixStream::connect(path)?))
        }
        other => other?,
    };
    set_nonblocking(&port, true)?;
    Ok(port)
}
