//! The guest's side of guest RPC: requests in pipelined batches over one connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tether_protocol::rpci::{self, Command, Reply};

/// Requests under way at once: their replies must fit into the socket's buffer.
const BATCH: usize = 256;

/// A connection to the hypervisor.
#[derive(Debug)]
pub struct Rpc {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Rpc {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            socket,
            buffer: Vec::new(),
        })
    }

    /// Sends requests and returns their replies, in order.
    ///
    /// # Errors
    /// When the connection breaks or a reply does not come.
    pub fn call(&mut self, commands: &[Command]) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(commands.len());
        for batch in commands.chunks(BATCH) {
            let mut out = Vec::new();
            for command in batch {
                rpci::write_message(&mut out, &command.encode());
            }
            self.socket.write_all(&out)?;
            for _ in batch {
                replies.push(Reply::decode(&self.message()?));
            }
        }
        Ok(replies)
    }

    fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(message) = rpci::take_message(&mut self.buffer).map_err(io::Error::other)? {
                return Ok(message);
            }
            let count = self.socket.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    /// Reads variables; one that is not there is `None`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn get(&mut self, keys: &[String]) -> io::Result<Vec<Option<String>>> {
        let commands: Vec<_> = keys.iter().cloned().map(Command::InfoGet).collect();
        let value = |reply| match reply {
            Reply::Ok(data) => Some(String::from_utf8_lossy(&data).into_owned()),
            Reply::Failed(_) => None,
        };
        Ok(self.call(&commands)?.into_iter().map(value).collect())
    }

    /// Writes variables, in order. A refusal of one is not an error: it has no remedy here.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn set(&mut self, values: &[(String, String)]) -> io::Result<()> {
        self.set_and(values, &[])
    }

    /// Writes variables and sends `more`, all in one moment.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn set_and(&mut self, values: &[(String, String)], more: &[Command]) -> io::Result<()> {
        let set = |(key, value): &(String, String)| Command::InfoSet {
            key: key.clone(),
            value: value.clone().into_bytes(),
        };
        let commands: Vec<_> = values.iter().map(set).chain(more.iter().cloned()).collect();
        for (reply, (key, _)) in self.call(&commands)?.iter().zip(values) {
            if let Reply::Failed(text) = reply {
                crate::say!("setting {key}: {text}");
            }
        }
        Ok(())
    }
}
