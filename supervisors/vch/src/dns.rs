//! Name service of the default bridge: passes questions on to the appliance's own servers.
//!
//! The default bridge has no names of containers; what is asked at the gateway is answered by whoever answers the
//! appliance. Nothing is parsed but the number of a question.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// How long a server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Questions under way at a time; more are dropped, and asked again by their resolvers.
const AT_A_TIME: usize = 256;

/// Serves on the bridge's gateway address until the program ends.
pub async fn serve(gateway: Ipv4Addr) {
    let address = SocketAddr::from((gateway, 53));
    let udp = match UdpSocket::bind(address).await {
        Ok(socket) => Arc::new(socket),
        Err(why) => {
            tracing::warn!(%address, %why, "no name service for containers");
            return;
        }
    };
    if let Ok(listener) = TcpListener::bind(address).await {
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client));
            }
        });
    }
    let places = Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = udp.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (question, socket) = (buffer[..length].to_vec(), udp.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Some(answer) = ask(&question).await {
                // The client asks again if this is lost.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn ask(question: &[u8]) -> Option<Vec<u8>> {
    let number = question.get(..2)?;
    for server in servers() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
        if socket.connect((server, 53)).await.is_err() || socket.send(question).await.is_err() {
            continue;
        }
        let mut answer = vec![0; 4096];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        if let Ok(Ok(length)) = received
            && answer.get(..2) == Some(number)
        {
            answer.truncate(length);
            return Some(answer);
        }
    }
    None
}

async fn relay(mut client: TcpStream) {
    for server in servers() {
        if let Ok(Ok(mut upstream)) =
            tokio::time::timeout(PATIENCE, TcpStream::connect((server, 53))).await
        {
            let both = tokio::io::copy_bidirectional(&mut client, &mut upstream);
            // Either side may end it.
            let _ = tokio::time::timeout(PATIENCE * 10, both).await;
            return;
        }
    }
    let _ = client.shutdown().await;
}

/// The appliance's own servers, read at each question: DHCP may change them.
fn servers() -> Vec<IpAddr> {
    parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# x\nsearch a\nnameserver 10.0.0.1\n nameserver\t::1\nnameserver bad\n";
        assert_eq!(
            parse(text),
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
    }
}
