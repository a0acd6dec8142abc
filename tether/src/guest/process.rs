//! One process: its streams, who listens to them, what waits for whom.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tether_protocol::config::Session as Spec;
use tether_protocol::session::{Message, Process as Number, Session, Stream, WINDOW};

use crate::launch::Launched;

/// Output that waits for a first subscriber.
const WAITING: usize = WINDOW;
/// How long it waits.
const WAITS_FOR: Duration = Duration::from_secs(30);
/// Bytes read from a process at once.
pub const CHUNK: usize = 64 * 1024;

/// An output of a process.
#[derive(Debug)]
pub struct Output {
    /// Which.
    pub stream: Stream,
    /// Tether's end; none once it has ended.
    pub file: Option<File>,
    /// Read, and not sent yet.
    pub pending: Vec<u8>,
    /// Its end was told.
    told: bool,
}

/// What the host wants of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Log records.
    pub log: bool,
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// Its number on the link.
    pub number: Number,
    /// Its id.
    pub id: String,
    /// Its process id, as tether sees it.
    pub pid: i32,
    /// Its outputs.
    pub outputs: Vec<Output>,
    /// Its input.
    pub stdin: Option<File>,
    /// Bytes for its input.
    pub typed: Vec<u8>,
    close_stdin: bool,
    tty: bool,
    /// What the host wants.
    pub wanted: Wanted,
    ever_wanted: bool,
    attach: bool,
    waits_until: Instant,
    /// How and when it ended.
    pub ended: Option<(i32, i64)>,
    /// The host was told that it ended.
    pub reported: bool,
}

impl Process {
    /// A process that has just been started. `attach`: a client is expected.
    pub fn new(number: Number, id: &str, spec: &Spec, launched: Launched, attach: bool) -> Self {
        let stdio = launched.stdio;
        let output = |stream, file: Option<File>| {
            file.map(|file| Output {
                stream,
                file: Some(file),
                pending: Vec::new(),
                told: false,
            })
        };
        let outputs = [
            (Stream::Stdout, stdio.stdout),
            (Stream::Stderr, stdio.stderr),
        ];
        Self {
            number,
            id: id.to_owned(),
            pid: launched.pid,
            outputs: outputs
                .into_iter()
                .filter_map(|(s, f)| output(s, f))
                .collect(),
            stdin: stdio.stdin,
            typed: Vec::new(),
            close_stdin: false,
            tty: spec.tty,
            wanted: Wanted::default(),
            ever_wanted: false,
            attach,
            waits_until: Instant::now() + WAITS_FOR,
            ended: None,
            reported: false,
        }
    }

    /// The host chooses its streams. Having chosen nothing, it has let go what waited.
    pub fn subscribe(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        self.ever_wanted = true;
        for i in 0..self.outputs.len() {
            if !self.wants(self.outputs[i].stream) {
                self.outputs[i].pending.clear();
            }
        }
    }

    /// There is a new host, which has not chosen yet: nothing goes to it unasked.
    pub fn unsubscribe(&mut self) {
        self.wanted = Wanted::default();
        if self.ever_wanted {
            self.outputs
                .iter_mut()
                .for_each(|output| output.pending.clear());
        }
    }

    fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.wanted.stdout,
            Stream::Stderr => self.wanted.stderr,
            Stream::Log => self.wanted.log,
            Stream::Stdin => false,
        }
    }

    /// Output is kept for a first subscriber.
    fn waits(&self) -> bool {
        !self.ever_wanted && Instant::now() < self.waits_until
    }

    /// When output stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.waits().then_some(self.waits_until)
    }

    /// Something is kept that a subscriber may still take.
    pub fn holds_output(&self) -> bool {
        let kept = self.outputs.iter().any(|output| !output.pending.is_empty());
        kept && (self.wanted.stdout || self.wanted.stderr || (self.attach && self.waits()))
    }

    /// May the output at `index` be read now?
    pub fn may_read(&self, index: usize) -> bool {
        let output = &self.outputs[index];
        output.file.is_some()
            && if self.wants(output.stream) {
                output.pending.is_empty()
            } else {
                !(self.attach && self.waits()) || output.pending.len() < WAITING
            }
    }

    /// Reads a chunk of the output at `index` into `buffer`: its length, none when there is nothing
    /// now. An end, or a failure, ends the output.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> Option<usize> {
        let file = self.outputs[index].file.as_mut()?;
        match file.read(buffer) {
            Ok(0) => {}
            Ok(count) => return Some(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return None;
            }
            // A terminal whose last process has closed it says EIO.
            Err(_) => {}
        }
        self.outputs[index].file = None;
        None
    }

    /// Passes output on, keeps it, or lets it go.
    pub fn take(&mut self, index: usize, bytes: &[u8], session: &mut Session) {
        let wants = self.wants(self.outputs[index].stream);
        let waits = self.waits();
        let output = &mut self.outputs[index];
        if wants || waits {
            output.pending.extend_from_slice(bytes);
        } else {
            output.pending.clear();
        }
        if wants {
            self.flush(session);
        } else if !(self.attach && waits) && output.pending.len() > WAITING {
            // Nobody is known to come: the oldest goes. Who is expected loses nothing: reading stops instead.
            let excess = output.pending.len() - WAITING;
            output.pending.drain(..excess);
        }
    }

    /// Sends what waits, as far as there is credit, and tells the ends of streams.
    pub fn flush(&mut self, session: &mut Session) {
        for i in 0..self.outputs.len() {
            let wants = self.wants(self.outputs[i].stream);
            let output = &mut self.outputs[i];
            if wants && !output.pending.is_empty() {
                let count = session.send_data(self.number, output.stream, &output.pending);
                output.pending.drain(..count);
            }
            let over = output.file.is_none() && (output.pending.is_empty() || !wants);
            if over && !output.told && wants {
                output.told = true;
                session.send(Message::End {
                    process: self.number,
                    stream: output.stream,
                });
            }
        }
    }

    /// All outputs have ended and nothing of them is to be sent any more.
    pub fn is_drained(&self) -> bool {
        self.outputs.iter().all(|output| output.file.is_none()) && !self.holds_output()
    }

    /// Bytes for the input arrive.
    pub fn type_in(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() {
            self.typed.extend_from_slice(bytes);
        }
    }

    /// The input ends after what was typed. A terminal has no end.
    pub fn end_input(&mut self) {
        self.close_stdin |= !self.tty;
    }

    /// Writes what was typed; returns how many bytes are done with.
    pub fn write_typed(&mut self) -> usize {
        let mut done = 0;
        while let Some(file) = &mut self.stdin {
            if self.typed.is_empty() {
                if self.close_stdin {
                    self.stdin = None;
                }
                break;
            }
            match file.write(&self.typed) {
                Ok(count) => {
                    done += count;
                    self.typed.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // It reads no more: what is typed from now on is gone.
                    done += self.typed.len();
                    self.typed.clear();
                    self.stdin = None;
                }
            }
        }
        done
    }
}
