//! A DHCP server (RFC 2131) for "VM Network": one address per hardware address, for ever.
//!
//! The address follows from the hardware address by a hash, so that a VM keeps its own when the
//! simulator is started again with nothing stored.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::net::UdpSocket;

use super::Config;

/// First host number that is given out; below are the gateway and room for services.
const FIRST: u32 = 16;
/// How long a lease is said to last.
const LEASE_SECONDS: u32 = 86_400;
/// Size of the fixed part of a message, and of the cookie before the options.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// Who has which address.
#[derive(Clone, Debug)]
pub(super) struct Leases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    network: u32,
    mask: u32,
    gateway: Ipv4Addr,
    given: Mutex<HashMap<[u8; 6], Ipv4Addr>>,
}

impl Leases {
    pub(super) fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            network: u32::from(config.base) & config.mask(),
            mask: config.mask(),
            gateway: config.gateway(),
            given: Mutex::default(),
        }))
    }

    /// Returns the address of a hardware address; none when all are given.
    pub(super) fn get(&self, mac: [u8; 6]) -> Option<Ipv4Addr> {
        let mut given = self.0.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ip) = given.get(&mac) {
            return Some(*ip);
        }
        // The last is the broadcast address.
        let room = !self.0.mask - FIRST;
        let digest = Sha256::digest(mac);
        let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let ip = (0..room)
            .map(|step| FIRST + start.wrapping_add(step) % room)
            .map(|host| Ipv4Addr::from(self.0.network | host))
            .find(|ip| !given.values().any(|g| g == ip))?;
        given.insert(mac, ip);
        Some(ip)
    }

    /// Answers a client's message.
    fn answer(&self, message: &[u8]) -> Option<(Vec<u8>, SocketAddrV4)> {
        let request = Request::parse(message)?;
        let ip = self.get(request.mac)?;
        let kind = match request.kind {
            DISCOVER => OFFER,
            REQUEST if request.server.is_some_and(|s| s != self.0.gateway) => return None,
            REQUEST if request.wanted.is_some_and(|w| w != ip) => NAK,
            REQUEST | INFORM => ACK,
            _ => return None,
        };
        let mut reply = vec![0; FIXED];
        reply[0] = 2; // reply
        reply[1..3].copy_from_slice(&[1, 6]); // Ethernet
        reply[4..8].copy_from_slice(&message[4..8]); // transaction
        reply[10..12].copy_from_slice(&message[10..12]); // flags
        if kind != NAK && request.kind != INFORM {
            reply[16..20].copy_from_slice(&ip.octets());
        }
        reply[20..24].copy_from_slice(&self.0.gateway.octets());
        reply[28..34].copy_from_slice(&request.mac);
        reply.extend_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            reply.push(code);
            reply.push(value.len() as u8);
            reply.extend_from_slice(value);
        };
        option(53, &[kind]);
        option(54, &self.0.gateway.octets());
        if kind != NAK {
            option(51, &LEASE_SECONDS.to_be_bytes());
            option(1, &self.0.mask.to_be_bytes());
            option(3, &self.0.gateway.octets());
            option(6, &self.0.gateway.octets());
            option(28, &(self.0.network | !self.0.mask).to_be_bytes());
        }
        reply.push(255);
        reply.resize(reply.len().max(300), 0);
        // A client without an address hears broadcasts only.
        let to = match request.client {
            Some(client) if kind == ACK => client,
            _ => Ipv4Addr::BROADCAST,
        };
        Some((reply, SocketAddrV4::new(to, 68)))
    }
}

/// What is read of a client's message.
struct Request {
    kind: u8,
    mac: [u8; 6],
    client: Option<Ipv4Addr>,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(bytes)).filter(|ip| !ip.is_unspecified())
}

impl Request {
    fn parse(message: &[u8]) -> Option<Self> {
        let ethernet = message.get(..3)? == [1, 1, 6];
        if !ethernet || message.get(FIXED..FIXED + 4)? != COOKIE {
            return None;
        }
        let client = address(&message[12..16]);
        let mut request = Self {
            kind: 0,
            mac: message[28..34].try_into().ok()?,
            client,
            wanted: client,
            server: None,
        };
        let mut rest = &message[FIXED + 4..];
        while let Some((&code, after)) = rest.split_first() {
            match code {
                0 => rest = after,
                255 => break,
                _ => {
                    let length = usize::from(*after.first()?);
                    let value = after.get(1..1 + length)?;
                    match code {
                        53 => request.kind = *value.first()?,
                        50 => request.wanted = address(value),
                        54 => request.server = address(value),
                        _ => {}
                    }
                    rest = &after[1 + length..];
                }
            }
        }
        Some(request)
    }
}

/// Reads bytes as a client's message; for fuzzing. Must not panic.
pub(super) fn fuzz(bytes: &[u8], config: &Config) {
    let _ = Leases::new(config).answer(bytes);
}

/// Serves until the task is dropped.
pub(super) async fn serve(socket: UdpSocket, leases: Leases) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let SocketAddr::V4(_) = from else { continue };
        if let Some((reply, to)) = leases.answer(&buffer[..length])
            && let Err(error) = socket.send_to(&reply, to).await
        {
            tracing::debug!(%error, "a DHCP reply could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, mac: [u8; 6], wanted: Option<Ipv4Addr>) -> Vec<u8> {
        let mut message = vec![0; FIXED];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[28..34].copy_from_slice(&mac);
        message.extend_from_slice(&COOKIE);
        message.extend_from_slice(&[53, 1, kind]);
        if let Some(ip) = wanted {
            message.extend_from_slice(&[50, 4]);
            message.extend_from_slice(&ip.octets());
        }
        message.push(255);
        message
    }

    #[test]
    fn a_client_gets_the_same_address_at_every_start() {
        let mac = [0, 0x50, 0x56, 1, 2, 3];
        let first = Leases::new(&Config::default());
        let (offer, to) = first.answer(&message(DISCOVER, mac, None)).unwrap();
        let ip = address(&offer[16..20]).unwrap();
        assert_eq!(to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        let second = Leases::new(&Config::default());
        let (ack, _) = second.answer(&message(REQUEST, mac, Some(ip))).unwrap();
        assert_eq!(ack[FIXED + 4..FIXED + 7], [53, 1, ACK]);
        assert_eq!(address(&ack[16..20]), Some(ip));
    }

    #[test]
    fn an_address_of_another_is_refused() {
        let leases = Leases::new(&Config::default());
        let other = leases.get([2; 6]).unwrap();
        let (nak, _) = leases
            .answer(&message(REQUEST, [1; 6], Some(other)))
            .unwrap();
        assert_eq!(nak[FIXED + 4..FIXED + 7], [53, 1, NAK]);
    }

    #[test]
    fn no_two_clients_share_an_address_until_all_are_given() {
        let config = Config {
            prefix: 27,
            ..Config::default()
        };
        let leases = Leases::new(&config);
        let given: Vec<_> = (0..15u8).map(|n| leases.get([n; 6]).unwrap()).collect();
        let mut unique = given.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), given.len());
        assert_eq!(leases.get([99; 6]), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Leases::new(&Config::default()).answer(&bytes);
        }

        #[test]
        fn foreign_options_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut all = message(DISCOVER, [1; 6], None);
            all.pop();
            all.extend(bytes);
            let _ = Leases::new(&Config::default()).answer(&all);
        }
    }
}
