//! A proxy between docker's clients and an engine, which writes down what was asked and with which status it was
//! answered. Bytes pass as they are: hijacked streams and half-closed connections too.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

/// Where an engine serves.
#[derive(Debug, Clone)]
pub enum Engine {
    /// TCP without TLS.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A request and its answer's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// The path, without the version and what follows `?`.
    pub path: String,
    /// The status; 0: not answered.
    pub status: u16,
}

/// A request, and the place of its answer's status.
struct Asked {
    method: String,
    path: String,
    status: AtomicU16,
}

/// What was asked, in order.
type Log = Arc<Mutex<Vec<Arc<Asked>>>>;

/// A running proxy.
pub struct Recorder {
    address: SocketAddr,
    log: Log,
    over: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts one in front of an engine.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn before(engine: Engine) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let recorder = Self {
            address: listener.local_addr()?,
            log: Arc::default(),
            over: Arc::default(),
        };
        let (log, over) = (recorder.log.clone(), recorder.over.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // An engine that is gone closes the client's connection: that is an answer too.
                let _ = relay(client, &engine, &log);
            }
        });
        Ok(recorder)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of DOCKER_HOST that goes through it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// Takes what was recorded so far.
    #[must_use]
    pub fn take(&self) -> Vec<Exchange> {
        let all = self.seen();
        lock(&self.log).drain(..all.len());
        all
    }

    /// What was recorded so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Exchange> {
        lock(&self.log)
            .iter()
            .map(|asked| Exchange {
                method: asked.method.clone(),
                path: asked.path.clone(),
                status: asked.status.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener up, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries one connection both ways, in two threads.
fn relay(client: TcpStream, engine: &Engine, log: &Log) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = match engine {
        Engine::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Side::Tcp(stream)
        }
        Engine::Unix(path) => Side::Unix(UnixStream::connect(path)?),
    };
    let client = Side::Tcp(client);
    let (from, to) = (client.duplicate()?, server.duplicate()?);
    // What was asked on this connection and not answered yet.
    let open: Arc<Mutex<Option<Arc<Asked>>>> = Arc::default();
    let (log, unanswered) = (log.clone(), open.clone());
    thread::spawn(move || {
        carry(from, to, |bytes| {
            let mut open = lock(&unanswered);
            if open.is_none()
                && let Some(asked) = request(bytes)
            {
                let asked = Arc::new(asked);
                lock(&log).push(asked.clone());
                *open = Some(asked);
            }
        })
    });
    thread::spawn(move || {
        carry(server, client, |bytes| {
            let mut open = lock(&open);
            if let Some(status) = status(bytes)
                && let Some(asked) = open.take()
            {
                asked.status.store(status, Ordering::Relaxed);
            }
        })
    });
    Ok(())
}

/// Carries bytes one way until their end, which is passed on.
fn carry(mut from: Side, mut to: Side, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                // Before it is passed on: the answer must not overtake its request.
                look(&buffer[..count]);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        }
    }
    to.end();
}

/// The request that begins here, if one does.
fn request(bytes: &[u8]) -> Option<Asked> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.rsplit_once(' ')?;
    if !version.starts_with("HTTP/1.") {
        return None;
    }
    let path = target.split('?').next().unwrap_or(target);
    Some(Asked {
        method: method.to_owned(),
        path: without_version(path).to_owned(),
        status: AtomicU16::new(0),
    })
}

fn without_version(path: &str) -> &str {
    match path
        .strip_prefix("/v1.")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
    {
        Some(rest) => rest,
        None => path,
    }
}

/// The status of the answer that begins here, if one does.
fn status(bytes: &[u8]) -> Option<u16> {
    let code = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

/// One end of a connection.
enum Side {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Side {
    fn duplicate(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn end(&self) {
        // It may be gone already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Side {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Side {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_statuses_are_told_from_other_bytes() {
        let found = request(b"POST /v1.41/containers/a/kill?signal=9 HTTP/1.1\r\nHost: x\r\n");
        let asked = found.expect("a request");
        assert_eq!(
            (&*asked.method, &*asked.path),
            ("POST", "/containers/a/kill")
        );
        assert!(request(b"hello there HTTP\n").is_none());
        assert_eq!(status(b"HTTP/1.1 409 Conflict\r\n"), Some(409));
        assert_eq!(status(b"\x01\0\0\0\0\0\0\x01x"), None);
    }
}
