//! One line of a container's log file: `<RFC 3339 ns> <o|e> <seq> <text>`.
//!
//! The text is a line of output without its newline. Bytes that are not text, and backslashes, are
//! escaped as `\xHH` and `\\`; a part of a line (the process wrote no newline, or the line is longer
//! than [`MAX_TEXT`]) ends in `\c`. So a log stays one record per line whatever a process writes,
//! and its bytes come back exactly.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most bytes of output in one record; a longer line is cut into parts.
pub const MAX_TEXT: usize = 16 * 1024;
/// Longest encoded line: every byte escaped, and the head.
pub const MAX_LINE: usize = 4 * MAX_TEXT + 96;

/// Which stream a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the line was complete, Unix nanoseconds.
    pub time: i64,
    /// Which stream.
    pub source: Source,
    /// Number in this container's log, without gaps.
    pub seq: u64,
    /// The bytes as written, with the newline when there was one.
    pub data: Vec<u8>,
}

/// A line that is not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a log record")]
pub struct NotARecord;

impl Record {
    /// Appends the encoded line with its newline to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_time(self.time, out);
        let mark = if self.source == Source::Stdout {
            'o'
        } else {
            'e'
        };
        out.extend_from_slice(format!(" {mark} {} ", self.seq).as_bytes());
        let (text, whole) = match self.data.split_last() {
            Some((b'\n', text)) => (text, true),
            _ => (self.data.as_slice(), false),
        };
        escape(text, out);
        if !whole {
            out.extend_from_slice(b"\\c");
        }
        out.push(b'\n');
    }

    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    /// When the line is not a record: the reader skips it, as after a torn write.
    pub fn decode(line: &[u8]) -> Result<Self, NotARecord> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let mut next = || parts.next().ok_or(NotARecord);
        let time = std::str::from_utf8(next()?).map_err(|_| NotARecord)?;
        let time = OffsetDateTime::parse(time, &Rfc3339).map_err(|_| NotARecord)?;
        let time = i64::try_from(time.unix_timestamp_nanos()).map_err(|_| NotARecord)?;
        let source = match next()? {
            b"o" => Source::Stdout,
            b"e" => Source::Stderr,
            _ => return Err(NotARecord),
        };
        let seq = std::str::from_utf8(next()?)
            .ok()
            .and_then(|t| t.parse().ok());
        let (mut data, whole) = unescape(next()?)?;
        if whole {
            data.push(b'\n');
        }
        Ok(Self {
            time,
            source,
            seq: seq.ok_or(NotARecord)?,
            data,
        })
    }
}

/// `2026-11-21T12:00:00.123456789Z`, always nine digits, so that times sort as text.
fn write_time(nanos: i64, out: &mut Vec<u8>) {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanosecond()
    );
    out.extend_from_slice(text.as_bytes());
}

fn plain(byte: u8) -> bool {
    (byte >= 0x20 && byte != b'\\' && byte != 0x7f) || byte == b'\t'
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte if plain(byte) => out.push(byte),
                byte => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

fn unescape(text: &[u8]) -> Result<(Vec<u8>, bool), NotARecord> {
    let mut out = Vec::with_capacity(text.len() + 1);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [b'c'] => return Ok((out, false)),
            [b'\\', tail @ ..] => {
                out.push(b'\\');
                tail
            }
            [b'x', high, low, tail @ ..] => {
                out.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
                tail
            }
            _ => return Err(NotARecord),
        };
    }
    out.extend_from_slice(rest);
    Ok((out, true))
}

fn hex_digit(byte: u8) -> Result<u8, NotARecord> {
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
        .ok_or(NotARecord)
}

/// Cuts a stream of output into the data of records: whole lines, and parts of long ones.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// Takes output in and gives each finished piece to `emit`.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Vec<u8>)) {
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.pending.len();
            let line_end = bytes
                .iter()
                .take(room)
                .position(|b| *b == b'\n')
                .map(|at| at + 1);
            let cut = line_end.unwrap_or(room.min(bytes.len()));
            self.pending.extend_from_slice(&bytes[..cut]);
            bytes = &bytes[cut..];
            if line_end.is_some() || self.pending.len() == MAX_TEXT {
                emit(std::mem::take(&mut self.pending));
            }
        }
    }

    /// What is left of a line without an end.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.pending.is_empty()).then(|| std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_one_readable_line() {
        let record = Record {
            time: 1_763_726_400_000_000_001,
            source: Source::Stderr,
            seq: 7,
            data: b"a\\b\x1b[0m \xff".to_vec(),
        };
        let mut line = Vec::new();
        record.encode(&mut line);
        let text = String::from_utf8(line.clone()).unwrap();
        assert_eq!(
            text,
            "2025-11-21T12:00:00.000000001Z e 7 a\\\\b\\x1b[0m \\xff\\c\n"
        );
        assert_eq!(Record::decode(&line), Ok(record));
    }

    proptest! {
        #[test]
        fn any_output_comes_back_exactly(chunks: Vec<Vec<u8>>, seq: u64, time in 0i64..i64::MAX) {
            let mut splitter = Splitter::default();
            let mut pieces = Vec::new();
            for chunk in &chunks {
                splitter.push(chunk, |piece| pieces.push(piece));
            }
            pieces.extend(splitter.finish());
            prop_assert_eq!(pieces.concat(), chunks.concat());
            for data in pieces {
                let record = Record { time, source: Source::Stdout, seq, data };
                let mut line = Vec::new();
                record.encode(&mut line);
                prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
                prop_assert!(line.len() <= MAX_LINE);
                prop_assert_eq!(Record::decode(&line), Ok(record));
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(line: Vec<u8>) {
            let _ = Record::decode(&line);
        }
    }
}
