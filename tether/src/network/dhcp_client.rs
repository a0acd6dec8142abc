//! Getting a lease: discover, offer, request, acknowledge, with retries.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use tether_protocol::config::Cidr;
use tether_sys::net;

use super::dhcp::{Answer, Kind, MAX_MESSAGE, Query};

pub(super) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
/// First wait for an answer, doubled at each retry: right after an interface has come up, the first
/// question is often lost.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Longest wait: a server that comes late is met soon.
const LAST_WAIT: Duration = Duration::from_secs(4);
/// A bridge's port may need half of this to forward.
const GIVE_UP: Duration = Duration::from_secs(60);

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
    /// When its grant was asked for: all times count from here.
    pub since: Instant,
    /// How long until the server is asked for more time (T1).
    pub renew: Duration,
    /// How long until any server is asked (T2).
    pub rebind: Duration,
    /// How long the address may be used; without end where the server set none.
    pub lasts: Option<Duration>,
}

impl Lease {
    /// What `answer` grants to who asked at `since`.
    pub(super) fn granted(answer: Answer, since: Instant) -> Self {
        let seconds = |n: u32| Duration::from_secs(n.into());
        Self {
            address: Cidr {
                ip: answer.address.into(),
                prefix: answer.prefix,
            },
            gateway: answer.gateway,
            dns: answer.dns,
            domain: answer.domain,
            server: answer.server,
            since,
            renew: seconds(answer.renew_seconds),
            rebind: seconds(answer.rebind_seconds),
            lasts: (answer.lease_seconds != u32::MAX).then(|| seconds(answer.lease_seconds)),
        }
    }
}

/// A client's socket on the interface `name`.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn open(name: &str) -> io::Result<UdpSocket> {
    let socket = net::socket(net::Kind::Datagram)?;
    net::set_reuse_address(&socket)?;
    net::set_broadcast(&socket)?;
    net::bind_to_device(&socket, name)?;
    net::bind(&socket, CLIENT)?;
    Ok(UdpSocket::from(socket))
}

/// A number that ties answers to questions.
pub(super) fn transaction(mac: [u8; 6]) -> u32 {
    let seed = std::process::id() ^ crate::clock::now_nanos() as u32;
    u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]) ^ seed
}

/// Gets an address for the interface `name`.
///
/// # Errors
/// When sockets fail, or no server grants an address in time.
pub(super) fn acquire(name: &str, mac: [u8; 6], host_name: &str) -> io::Result<Lease> {
    let socket = open(name)?;
    socket.set_nonblocking(false)?;
    let mut query = Query {
        kind: Kind::Discover,
        transaction: transaction(mac),
        mac,
        current: Ipv4Addr::UNSPECIFIED,
        wanted: None,
        server: None,
        host_name,
    };
    let deadline = Instant::now() + GIVE_UP;
    let mut wait = FIRST_WAIT;
    while Instant::now() < deadline {
        let asked = Instant::now();
        // Right after an interface comes up, sending may fail for a moment.
        let _ = socket.send_to(&query.encode(), SERVER);
        let answer = receive(&socket, &query, wait)?;
        match answer {
            Some(answer) if answer.kind == Kind::Ack => return Ok(Lease::granted(answer, asked)),
            Some(answer) if answer.kind == Kind::Offer => {
                query.kind = Kind::Request;
                query.wanted = Some(answer.address);
                query.server = answer.server;
                continue;
            }
            // Nobody has answered, or the offer does not hold: from the beginning.
            _ => {
                wait = (wait * 2).min(LAST_WAIT);
                query.kind = Kind::Discover;
                query.wanted = None;
                query.server = None;
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Waits for an answer to `query`. A server that was slow offers once for each time that it was asked:
/// a second offer does not count, a late grant does.
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
                let fits = |kind| match query.kind {
                    Kind::Discover => matches!(kind, Kind::Offer | Kind::Ack),
                    _ => matches!(kind, Kind::Ack | Kind::Nak),
                };
                if let Some(answer) = answer.filter(|answer| fits(answer.kind)) {
                    return Ok(Some(answer));
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
