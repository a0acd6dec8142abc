//! One connection: greeting, TLS, bytes to frames.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::SessionError;
use super::frame::Deframer;
use super::mux::Mux;

/// TLS over one connection.
#[derive(Debug)]
pub(super) struct Line {
    tls: Connection,
    frames: Deframer,
    /// Copies of the guest's echo that may precede its first TLS byte.
    echo: Vec<u8>,
    /// Bytes that wait until they differ from an echo.
    early: Option<Vec<u8>>,
}

impl Line {
    pub(super) fn client(config: Arc<ClientConfig>, echo: Vec<u8>) -> Result<Self, SessionError> {
        // A name is needed by the type, and never sent.
        let name = ServerName::try_from("guest").map_err(|_| SessionError::Protocol("name"))?;
        let tls = ClientConnection::new(config, name).map_err(SessionError::Tls)?;
        Ok(Self::new(Connection::Client(tls), echo, Some(Vec::new())))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, SessionError> {
        let tls = ServerConnection::new(config).map_err(SessionError::Tls)?;
        Ok(Self::new(Connection::Server(tls), Vec::new(), None))
    }

    fn new(mut tls: Connection, echo: Vec<u8>, early: Option<Vec<u8>>) -> Self {
        // Streams are bounded by credit.
        tls.set_buffer_limit(None);
        Self {
            tls,
            frames: Deframer::default(),
            echo,
            early,
        }
    }

    /// Takes bytes of the line in and gives the frames in them to `mux`.
    pub(super) fn receive(&mut self, mux: &mut Mux, bytes: &[u8]) -> Result<(), SessionError> {
        let Some(mut early) = self.early.take() else {
            return self.receive_tls(mux, bytes);
        };
        early.extend_from_slice(bytes);
        while !self.echo.is_empty() && early.starts_with(&self.echo) {
            early.drain(..self.echo.len());
        }
        if early.is_empty() || (early.len() < self.echo.len() && self.echo.starts_with(&early)) {
            self.early = Some(early);
            return Ok(());
        }
        self.receive_tls(mux, &early)
    }

    fn receive_tls(&mut self, mux: &mut Mux, mut bytes: &[u8]) -> Result<(), SessionError> {
        let mut plain = [0; 16 * 1024];
        while !bytes.is_empty() {
            // Reading from memory fails only when TLS takes no more.
            self.tls
                .read_tls(&mut bytes)
                .map_err(|_| SessionError::Protocol("TLS is full"))?;
            let state = self.tls.process_new_packets().map_err(SessionError::Tls)?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let Ok(count) = self.tls.reader().read(&mut plain) else {
                    break;
                };
                if count == 0 {
                    break;
                }
                left -= count.min(left);
                self.frames.push(&plain[..count]);
                while let Some(frame) = self.frames.next().map_err(SessionError::Frame)? {
                    mux.incoming(frame)?;
                }
            }
            if state.peer_has_closed() {
                return Err(SessionError::Closed);
            }
        }
        Ok(())
    }

    /// Appends the bytes to send to `out`.
    pub(super) fn transmit(&mut self, mux: &mut Mux, out: &mut Vec<u8>) {
        if !self.tls.is_handshaking() {
            let mut writer = self.tls.writer();
            // Without a buffer limit, writing into TLS takes everything.
            mux.outgoing(|frame| drop(writer.write_all(frame)));
        }
        while self.tls.wants_write() {
            // Writing into memory cannot fail.
            if self.tls.write_tls(out).is_err() {
                break;
            }
        }
    }
}
