//! Ports of VMs on the host's loopback.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Network, relay};

/// Where a forward leads; none while the VM has no address.
pub type Target = watch::Receiver<Option<SocketAddrV4>>;

/// A port that is forwarded; dropping it closes the port.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Returns the host's address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    /// Forwards connections to a host's address, normally `127.0.0.1:PORT`, to a VM.
    ///
    /// # Errors
    /// `EADDRINUSE`, or what bind says.
    pub async fn forward(self: &Arc<Self>, from: SocketAddr, to: Target) -> io::Result<Forward> {
        let listener = TcpListener::bind(from).await?;
        let address = listener.local_addr()?;
        let network = Arc::downgrade(self);
        let connect = move |_| {
            let (network, to) = (network.clone(), to.clone());
            async move {
                let network = network.upgrade().ok_or(io::ErrorKind::NotConnected)?;
                let target = *to.borrow();
                let target = target.ok_or(io::ErrorKind::HostUnreachable)?;
                network.dial(&target.ip().to_string(), target.port()).await
            }
        };
        let task = tokio::spawn(relay::serve_tcp(listener, connect));
        Ok(Forward { address, task })
    }
}
