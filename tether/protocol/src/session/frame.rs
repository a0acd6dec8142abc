//! Frames: a 4-byte big-endian length, then a MessagePack map `{k, p, n, a, b}`: kind, process,
//! number, acknowledged number, body. A frame can be routed by kind and process without its body
//! being decoded; kinds and control messages that are not known are skipped.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use crate::config::Session as ProcessSpec;

/// Longest frame, without its length.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Most bytes of a stream in one frame.
pub const MAX_DATA: usize = 64 * 1024;

/// A stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Standard input, to the guest.
    Stdin,
    /// Standard output or the terminal, to the host.
    Stdout,
    /// Standard error, to the host.
    Stderr,
    /// The live copy of the log: whole records as in the log file, with the same numbers.
    Log,
}

impl Stream {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Stdin => "in",
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Log => "log",
        }
    }

    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Log]
            .into_iter()
            .find(|s| s.kind() == kind)
    }
}

/// Number of a process on this link; the container's own is [`PRIMARY`], others are chosen by the
/// host.
pub type Process = u32;
/// The container's own process.
pub const PRIMARY: Process = 1;

/// What the two ends tell each other, besides the bytes of streams. Each arrives exactly once and
/// in order, also over a new line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "messages are few, and `Exec` is read in place"
)]
pub enum Message {
    /// Host: from now on send these streams of a process, beginning with the output that waited for
    /// a first subscriber. Saying it again changes the selection.
    Subscribe {
        /// Which process.
        process: Process,
        /// Standard output or the terminal.
        stdout: bool,
        /// Standard error.
        stderr: bool,
        /// Log records.
        log: bool,
    },
    /// Host: standard input ends, after the bytes sent before.
    CloseStdin {
        /// Which process.
        process: Process,
    },
    /// Host: the terminal has a new size.
    Resize {
        /// Which process.
        process: Process,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Host: send a signal.
    Signal {
        /// Which process.
        process: Process,
        /// Number of the signal.
        signal: i32,
    },
    /// Host: start another process; answered by `Started` or `Failed`. A number that is taken
    /// already is ignored.
    Exec {
        /// Its number on this link, from 2 on.
        process: Process,
        /// What the host calls it; nothing to the guest, which gives it back in its inventory.
        id: String,
        /// What to run.
        spec: ProcessSpec,
    },
    /// Host: forget a process that has ended.
    Release {
        /// Which process.
        process: Process,
    },
    /// Host: freeze or thaw all processes; answered by `Frozen`.
    Freeze {
        /// Freeze.
        frozen: bool,
    },
    /// Host: list the processes; answered by `Processes`.
    List {
        /// Comes back in the answer.
        request: u64,
    },
    /// Guest: all that it knows, first message to a host that it has not met before.
    Inventory {
        /// Known processes.
        processes: Vec<Known>,
        /// Processes are frozen.
        frozen: bool,
        /// Number of the next log record.
        log_next: u64,
    },
    /// Guest: a process runs.
    Started {
        /// Which process.
        process: Process,
        /// Its process id as the container sees it.
        pid: i32,
        /// When, Unix nanoseconds.
        time: i64,
    },
    /// Guest: a process could not be started.
    Failed {
        /// Which process.
        process: Process,
        /// Docker's text.
        error: String,
        /// Docker's exit code: 126, 127 or 128.
        code: i32,
    },
    /// Guest: a process has ended; comes after the last byte of its streams.
    Exited {
        /// Which process.
        process: Process,
        /// Exit status; 128 + signal for a death by signal.
        code: i32,
        /// When, Unix nanoseconds.
        time: i64,
    },
    /// Guest: a stream has ended.
    End {
        /// Which process.
        process: Process,
        /// Which stream.
        stream: Stream,
    },
    /// Guest: processes are frozen, or not.
    Frozen {
        /// Frozen.
        frozen: bool,
    },
    /// Guest: answer to `List`.
    Processes {
        /// As in the question.
        request: u64,
        /// The processes of the container.
        rows: Vec<ProcessRow>,
    },
    /// Either: the receiver has taken bytes of a stream, so as many more may be sent.
    Grant {
        /// Which process.
        process: Process,
        /// Which stream.
        stream: Stream,
        /// How many bytes.
        bytes: u64,
    },
}

/// A process that the guest knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its number.
    pub process: Process,
    /// What the host called it.
    pub id: String,
    /// Its process id while it runs.
    pub pid: Option<i32>,
    /// Its exit status once it has ended.
    pub code: Option<i32>,
}

/// A line of `docker top`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessRow {
    /// User name, or number when the image has no name for it.
    pub user: String,
    /// Process id as the container sees it.
    pub pid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// Start time, Unix seconds.
    pub start: i64,
    /// Terminal, `?` without one.
    pub tty: String,
    /// CPU time used, in seconds.
    pub cpu_seconds: u64,
    /// Command line.
    pub command: String,
}

/// Says which ends talk and how far they have come; first frame of a line in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    #[serde(with = "serde_bytes")]
    pub(super) instance: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(super) peer: Vec<u8>,
    pub(super) received: u64,
}

#[derive(Serialize)]
struct Out<'a> {
    k: &'a str,
    p: Process,
    n: u64,
    a: u64,
    b: &'a Bytes,
}

/// A frame that came in; its body is not decoded.
#[derive(Debug, Deserialize)]
pub(super) struct In {
    pub(super) k: String,
    #[serde(default)]
    pub(super) p: Process,
    #[serde(default)]
    pub(super) n: u64,
    #[serde(default)]
    pub(super) a: u64,
    #[serde(default)]
    pub(super) b: ByteBuf,
}

/// A frame that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Its length is beyond the limit.
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    /// Its bytes are no frame.
    #[error("a frame that is no map of kind, number and body")]
    Malformed,
}

/// Encodes a frame with its length.
pub(super) fn encode(k: &str, p: Process, n: u64, a: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 48);
    out.extend_from_slice(&[0; 4]);
    // Writing plain numbers, a string and bytes into memory cannot fail.
    let _ = rmp_serde::encode::write_named(
        &mut out,
        &Out {
            k,
            p,
            n,
            a,
            b: Bytes::new(body),
        },
    );
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Cuts frames out of a byte stream.
#[derive(Debug, Default)]
pub(super) struct Deframer {
    buffer: Vec<u8>,
    taken: usize,
}

impl Deframer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Option<In>, FrameError> {
        let bytes = &self.buffer[self.taken..];
        let Some((head, body)) = bytes.split_first_chunk::<4>() else {
            self.compact();
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = body.get(..length) else {
            self.compact();
            return Ok(None);
        };
        let frame = decode(body)?;
        self.taken += 4 + length;
        Ok(Some(frame))
    }

    fn compact(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
    }
}

/// Decodes one frame without its length; what a fuzzer feeds.
fn decode(body: &[u8]) -> Result<In, FrameError> {
    let mut rest = std::io::Cursor::new(body);
    let frame = rmp_serde::from_read(&mut rest).map_err(|_| FrameError::Malformed)?;
    // rmp-serde is silent about bytes after the value.
    if rest.position() != body.len() as u64 {
        return Err(FrameError::Malformed);
    }
    Ok(frame)
}

/// Decodes the control message of a frame; `None` for one that this version does not know.
pub(super) fn decode_message(body: &[u8]) -> Option<Message> {
    rmp_serde::from_slice(body).ok()
}

/// Encodes a control message.
pub(super) fn encode_message(message: &Message) -> Vec<u8> {
    // Our own types into memory: cannot fail.
    rmp_serde::to_vec_named(message).unwrap_or_default()
}

/// Feeds bytes to the decoders of everything that a peer can send; for fuzzing. Must not panic.
pub fn fuzz_decode(bytes: &[u8]) {
    let mut deframer = Deframer::default();
    deframer.push(bytes);
    while let Ok(Some(frame)) = deframer.next() {
        let _ = decode_message(&frame.b);
        let _ = rmp_serde::from_slice::<Hello>(&frame.b);
    }
    let _ = decode(bytes);
    let _ = decode_message(bytes);
    let _ = super::greeting::Greeting::new().receive(bytes);
    let _ = super::greeting::Scanner::default().scan(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_of_a_later_version_is_unknown_not_an_error() {
        #[derive(Serialize)]
        enum Later {
            Teleport { process: u32 },
        }
        let body = rmp_serde::to_vec_named(&Later::Teleport { process: 1 }).unwrap();
        assert_eq!(decode_message(&body), None);
    }

    #[test]
    fn bytes_after_the_map_are_refused() {
        let mut frame = encode("ctl", 0, 1, 0, b"x");
        frame.push(0);
        assert_eq!(decode(&frame[4..]).map(|_| ()), Err(FrameError::Malformed));
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_however_they_are_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 1..6),
            cut in 1usize..50,
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|b| encode("out", 3, 5, 7, b)).collect();
            let mut deframer = Deframer::default();
            let mut out = Vec::new();
            for chunk in wire.chunks(cut) {
                deframer.push(chunk);
                while let Some(frame) = deframer.next().unwrap() {
                    prop_assert_eq!((frame.k.as_str(), frame.p, frame.n, frame.a), ("out", 3, 5, 7));
                    out.push(frame.b.into_vec());
                }
            }
            prop_assert_eq!(out, bodies);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            fuzz_decode(&bytes);
        }
    }
}
