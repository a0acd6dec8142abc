//! Network-backed serial ports: bytes between the guest's socket and a TCP connection.
//!
//! The port dials as soon as the VM is on and again, with back-off, whenever the line is cut. The
//! guest's connection ends with the line: it connects anew and gets the next one.
//!
//! ```text
//! dial ──► line up ──┬─ guest connected ──► relay ── either end closes ──► cut both ──► dial
//!   └ refused: wait ─┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use crate::engine::{SerialBacking, SerialSpec};
use crate::network::Network;

/// First pause between two calls.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest pause between two calls.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Size of the buffer of each direction.
const BUFFER: usize = 64 * 1024;

/// One port.
pub(super) struct Port {
    pub(super) listener: UnixListener,
    pub(super) network: Arc<Network>,
    /// Where the port leads; a change cuts the line.
    pub(super) spec: watch::Receiver<SerialSpec>,
}

impl Port {
    /// Relays until the task is dropped, or the VM no longer holds the port.
    pub(super) async fn serve(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let spec = self.spec.borrow_and_update().clone();
            let relayed = tokio::select! {
                changed = self.spec.changed() => match changed {
                    Ok(()) => { backoff = BACKOFF_MIN; continue }
                    Err(_) => return,
                },
                relayed = relay(&self.listener, &self.network, &spec) => relayed,
            };
            backoff = if relayed {
                BACKOFF_MIN
            } else {
                (backoff * 2).min(BACKOFF_MAX)
            };
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                changed = self.spec.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Makes one connection and relays it to its end; tells whether the line was up.
async fn relay(listener: &UnixListener, network: &Network, spec: &SerialSpec) -> bool {
    let line = match (&spec.backing, spec.connected) {
        (SerialBacking::TcpClient { host, port }, true) => network.dial(host, *port).await,
        _ => return unplugged(listener).await,
    };
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            tracing::debug!(port = spec.index, %error, "a serial port's call failed");
            return false;
        }
    };
    // Nothing that matters if this fails: small writes wait a little.
    let _ = line.set_nodelay(true);
    tokio::select! {
        guest = accept(listener) => {
            copy(guest, line).await;
            true
        }
        () = hung_up(&line) => true,
    }
}

/// A port that leads nowhere: the guest may write, and nothing comes back.
async fn unplugged(listener: &UnixListener) -> bool {
    let mut guest = accept(listener).await;
    let _ = tokio::io::copy(&mut guest, &mut tokio::io::sink()).await;
    true
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
        // Out of descriptors: let others end.
        tokio::time::sleep(BACKOFF_MAX).await;
    }
}

/// Resolves when the other side has closed a line on which no guest reads yet.
async fn hung_up(line: &TcpStream) {
    let mut byte = [0];
    loop {
        match line.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            // Bytes wait for the guest: its connection comes, or the other side gives up, which
            // is then found by the copy.
            Ok(_) => std::future::pending::<()>().await,
        }
    }
}

async fn copy(mut guest: UnixStream, mut line: TcpStream) {
    let (mut from_guest, mut to_guest) = guest.split();
    let (mut from_line, mut to_line) = line.split();
    // A serial line has no half-close: the first end to close ends both ways. What was read is
    // written before that, since each copy ends only at its reader's end.
    tokio::select! {
        _ = pump(&mut from_guest, &mut to_line) => {}
        _ = pump(&mut from_line, &mut to_guest) => {}
    }
}

async fn pump(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> std::io::Result<u64> {
    let mut from = tokio::io::BufReader::with_capacity(BUFFER, from);
    tokio::io::copy_buf(&mut from, to).await
}
