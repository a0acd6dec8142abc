//! What outlives a line: numbers, acknowledgements, the frames to send again, credit.

use std::collections::{BTreeMap, VecDeque};

use super::SessionError;
use super::frame::{self, Hello, In, MAX_DATA, Message, Process, Stream};
use super::greeting::VERSION;

/// Bytes that may be under way in each stream before the receiver has taken any.
pub const WINDOW: usize = 256 * 1024;
/// A receiver says what it has taken in steps of this.
const GRANT_STEP: usize = WINDOW / 4;
/// Bytes of streams after which an acknowledgement is due.
const ACK_STEP: usize = 64 * 1024;

/// Something that happened on the link.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an event is handled where it is polled"
)]
pub enum Event {
    /// The peer is there. When `resumed` is false it has not met this end before: nothing that was
    /// agreed with an earlier peer holds (subscriptions, processes that were asked for).
    Up {
        /// The peer continues where the last line was cut.
        resumed: bool,
    },
    /// Bytes of a stream. Call [`consumed`](super::Session::consumed) when they have been passed on.
    Data {
        /// Which process.
        process: Process,
        /// Which stream.
        stream: Stream,
        /// The bytes.
        data: Vec<u8>,
    },
    /// More bytes of a stream may be sent.
    Credit {
        /// Which process.
        process: Process,
        /// Which stream.
        stream: Stream,
    },
    /// The peer says something.
    Message(Message),
}

#[derive(Debug)]
struct Window {
    may_send: usize,
    may_receive: usize,
    taken: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            may_send: WINDOW,
            may_receive: WINDOW,
            taken: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Mux {
    instance: [u8; 16],
    peer: Option<Vec<u8>>,
    /// May send before the peer's hello: the host, to a guest that it has never met.
    eager: bool,
    /// The peer's hello has come on this line.
    met: bool,
    hello_sent: bool,
    numbered: u64,
    acked: u64,
    /// Last number that was put on this line.
    on_line: u64,
    queue: VecDeque<(u64, Vec<u8>)>,
    received: u64,
    said_received: u64,
    ack_bytes: usize,
    ack_due: bool,
    windows: BTreeMap<(Process, Stream), Window>,
    pub(super) events: VecDeque<Event>,
}

impl Mux {
    pub(super) fn new(eager: bool) -> Self {
        Self {
            instance: super::random(),
            peer: None,
            eager,
            met: false,
            hello_sent: false,
            numbered: 0,
            acked: 0,
            on_line: 0,
            queue: VecDeque::new(),
            received: 0,
            said_received: 0,
            ack_bytes: 0,
            ack_due: false,
            windows: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn line_up(&mut self) {
        self.met = false;
        self.hello_sent = false;
        self.on_line = self.acked;
        self.ack_due = false;
    }

    pub(super) fn line_down(&mut self) {
        self.met = false;
    }

    pub(super) fn is_met(&self) -> bool {
        self.met
    }

    pub(super) fn all_acked(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn credit(&self, process: Process, stream: Stream) -> usize {
        self.windows
            .get(&(process, stream))
            .map_or(WINDOW, |w| w.may_send)
    }

    fn enqueue(&mut self, kind: &str, process: Process, body: &[u8]) {
        self.numbered += 1;
        let frame = frame::encode(kind, process, self.numbered, self.received, body);
        self.queue.push_back((self.numbered, frame));
    }

    pub(super) fn send(&mut self, message: &Message) {
        let process = match message {
            Message::Inventory { .. }
            | Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::List { .. }
            | Message::Processes { .. } => 0,
            Message::Subscribe { process, .. }
            | Message::CloseStdin { process }
            | Message::Resize { process, .. }
            | Message::Signal { process, .. }
            | Message::Exec { process, .. }
            | Message::Release { process }
            | Message::Started { process, .. }
            | Message::Failed { process, .. }
            | Message::Exited { process, .. }
            | Message::End { process, .. }
            | Message::Grant { process, .. } => *process,
        };
        self.enqueue("ctl", process, &frame::encode_message(message));
        if let Message::Release { process } = message {
            self.forget(*process);
        }
    }

    fn forget(&mut self, process: Process) {
        self.windows.retain(|(p, _), _| *p != process);
    }

    pub(super) fn send_data(&mut self, process: Process, stream: Stream, data: &[u8]) -> usize {
        let window = self.windows.entry((process, stream)).or_default();
        let data = &data[..data.len().min(window.may_send)];
        window.may_send -= data.len();
        for chunk in data.chunks(MAX_DATA) {
            self.enqueue(stream.kind(), process, chunk);
        }
        data.len()
    }

    pub(super) fn consumed(&mut self, process: Process, stream: Stream, bytes: usize) {
        let Some(window) = self.windows.get_mut(&(process, stream)) else {
            return;
        };
        window.taken += bytes;
        if window.taken < GRANT_STEP {
            return;
        }
        let bytes = std::mem::take(&mut window.taken);
        window.may_receive += bytes;
        self.send(&Message::Grant {
            process,
            stream,
            bytes: bytes as u64,
        });
    }

    /// Gives the frames to put on the line now.
    pub(super) fn outgoing(&mut self, mut write: impl FnMut(&[u8])) {
        if !self.hello_sent {
            self.hello_sent = true;
            let hello = Hello {
                version: VERSION,
                instance: self.instance.to_vec(),
                peer: self.peer.clone().unwrap_or_default(),
                received: self.received,
            };
            // Our own type into memory: cannot fail.
            let body = rmp_serde::to_vec_named(&hello).unwrap_or_default();
            write(&frame::encode("hello", 0, 0, 0, &body));
        }
        let first_meeting = self.eager && self.peer.is_none();
        if !(self.met || first_meeting) {
            return;
        }
        for (number, frame) in &self.queue {
            if *number > self.on_line {
                write(frame);
                self.on_line = *number;
            }
        }
        if self.ack_due && self.met {
            self.ack_due = false;
            self.ack_bytes = 0;
            self.said_received = self.received;
            write(&frame::encode("ack", 0, 0, self.received, b""));
        }
    }

    fn on_hello(&mut self, hello: Hello) -> Result<(), SessionError> {
        if hello.version == 0 {
            return Err(SessionError::Protocol("a hello without a version"));
        }
        let knows_me = hello.peer == self.instance;
        let known = self.peer.as_ref() == Some(&hello.instance);
        let resumed = known && (knows_me || self.acked == 0);
        if !resumed {
            // What was queued before any peer was met is for this one; else it was for another.
            if self.peer.is_some() || !self.eager {
                self.numbered = 0;
                self.queue.clear();
                self.on_line = 0;
                self.windows.clear();
            }
            self.acked = 0;
            self.received = 0;
            self.said_received = 0;
        }
        let reached = if knows_me { hello.received } else { 0 };
        self.peer = Some(hello.instance);
        self.met = true;
        self.acknowledge(reached)?;
        self.on_line = self.on_line.max(reached);
        self.events.push_back(Event::Up { resumed });
        Ok(())
    }

    fn acknowledge(&mut self, number: u64) -> Result<(), SessionError> {
        if number > self.numbered {
            return Err(SessionError::Protocol(
                "an acknowledgement of what was not sent",
            ));
        }
        self.acked = self.acked.max(number);
        while self.queue.front().is_some_and(|(n, _)| *n <= self.acked) {
            self.queue.pop_front();
        }
        Ok(())
    }

    pub(super) fn incoming(&mut self, frame: In) -> Result<(), SessionError> {
        if frame.k == "hello" {
            let hello = rmp_serde::from_slice(&frame.b);
            return self.on_hello(hello.map_err(|_| SessionError::Protocol("a malformed hello"))?);
        }
        if !self.met {
            return Err(SessionError::Protocol("a frame before the hello"));
        }
        self.acknowledge(frame.a)?;
        if frame.n == 0 {
            return Ok(());
        }
        if frame.n <= self.received {
            return Ok(());
        }
        if frame.n != self.received + 1 {
            return Err(SessionError::Protocol("a gap in the numbers of frames"));
        }
        self.received = frame.n;
        if let Some(stream) = Stream::of_kind(&frame.k) {
            return self.on_data(frame.p, stream, frame.b.into_vec());
        }
        self.ack_due = true;
        if frame.k != "ctl" {
            return Ok(());
        }
        match frame::decode_message(&frame.b) {
            Some(Message::Grant {
                process,
                stream,
                bytes,
            }) => {
                let window = self.windows.entry((process, stream)).or_default();
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                window.may_send = window.may_send.saturating_add(bytes).min(WINDOW);
                self.events.push_back(Event::Credit { process, stream });
            }
            Some(message) => {
                if let Message::Release { process } = message {
                    self.forget(process);
                }
                self.events.push_back(Event::Message(message));
            }
            None => {}
        }
        Ok(())
    }

    fn on_data(
        &mut self,
        process: Process,
        stream: Stream,
        data: Vec<u8>,
    ) -> Result<(), SessionError> {
        let window = self.windows.entry((process, stream)).or_default();
        let Some(left) = window.may_receive.checked_sub(data.len()) else {
            return Err(SessionError::Protocol(
                "more bytes than there was credit for",
            ));
        };
        window.may_receive = left;
        self.ack_bytes += data.len();
        self.ack_due |= self.ack_bytes >= ACK_STEP;
        self.events.push_back(Event::Data {
            process,
            stream,
            data,
        });
        Ok(())
    }
}
