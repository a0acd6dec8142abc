//! The serial port that takes the log: one line per record, numbers without gaps.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tether_protocol::log::{Record, Source, Splitter};

use crate::clock;

/// The log.
#[derive(Debug)]
pub struct LogPort {
    port: Option<File>,
    next: u64,
    stdout: Splitter,
    stderr: Splitter,
}

impl LogPort {
    /// Takes the port at `path`, or none; the first record gets the number `next`.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub fn open(path: Option<&Path>, next: u64) -> io::Result<Self> {
        let port = path.map(open_port).transpose()?;
        Ok(Self {
            port,
            next,
            stdout: Splitter::default(),
            stderr: Splitter::default(),
        })
    }

    /// Number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Logs output, and returns the encoded lines for the live copy.
    pub fn write(&mut self, source: Source, bytes: &[u8]) -> Vec<u8> {
        let splitter = match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        let time = clock::now_nanos();
        let (mut lines, next) = (Vec::with_capacity(bytes.len() * 2), &mut self.next);
        splitter.push(bytes, |data| {
            Record {
                time,
                source,
                seq: *next,
                data,
            }
            .encode(&mut lines);
            *next += 1;
        });
        self.put(&lines);
        lines
    }

    /// Logs what is left of a stream that has ended.
    pub fn finish(&mut self, source: Source) -> Vec<u8> {
        let splitter = match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        let mut lines = Vec::new();
        if let Some(data) = splitter.finish() {
            let record = Record {
                time: clock::now_nanos(),
                source,
                seq: self.next,
                data,
            };
            record.encode(&mut lines);
            self.next += 1;
            self.put(&lines);
        }
        lines
    }

    /// Logs what is left of both streams.
    pub fn finish_all(&mut self) {
        self.finish(Source::Stdout);
        self.finish(Source::Stderr);
    }

    fn put(&mut self, lines: &[u8]) {
        if let Some(port) = &mut self.port
            && let Err(error) = port.write_all(lines)
        {
            crate::say!("writing the log: {error}");
        }
    }
}

/// A serial port is a file or device, or, when its other end is on the network, a socket.
fn open_port(path: &Path) -> io::Result<File> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            Ok(File::from(OwnedFd::from(UnixStream::connect(path)?)))
        }
        other => other,
    }
}
