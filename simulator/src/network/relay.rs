//! Relays: what guests send outward, and back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Network, gateway};

/// How long a UDP flow lives without a datagram.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// UDP flows at a time: each has two sockets.
const MAX_FLOWS: usize = 512;
/// Datagrams that wait for their flow's socket.
const FLOW_QUEUE: usize = 64;
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_536;
/// How long a connection to the world may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Refuses destinations that mean this machine itself, whatever they are called.
pub(super) fn check(destination: Ipv4Addr) -> io::Result<()> {
    if destination.is_loopback() || destination.is_unspecified() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

/// Accepts connections and relays each to what `connect` makes of its local address.
pub(super) async fn serve_tcp<F, C>(listener: TcpListener, connect: C)
where
    C: Fn(SocketAddrV4) -> F + Send + 'static,
    F: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut relays = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while relays.try_join_next().is_some() {}
        let Ok(SocketAddr::V4(destination)) = stream.local_addr() else {
            continue;
        };
        let connecting = connect(destination);
        relays.spawn(async move {
            match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
                Ok(Ok(world)) => copy(stream, world).await,
                // A reset: the nearest thing to a refusal once accept has happened.
                Ok(Err(_)) | Err(_) => {
                    let _ = stream.set_zero_linger();
                }
            }
        });
    }
}

/// Relays both ways with half-close, until both are done. A reset of either is one of the other.
pub(super) async fn copy(mut a: TcpStream, mut b: TcpStream) {
    for stream in [&a, &b] {
        // Only costs latency when it fails.
        let _ = stream.set_nodelay(true);
    }
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, 65_536, 65_536).await;
    if copied.is_err() {
        for stream in [&a, &b] {
            // One of them is closed in order, at worst.
            let _ = stream.set_zero_linger();
        }
    }
}

type Flow = (SocketAddrV4, SocketAddrV4);

/// Takes guests' datagrams to the world, each flow by a socket of its own.
pub(super) async fn serve_udp(socket: UdpSocket, network: Weak<Network>) {
    let mut flows: HashMap<Flow, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let received = socket.async_io(Interest::READABLE, || {
            tether_sys::net::receive_with_destination(&socket, &mut buffer)
        });
        let Ok(datagram) = received.await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while tasks.try_join_next().is_some() {}
        flows.retain(|_, sender| !sender.is_closed());
        if check(*datagram.to.ip()).is_err() {
            continue;
        }
        let bytes = buffer[..datagram.length].to_vec();
        let key = (datagram.from, datagram.to);
        if !flows.contains_key(&key) {
            let Some(network) = network.upgrade() else {
                return;
            };
            if flows.len() >= MAX_FLOWS {
                continue;
            }
            let (sender, receiver) = mpsc::channel(FLOW_QUEUE);
            flows.insert(key, sender);
            tasks.spawn(async move {
                // A flow that cannot be made is dropped, as a router would drop it.
                let _ = flow(network, key, receiver).await;
            });
        }
        if let Some(sender) = flows.get(&key) {
            // A full queue loses the datagram.
            let _ = sender.try_send(bytes);
        }
    }
}

async fn flow(
    network: Arc<Network>,
    (guest, destination): Flow,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let world = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    world.connect(destination).await?;
    let back = gateway::answering(&network, destination, guest).await?;
    drop(network);
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            datagram = outgoing.recv() => match datagram {
                Some(datagram) => { world.send(&datagram).await?; }
                None => return Ok(()),
            },
            received = world.recv(&mut buffer) => {
                let length = received?;
                back.send(&buffer[..length]).await?;
            }
            () = tokio::time::sleep(UDP_IDLE) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_reset_reaches_the_other_side_and_an_end_is_an_end() {
        let (behind, behind_address) = listener().await;
        let (front, address) = listener().await;
        let relay = tokio::spawn(serve_tcp(front, move |_| {
            TcpStream::connect(behind_address)
        }));
        for reset in [true, false] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (mut server, _) = behind.accept().await.unwrap();
            server.write_all(b"begin").await.unwrap();
            let mut read = [0; 5];
            client.read_exact(&mut read).await.unwrap();
            if reset {
                server.set_zero_linger().unwrap();
            }
            drop(server);
            let end = client.read(&mut read).await;
            match (reset, end) {
                (true, Err(why)) => assert_eq!(why.kind(), io::ErrorKind::ConnectionReset),
                (false, Ok(0)) => {}
                (_, other) => panic!("reset: {reset}, {other:?}"),
            }
        }
        relay.abort();
    }
}
