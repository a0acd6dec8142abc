//! Connections: TCP with or without TLS, unix sockets; as one type, so that a hijacked one is written by `writev`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client that has not finished its TLS handshake by then is sent away.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Bind {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A unix socket; a file left over from before is replaced.
    Unix(PathBuf),
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Listener {
    /// Binds a socket.
    ///
    /// # Errors
    ///
    /// What the system says: the address is taken, or not ours.
    pub async fn bind(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Bind::Unix(path) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                UnixListener::bind(path).map(Self::Unix)
            }
        }
    }

    /// The address in docker's spelling: `tcp://127.0.0.1:2376`, `unix:///run/docker.sock`.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "tcp://?".to_owned(), |a| format!("tcp://{a}")),
            Self::Unix(listener) => {
                let path = listener.local_addr().ok();
                let path = path.as_ref().and_then(|a| a.as_pathname());
                format!(
                    "unix://{}",
                    path.map(|p| p.display().to_string()).unwrap_or_default()
                )
            }
        }
    }

    /// Waits for the next client.
    ///
    /// # Errors
    ///
    /// What the system says; `EMFILE` and the like pass, so callers go on after a pause.
    ///
    /// # Cancel safety
    ///
    /// No client is lost when this is dropped.
    pub async fn accept(&self) -> io::Result<Plain> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Plain::Tcp(stream))
            }
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Plain::Unix(stream)),
        }
    }
}

/// A client before TLS.
#[derive(Debug)]
pub enum Plain {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Plain {
    /// Does the TLS handshake where the persona has a certificate and the client comes over TCP.
    ///
    /// # Errors
    ///
    /// A failed handshake (no client certificate, a foreign one), or none within [`HANDSHAKE_DEADLINE`].
    pub async fn secure(self, tls: Option<&Arc<rustls::ServerConfig>>) -> io::Result<Conn> {
        match (self, tls) {
            (Self::Tcp(stream), Some(config)) => {
                let accept = TlsAcceptor::from(config.clone()).accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, accept)
                    .await
                    .map_err(|_| {
                        io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")
                    })??;
                Ok(Conn::Tls(Box::new(stream)))
            }
            (Self::Tcp(stream), None) => Ok(Conn::Tcp(stream)),
            (Self::Unix(stream), _) => Ok(Conn::Unix(stream)),
        }
    }
}

/// A client's byte stream.
#[derive(Debug)]
pub enum Conn {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    /// Closes the connection so that the client sees that it was cut off: reset, over TLS without a `close_notify`.
    pub fn reset(self) {
        if let Self::Tcp(stream) = &self {
            // Closed in order, at worst.
            let _ = stream.set_zero_linger();
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Conn::Tcp($stream) => $call,
            Conn::Unix($stream) => $call,
            Conn::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
