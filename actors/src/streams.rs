//! Byte streams between a persona and a process in a guest: output, input, resize.
//!
//! All channels are bounded: a reader that does not take its output stops the stream at its source (the link
//! gives no more credit), never the actor.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// File descriptor 1, and everything of a process with a terminal.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// A piece of output, in the order in which the guest read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where the process wrote it.
    pub stream: Stream,
    /// What it wrote.
    pub data: Bytes,
}

/// What a client sends to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Data(Bytes),
    /// The client half-closed: end of standard input (only this is; a dropped sender is a client that left).
    Close,
}

/// How many pieces of input and output wait in a channel: each is at most 32 KiB, so a stalled client
/// holds at most 1 MiB.
pub const CHANNEL_DEPTH: usize = 32;

/// The persona's ends of an attached process.
#[derive(Debug)]
pub struct Attachment {
    /// Output; ends (`None`) when the process has ended and everything it wrote was delivered.
    pub output: mpsc::Receiver<Output>,
    /// Input; `None` when standard input was not asked for or is not open. `send` waits while the guest is slow.
    pub input: Option<mpsc::Sender<Input>>,
    /// Whether the process has a terminal: then there is no framing.
    pub tty: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}
