//! The serial port that takes the log: one line per record, numbers without gaps.
//!
//! The number of the first record follows the last one of the file where the port lets the guest read
//! it, also when the VM was powered off hard; else the one that was kept at the last clean end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tether_protocol::log::{MAX_LINE, Record, Source, Splitter};

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
    /// Takes the port at `path`, or none. The first record gets the number that follows the log's last,
    /// at least `kept`.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub fn open(path: Option<&Path>, kept: u64) -> io::Result<Self> {
        let port = path.map(open_port).transpose()?;
        let written = match path {
            Some(path) if path.is_file() => mend(path).unwrap_or_else(|error| {
                crate::say!("reading the log: {error}");
                None
            }),
            _ => None,
        };
        let next = written.map_or(kept, |last| kept.max(last + 1));
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

/// Finds the number of the last record in the log's file. A last line that was torn is ended where it
/// still is a record, and goes away else: what follows must stand on a line of its own.
fn mend(path: &Path) -> io::Result<Option<u64>> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    // Two of the longest lines: the last whole one is in there, whatever follows it.
    let from = length.saturating_sub(2 * MAX_LINE as u64);
    let mut tail = vec![0; usize::try_from(length - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, from)?;
    let whole = tail
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let torn = &tail[whole..];
    if let Ok(record) = Record::decode(torn) {
        file.write_all(b"\n")?;
        return Ok(Some(record.seq));
    }
    if !torn.is_empty() {
        file.set_len(from + whole as u64)?;
    }
    let mut lines = tail[..whole].rsplit(|b| *b == b'\n');
    Ok(lines.find_map(|line| Record::decode(line).ok().map(|record| record.seq)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn next_after(content: &[u8], kept: u64) -> (u64, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, content).unwrap();
        let mut log = LogPort::open(Some(&path), kept).unwrap();
        let next = log.next();
        log.write(Source::Stdout, b"new\n");
        (next, std::fs::read(&path).unwrap())
    }

    fn lines(numbers: std::ops::Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        for seq in numbers {
            let (time, source, data) = (7, Source::Stdout, b"old\n".to_vec());
            Record {
                time,
                source,
                seq,
                data,
            }
            .encode(&mut out);
        }
        out
    }

    #[test]
    fn numbers_follow_the_last_record_of_the_file() {
        assert_eq!(next_after(b"", 1).0, 1);
        assert_eq!(next_after(b"", 9).0, 9);
        assert_eq!(next_after(&lines(1..8), 1).0, 8);
        assert_eq!(next_after(&lines(1..8), 40).0, 40);
        assert_eq!(next_after(&lines(1..5000), 1).0, 5000);
    }

    #[test]
    fn a_line_that_was_cut_anywhere_leaves_whole_lines_and_no_number_twice() {
        let (before, last) = (lines(1..4), lines(4..5));
        for cut in 0..=last.len() {
            let torn = [&before[..], &last[..cut]].concat();
            let (_, content) = next_after(&torn, 1);
            let numbers: Vec<_> = content
                .split_inclusive(|b| *b == b'\n')
                .map(|line| Record::decode(line).unwrap().seq)
                .collect();
            let wanted: Vec<_> = (1..=numbers.len() as u64).collect();
            assert_eq!(numbers, wanted, "cut at {cut}");
        }
    }
}
