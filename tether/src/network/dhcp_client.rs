//! Getting a lease: discover, offer, request, acknowledge, with retries.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use tether_protocol::config::Cidr;
use tether_sys::net;

use super::dhcp::{Answer, Kind, MAX_MESSAGE, Query};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
/// First wait for an answer, doubled at each retry: right after an interface has come up, the first
/// question is often lost.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// A bridge's port may need this long to forward.
const GIVE_UP: Duration = Duration::from_secs(30);

/// What a DHCP server granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Address.
    pub address: Cidr,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain.
    pub domain: Option<String>,
    /// The server that granted it.
    pub server: Option<Ipv4Addr>,
    /// When to ask for more time.
    pub renew_at: Instant,
}

impl From<Answer> for Lease {
    fn from(answer: Answer) -> Self {
        Self {
            address: Cidr {
                ip: answer.address.into(),
                prefix: answer.prefix,
            },
            gateway: answer.gateway,
            dns: answer.dns,
            domain: answer.domain,
            server: answer.server,
            renew_at: Instant::now() + Duration::from_secs(answer.renew_seconds.max(30).into()),
        }
    }
}

/// Gets an address for the interface `name`.
///
/// # Errors
/// When sockets fail, or no server grants an address in time.
pub(super) fn acquire(name: &str, mac: [u8; 6], host_name: &str) -> io::Result<Lease> {
    let socket = net::socket(net::Kind::Datagram)?;
    net::set_reuse_address(&socket)?;
    net::set_broadcast(&socket)?;
    net::bind_to_device(&socket, name)?;
    net::bind(&socket, CLIENT)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(false)?;
    let seed = std::process::id() ^ crate::clock::now_nanos() as u32;
    let transaction = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]) ^ seed;
    let mut query = Query {
        kind: Kind::Discover,
        transaction,
        mac,
        current: Ipv4Addr::UNSPECIFIED,
        wanted: None,
        server: None,
        host_name,
    };
    let deadline = Instant::now() + GIVE_UP;
    let mut wait = FIRST_WAIT;
    while Instant::now() < deadline {
        // Right after an interface comes up, sending may fail for a moment.
        let _ = socket.send_to(&query.encode(), SERVER);
        let Some(answer) = receive(&socket, &query, wait)? else {
            wait *= 2;
            query.kind = Kind::Discover;
            query.wanted = None;
            query.server = None;
            continue;
        };
        match answer.kind {
            Kind::Offer if query.kind == Kind::Discover => {
                query.kind = Kind::Request;
                query.wanted = Some(answer.address);
                query.server = answer.server;
            }
            Kind::Ack if query.kind == Kind::Request => return Ok(answer.into()),
            _ => {
                query.kind = Kind::Discover;
                query.wanted = None;
                query.server = None;
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn receive(socket: &UdpSocket, query: &Query<'_>, wait: Duration) -> io::Result<Option<Answer>> {
    let deadline = Instant::now() + wait;
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(count) => {
                let answer = Answer::decode(&buffer[..count], query.transaction, query.mac);
                if answer.is_some() {
                    return Ok(answer);
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}
