//! The link between VCH and guest, without any I/O: bytes in, events out; messages in, bytes out.
//!
//! ```text
//!   VCH (TLS client)                                guest (TLS server)
//!   preamble, preamble, …  ───────────────────────▶ echo with the container id
//!   ClientHello …          ◀── TLS 1.3, raw keys ──▶ …
//!   hello {instance, peer, received} ◀────────────▶ hello
//!   numbered frames, acknowledgements, credit, both ways
//! ```
//!
//! A [`Session`] outlives its lines: frames are numbered, acknowledged, and sent again over the next
//! line, so a cut loses and doubles nothing as long as both ends live. A peer that has not met this
//! end before (its process is new) shows as [`Event::Up`] with `resumed: false`.
//!
//! # The VCH's side
//!
//! ```
//! use tether_protocol::session::{Event, Greeting, Identity, Message, PRIMARY, SessionGuest, SessionHost, Stream};
//!
//! // The VCH's key; guests have its fingerprint in their configuration. The guest's was published.
//! let ours = Identity::generate()?;
//! let theirs = Identity::generate()?;
//! let mut guest = SessionGuest::new(&theirs, "ab12", &ours.fingerprint())?;
//!
//! let mut host = SessionHost::new(&ours);
//! host.send(Message::Subscribe { process: PRIMARY, stdout: true, stderr: true, log: false });
//!
//! // A connection comes in: greet until the echo tells who it is (resend every 100 ms).
//! let mut greeting = Greeting::new();
//! guest.receive(&greeting.preamble());
//! let echo = greeting.receive(&guest.take_output()).expect("the guest answers");
//! assert_eq!(echo.id(), "ab12");
//! host.connect(echo, &theirs.public_key())?;
//!
//! // From then on: write what `take_output` gives, feed what comes to `receive`, handle events.
//! for _ in 0..4 {
//!     guest.receive(&host.take_output());
//!     host.receive(&guest.take_output())?; // an error: drop the connection, `line_down`, await the next
//! }
//! assert_eq!(host.poll_event(), Some(Event::Up { resumed: false }));
//! guest.send_data(PRIMARY, Stream::Stdout, b"hi");
//! host.receive(&guest.take_output())?;
//! let hi = Event::Data { process: PRIMARY, stream: Stream::Stdout, data: b"hi".to_vec() };
//! assert_eq!(host.poll_event(), Some(hi));
//! host.consumed(PRIMARY, Stream::Stdout, 2); // gives credit back
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustls::ServerConfig;

mod frame;
mod greeting;
mod identity;
mod line;
mod mux;
#[cfg(test)]
mod tests;
mod tls;

pub use frame::{
    FrameError, Known, MAX_DATA, MAX_FRAME, Message, PRIMARY, Process, ProcessRow, Stream,
    fuzz_decode,
};
pub use greeting::{Echo, Greeting, VERSION};
pub use identity::{Identity, IdentityError, PublicKey};
pub use mux::{Event, WINDOW};

use line::Line;
use mux::Mux;

/// Why a line is of no more use. Both ends go on with the next line.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// TLS refused: damaged bytes, or another key than the pinned one.
    #[error("TLS on the link")]
    Tls(#[source] rustls::Error),
    /// A frame that cannot be.
    #[error("framing on the link")]
    Frame(#[source] FrameError),
    /// The peer breaks the protocol.
    #[error("the link's peer sent {0}")]
    Protocol(&'static str),
    /// The peer ended TLS.
    #[error("the link's peer closed it")]
    Closed,
}

/// Sixteen bytes that nobody can guess.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // The generator only fails when the kernel gives no entropy at all.
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel gives entropy");
    bytes
}

/// What both ends have in common.
#[derive(Debug)]
pub struct Session {
    mux: Mux,
    line: Option<Line>,
    /// Bytes to send that are not TLS.
    plain: Vec<u8>,
}

impl Session {
    fn new(eager: bool) -> Self {
        Self {
            mux: Mux::new(eager),
            line: None,
            plain: Vec::new(),
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.mux.events.pop_front()
    }

    /// Appends the bytes to put on the line now to `out`. Call it after anything else was called.
    pub fn transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.plain);
        if let Some(line) = &mut self.line {
            line.transmit(&mut self.mux, out);
        }
    }

    /// As [`transmit`](Self::transmit), into a new buffer.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.transmit(&mut out);
        out
    }

    /// Sends a message, now or over a later line.
    pub fn send(&mut self, message: Message) {
        self.mux.send(&message);
    }

    /// Sends bytes of a stream, as many as there is credit for, and returns how many; wait for
    /// [`Event::Credit`] with the rest.
    pub fn send_data(&mut self, process: Process, stream: Stream, data: &[u8]) -> usize {
        self.mux.send_data(process, stream, data)
    }

    /// How many bytes of a stream may be sent now.
    pub fn credit(&self, process: Process, stream: Stream) -> usize {
        self.mux.credit(process, stream)
    }

    /// Says that bytes of an [`Event::Data`] have been passed on: the peer may send more.
    pub fn consumed(&mut self, process: Process, stream: Stream, bytes: usize) {
        self.mux.consumed(process, stream, bytes);
    }

    /// The peer's hello has come on the present line.
    pub fn is_up(&self) -> bool {
        self.line.is_some() && self.mux.is_met()
    }

    /// Everything that was sent has been acknowledged.
    pub fn all_acknowledged(&self) -> bool {
        self.mux.all_acked()
    }

    /// The line is gone. Nothing is lost by it.
    pub fn line_down(&mut self) {
        self.line = None;
        self.plain.clear();
        self.mux.line_down();
    }
}

/// The VCH's end.
#[derive(Debug)]
pub struct SessionHost {
    session: Session,
    identity: Identity,
}

impl SessionHost {
    /// A session with a guest that was not met yet. Messages sent before the first line wait.
    pub fn new(identity: &Identity) -> Self {
        Self {
            session: Session::new(true),
            identity: identity.clone(),
        }
    }

    /// A new line, after its greeting; a line before it is dropped.
    ///
    /// # Errors
    /// When TLS cannot begin with these keys.
    pub fn connect(&mut self, echo: Echo, guest: &PublicKey) -> Result<(), SessionError> {
        self.session.line_down();
        let config = tls::client(&self.identity, guest).map_err(SessionError::Tls)?;
        let (echo, rest) = echo.into_parts();
        self.session.mux.line_up();
        self.session.line = Some(Line::client(config, echo)?);
        self.receive(&rest)
    }

    /// Takes bytes of the line in.
    ///
    /// # Errors
    /// When the line is of no more use: close the connection; the guest's side dials again.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let Session { mux, line, .. } = &mut self.session;
        let Some(active) = line else { return Ok(()) };
        let result = active.receive(mux, bytes);
        if result.is_err() {
            self.session.line_down();
        }
        result
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct SessionGuest {
    session: Session,
    id: String,
    config: Arc<ServerConfig>,
    scanner: greeting::Scanner,
    nonce: Option<[u8; 16]>,
}

impl SessionGuest {
    /// The end of the container `id`, for the VCH whose key has the fingerprint `vch`.
    ///
    /// # Errors
    /// When TLS cannot begin with this key.
    pub fn new(identity: &Identity, id: &str, vch: &str) -> Result<Self, SessionError> {
        let config = tls::server(identity, vch).map_err(SessionError::Tls)?;
        let session = Session::new(false);
        let scanner = greeting::Scanner::default();
        Ok(Self {
            session,
            id: id.to_owned(),
            config,
            scanner,
            nonce: None,
        })
    }

    /// Takes bytes of the line in. Damage makes this end drop TLS and wait for a preamble, which
    /// may come at any time: also after a reconnect that this end did not notice.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while let Some((end, nonce)) = self.scanner.scan(bytes) {
            bytes = &bytes[end..];
            self.greet(nonce);
        }
        let Session { mux, line, .. } = &mut self.session;
        let Some(active) = line else { return };
        if active.receive(mux, bytes).is_err() {
            // A last alert would only be noise to the next session.
            self.session.line_down();
            self.nonce = None;
        }
    }

    fn greet(&mut self, nonce: [u8; 16]) {
        let echo = greeting::echo(&nonce, &self.id);
        if self.nonce != Some(nonce) {
            self.session.line_down();
            self.nonce = Some(nonce);
            self.session.mux.line_up();
            self.session.line = Line::server(self.config.clone()).ok();
        }
        self.session.plain.extend_from_slice(&echo);
    }
}

impl Deref for SessionHost {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for SessionHost {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Deref for SessionGuest {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for SessionGuest {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
