//! DNS for "VM Network": answers the host's names, and forwards the rest to the host's resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::HOST_NAMES;

/// How long a resolver may take before the next one is asked.
const DEADLINE: Duration = Duration::from_secs(3);
/// Queries at a time.
const MAX_QUERIES: usize = 256;
/// Size of a message's header.
const HEADER: usize = 12;
/// Longest name in a question.
const MAX_NAME: usize = 255;
/// Seconds that an answer about the host may be kept.
const TTL: u32 = 60;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;

/// What is known here.
#[derive(Clone, Debug)]
pub(super) struct Names {
    host: Ipv4Addr,
}

/// The question of a query.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    kind: u16,
    class: u16,
    /// Where the question ends in the message.
    end: usize,
}

impl Names {
    pub(super) fn new(host: Ipv4Addr) -> Self {
        Self { host }
    }

    /// Answers what is known here; `None` must be forwarded.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        if !HOST_NAMES
            .iter()
            .any(|n| n.eq_ignore_ascii_case(&question.name))
        {
            return None;
        }
        let mut reply = reply(query, question.end, NO_ERROR)?;
        if (question.kind, question.class) == (TYPE_A, CLASS_IN) {
            reply[7] = 1;
            reply.extend_from_slice(&[0xc0, HEADER as u8]);
            reply.extend_from_slice(&TYPE_A.to_be_bytes());
            reply.extend_from_slice(&CLASS_IN.to_be_bytes());
            reply.extend_from_slice(&TTL.to_be_bytes());
            reply.extend_from_slice(&4u16.to_be_bytes());
            reply.extend_from_slice(&self.host.octets());
        }
        Some(reply)
    }
}

impl Question {
    fn parse(query: &[u8]) -> Option<Self> {
        let is_query = query.get(2)? & 0x80 == 0;
        let questions = u16::from_be_bytes(query.get(4..6)?.try_into().ok()?);
        if !is_query || questions != 1 {
            return None;
        }
        let (mut at, mut name) = (HEADER, String::new());
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // A compressed name has no place in a question.
            let label = query.get(at..at + length).filter(|_| length < 64)?;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(label));
            at += length;
            if name.len() > MAX_NAME {
                return None;
            }
        }
        let word = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?))
        };
        Some(Self {
            name,
            kind: word(at)?,
            class: word(at + 2)?,
            end: at + 4,
        })
    }
}

/// Starts a reply: header and question of the query.
fn reply(query: &[u8], end: usize, code: u8) -> Option<Vec<u8>> {
    let mut reply = query.get(..end)?.to_vec();
    reply[2] = 0x80 | (query[2] & 0x01); // response, recursion desired as asked
    reply[3] = 0x80 | code; // recursion available
    reply[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(reply)
}

fn failure(query: &[u8]) -> Option<Vec<u8>> {
    reply(query, Question::parse(query)?.end, SERVER_FAILURE)
}

/// The host's resolvers, read anew for each query: they change with the laptop's network.
fn resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse_resolvers(&text)
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// Serves datagrams until the task is dropped.
pub(super) async fn serve_udp(socket: UdpSocket, names: Names) {
    let socket = Arc::new(socket);
    let mut queries = JoinSet::new();
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        while queries.try_join_next().is_some() {}
        if queries.len() >= MAX_QUERIES {
            continue;
        }
        let query = buffer[..length].to_vec();
        let (socket, names) = (socket.clone(), names.clone());
        queries.spawn(async move {
            let answer = match names.answer(&query) {
                Some(answer) => Some(answer),
                None => ask_udp(&query).await.or_else(|| failure(&query)),
            };
            if let Some(answer) = answer {
                // The guest asks again when this is lost.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn ask_udp(query: &[u8]) -> Option<Vec<u8>> {
    for resolver in resolvers() {
        let ask = async {
            let any: SocketAddr = match resolver {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(resolver).await?;
            socket.send(query).await?;
            let mut buffer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut buffer).await?;
                // Another transaction's number: not ours.
                if length >= HEADER && buffer[..2] == query[..2] {
                    buffer.truncate(length);
                    return io::Result::Ok(buffer);
                }
            }
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(DEADLINE, ask).await {
            return Some(answer);
        }
    }
    None
}

/// Serves connections until the task is dropped.
pub(super) async fn serve_tcp(listener: TcpListener, names: Names) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_QUERIES {
            continue;
        }
        let names = names.clone();
        connections.spawn(async move {
            // Ends with the guest's end of the connection.
            let _ = connection(stream, names).await;
        });
    }
}

async fn connection(mut stream: TcpStream, names: Names) -> io::Result<()> {
    loop {
        let query = read_message(&mut stream).await?;
        let answer = match names.answer(&query) {
            Some(answer) => Some(answer),
            None => ask_tcp(&query).await.or_else(|| failure(&query)),
        };
        let Some(answer) = answer else { return Ok(()) };
        write_message(&mut stream, &answer).await?;
    }
}

async fn ask_tcp(query: &[u8]) -> Option<Vec<u8>> {
    for resolver in resolvers() {
        let ask = async {
            let mut stream = TcpStream::connect(resolver).await?;
            write_message(&mut stream, query).await?;
            read_message(&mut stream).await
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(DEADLINE, ask).await {
            return Some(answer);
        }
    }
    None
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

/// Reads bytes as a query; for fuzzing. Must not panic.
pub(super) fn fuzz(bytes: &[u8], config: &super::Config) {
    let _ = Names::new(config.gateway()).answer(bytes);
    let _ = failure(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.push(0);
        query.extend_from_slice(&kind.to_be_bytes());
        query.extend_from_slice(&CLASS_IN.to_be_bytes());
        query
    }

    #[test]
    fn the_hosts_names_are_answered_here_and_others_forwarded() {
        let names = Names::new(Ipv4Addr::new(10, 1, 1, 1));
        let answer = names
            .answer(&query("Host.Docker.Internal", TYPE_A))
            .unwrap();
        assert_eq!(answer[..2], [0x12, 0x34]);
        assert_eq!(answer[answer.len() - 4..], [10, 1, 1, 1]);
        // No IPv6 address, but the name is there.
        let answer = names.answer(&query("host.internal", 28)).unwrap();
        assert_eq!((answer[3] & 15, answer[7]), (NO_ERROR, 0));
        assert_eq!(names.answer(&query("example.org", TYPE_A)), None);
        assert_eq!(
            failure(&query("example.org", TYPE_A)).unwrap()[3] & 15,
            SERVER_FAILURE
        );
    }

    #[test]
    fn resolvers_are_read_as_libc_reads_them() {
        let text = "# x\nnameserver 1.2.3.4\nsearch a b\nnameserver ::1\nnameserver nonsense\n";
        let found = parse_resolvers(text);
        assert_eq!(
            found,
            ["1.2.3.4:53".parse().unwrap(), "[::1]:53".parse().unwrap()]
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let names = Names::new(Ipv4Addr::LOCALHOST);
            let _ = names.answer(&bytes);
            let _ = failure(&bytes);
        }
    }
}
