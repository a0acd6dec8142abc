//! DHCP messages: what a client sends, and what it reads of a server's answer (RFC 2131, 2132).

use std::net::Ipv4Addr;

/// Longest message that is read.
pub const MAX_MESSAGE: usize = 1500;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const HEAD: usize = 240;

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is there?
    Discover,
    /// An address is offered.
    Offer,
    /// It is wanted.
    Request,
    /// It is granted.
    Ack,
    /// It is refused.
    Nak,
    /// Anything else.
    Other(u8),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Other(n) => n,
        }
    }
    fn of(number: u8) -> Self {
        match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            5 => Self::Ack,
            6 => Self::Nak,
            n => Self::Other(n),
        }
    }
}

/// What a client says.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// [`Kind::Discover`] or [`Kind::Request`].
    pub kind: Kind,
    /// Ties answers to questions.
    pub transaction: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address in use, when renewing.
    pub current: Ipv4Addr,
    /// Address that was offered.
    pub wanted: Option<Ipv4Addr>,
    /// The server that offered.
    pub server: Option<Ipv4Addr>,
    /// Host name to register.
    pub host_name: &'a str,
}

impl Query<'_> {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD];
        out[..4].copy_from_slice(&[1, 1, 6, 0]); // request, Ethernet, six bytes
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        if self.current.is_unspecified() {
            out[10] = 0x80; // answer by broadcast: there is no address yet
        }
        out[12..16].copy_from_slice(&self.current.octets());
        out[28..34].copy_from_slice(&self.mac);
        out[236..240].copy_from_slice(&COOKIE);
        out.extend_from_slice(&[53, 1, self.kind.number()]);
        for (code, address) in [(50, self.wanted), (54, self.server)] {
            if let Some(address) = address {
                out.extend_from_slice(&[code, 4]);
                out.extend_from_slice(&address.octets());
            }
        }
        let name = &self.host_name.as_bytes()[..self.host_name.len().min(63)];
        if !name.is_empty() {
            out.extend_from_slice(&[12, u8::try_from(name.len()).unwrap_or(63)]);
            out.extend_from_slice(name);
        }
        out.extend_from_slice(&[55, 7, 1, 3, 6, 15, 51, 58, 59]); // wanted: mask, router, DNS, domain, times
        out.push(255);
        out.resize(out.len().max(300), 0);
        out
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Kind.
    pub kind: Kind,
    /// The address.
    pub address: Ipv4Addr,
    /// Length of the network part.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// Seconds that the address is granted for.
    pub lease_seconds: u32,
    /// Seconds until it should be renewed with this server (T1).
    pub renew_seconds: u32,
    /// Seconds until any server should be asked (T2).
    pub rebind_seconds: u32,
}

impl Answer {
    /// Reads an answer to the question `transaction` of the NIC `mac`; `None` for all else.
    pub fn decode(bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Self> {
        let head = bytes.get(..HEAD).filter(|_| bytes.len() <= MAX_MESSAGE)?;
        let ours = head[0] == 2
            && head[4..8] == transaction.to_be_bytes()
            && head[28..34] == mac
            && head[236..240] == COOKIE;
        if !ours {
            return None;
        }
        let mut answer = Self {
            kind: Kind::Other(0),
            address: address(&head[16..20])?,
            prefix: 24,
            gateway: None,
            dns: Vec::new(),
            domain: None,
            server: None,
            lease_seconds: 3600,
            renew_seconds: 0,
            rebind_seconds: 0,
        };
        let mut rest = &bytes[HEAD..];
        while let [code, tail @ ..] = rest {
            match code {
                0 => {
                    rest = tail;
                    continue;
                }
                255 => break,
                _ => {}
            }
            let (length, tail) = tail.split_first()?;
            let (value, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            answer.option(*code, value);
        }
        answer.times();
        Some(answer)
    }

    /// Times that were not told, or make no sense, are those of RFC 2131 §4.4.5.
    fn times(&mut self) {
        let lease = self.lease_seconds;
        if self.rebind_seconds == 0 || self.rebind_seconds > lease {
            self.rebind_seconds = lease - lease / 8;
        }
        if self.renew_seconds == 0 || self.renew_seconds > self.rebind_seconds {
            self.renew_seconds = (lease / 2).min(self.rebind_seconds);
        }
    }

    fn option(&mut self, code: u8, value: &[u8]) {
        match code {
            1 => {
                if let Some(mask) = number(value) {
                    self.prefix = u8::try_from(mask.leading_ones()).unwrap_or(32);
                }
            }
            3 => self.gateway = address(value),
            6 => self.dns = value.chunks_exact(4).take(3).filter_map(address).collect(),
            15 => {
                let text = std::str::from_utf8(value)
                    .unwrap_or_default()
                    .trim_end_matches('\0');
                let sound = text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
                self.domain = (sound && !text.is_empty()).then(|| text.to_owned());
            }
            51 => self.lease_seconds = number(value).unwrap_or(self.lease_seconds),
            53 => self.kind = Kind::of(value.first().copied().unwrap_or(0)),
            54 => self.server = address(value),
            58 => self.renew_seconds = number(value).unwrap_or(0),
            59 => self.rebind_seconds = number(value).unwrap_or(0),
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value
        .first_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0, 0x50, 0x56, 1, 2, 3];

    fn offer(options: &[u8]) -> Vec<u8> {
        let query = Query {
            kind: Kind::Discover,
            transaction: 7,
            mac: MAC,
            current: Ipv4Addr::UNSPECIFIED,
            wanted: None,
            server: None,
            host_name: "h",
        };
        let mut bytes = query.encode();
        bytes.truncate(HEAD);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn an_offer_is_read() {
        let options = [
            53, 1, 2, 1, 4, 255, 255, 0, 0, 3, 4, 10, 0, 2, 2, 0, 6, 4, 10, 0, 2, 3, 54, 4, 10, 0,
            2, 2, 51, 4, 0, 0, 0, 100, 15, 3, b'l', b'a', b'b', 255,
        ];
        let answer = Answer::decode(&offer(&options), 7, MAC).unwrap();
        assert_eq!(answer.kind, Kind::Offer);
        assert_eq!(
            (answer.address, answer.prefix),
            (Ipv4Addr::new(10, 0, 2, 15), 16)
        );
        assert_eq!(answer.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(answer.domain.as_deref(), Some("lab"));
        assert_eq!((answer.lease_seconds, answer.renew_seconds), (100, 50));
        assert_eq!(answer.rebind_seconds, 88);
    }

    #[test]
    fn times_of_a_server_are_taken_where_they_make_sense() {
        let times = |renew: u8, rebind: u8| {
            let options = [
                53, 1, 5, 51, 4, 0, 0, 0, 80, 58, 4, 0, 0, 0, renew, 59, 4, 0, 0, 0, rebind, 255,
            ];
            let answer = Answer::decode(&offer(&options), 7, MAC).unwrap();
            (answer.renew_seconds, answer.rebind_seconds)
        };
        assert_eq!(times(20, 60), (20, 60));
        assert_eq!(times(0, 0), (40, 70));
        assert_eq!(times(90, 100), (40, 70));
        assert_eq!(times(70, 30), (30, 30));
    }

    #[test]
    fn another_clients_answer_is_ignored() {
        assert_eq!(Answer::decode(&offer(&[255]), 8, MAC), None);
    }

    proptest! {
        #[test]
        fn any_options_are_read_or_refused(options: Vec<u8>) {
            let _ = Answer::decode(&offer(&options), 7, MAC);
            let _ = Answer::decode(&options, 7, MAC);
        }
    }
}
