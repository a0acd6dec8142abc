//! The services of "VM Network": DHCP, DNS, the way out, and the host's named ports.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tether_sys::net::{self, Kind};
use tether_sys::netlink::{Netlink, Route};
use tokio::net::{TcpStream, UdpSocket};

use super::{Network, dhcp, dns, relay};

/// Bridge of "VM Network", which is always made first.
const BRIDGE: &str = "pg0";
/// Firewall mark of packets that go to the relay, and the table that delivers them locally.
const MARK: u32 = 1;
const TABLE: u8 = 100;

/// Starts everything.
pub(super) async fn start(network: &Arc<Network>) -> io::Result<()> {
    let gateway = network.config().gateway();

    let socket = udp(
        network,
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67),
        Some(BRIDGE),
    )
    .await?;
    network.keep(dhcp::serve(socket, network.leases.clone()));

    let names = dns::Names::new(gateway);
    let address = SocketAddrV4::new(gateway, 53);
    network.keep(dns::serve_udp(
        udp(network, address, None).await?,
        names.clone(),
    ));
    network.keep(dns::serve_tcp(network.listen(address).await?, names));

    for port in network.config().host_ports.clone() {
        let listener = network.listen(SocketAddrV4::new(gateway, port)).await?;
        network.keep(async move {
            relay::serve_tcp(listener, move |_| async move {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
            })
            .await;
        });
    }
    if network.config().outward {
        outward(network).await?;
    }
    Ok(())
}

async fn udp(
    network: &Network,
    address: SocketAddrV4,
    device: Option<&'static str>,
) -> io::Result<UdpSocket> {
    let fd = network
        .inside(move || {
            let socket = net::socket(Kind::Datagram)?;
            if let Some(device) = device {
                net::set_reuse_address(&socket)?;
                net::set_broadcast(&socket)?;
                net::bind_to_device(&socket, device)?;
            }
            net::bind(&socket, address)?;
            Ok(socket)
        })
        .await?;
    UdpSocket::from_std(std::net::UdpSocket::from(fd))
}

/// Hands what guests send to the world to our relays.
async fn outward(network: &Arc<Network>) -> io::Result<()> {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let (tcp, udp) = network
        .inside(move || -> io::Result<(OwnedFd, OwnedFd)> {
            let tcp = net::socket(Kind::Stream)?;
            net::set_transparent(&tcp)?;
            net::bind(&tcp, any)?;
            net::listen(&tcp, 1024)?;
            let udp = net::socket(Kind::Datagram)?;
            net::set_transparent(&udp)?;
            net::set_receive_original_destination(&udp)?;
            net::bind(&udp, any)?;
            Ok((tcp, udp))
        })
        .await?;
    let tcp = tokio::net::TcpListener::from_std(std::net::TcpListener::from(tcp))?;
    let udp = UdpSocket::from_std(std::net::UdpSocket::from(udp))?;
    let rules = rules(tcp.local_addr()?.port(), udp.local_addr()?.port());
    network
        .inside(move || {
            nft(&rules)?;
            let mut netlink = Netlink::open()?;
            netlink.add_mark_rule(MARK, TABLE)?;
            let lo = netlink.index("lo")?;
            let route = Route {
                local: true,
                table: u32::from(TABLE),
                index: Some(lo),
                ..Route::default()
            };
            netlink.add_route(&route)
        })
        .await?;
    network.keep(relay::serve_tcp(tcp, |destination| async move {
        relay::check(*destination.ip())?;
        TcpStream::connect(destination).await
    }));
    let weak = Arc::downgrade(network);
    network.keep(relay::serve_udp(udp, weak));
    Ok(())
}

/// What comes in from "VM Network" for another machine goes to the relays' sockets.
fn rules(tcp: u16, udp: u16) -> serde_json::Value {
    let rule = |expr: serde_json::Value| json!({"add": {"rule": {"family": "ip", "table": "vic", "chain": "outward", "expr": expr}}});
    let address_type = |kind: &str| {
        json!({"match": {
            "op": "==",
            "left": {"fib": {"result": "type", "flags": ["daddr"]}},
            "right": kind,
        }})
    };
    let proxy = |protocol: &str, port: u16| {
        rule(json!([
            {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": protocol}},
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": MARK}},
            {"tproxy": {"addr": "127.0.0.1", "port": port}},
            {"accept": null},
        ]))
    };
    json!({"nftables": [
        {"add": {"table": {"family": "ip", "name": "vic"}}},
        {"add": {"chain": {
            "family": "ip", "table": "vic", "name": "outward",
            "type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept",
        }}},
        rule(json!([
            {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": BRIDGE}},
            {"accept": null},
        ])),
        rule(json!([address_type("local"), {"accept": null}])),
        rule(json!([address_type("broadcast"), {"accept": null}])),
        rule(json!([address_type("multicast"), {"accept": null}])),
        proxy("tcp", tcp),
        proxy("udp", udp),
    ]})
}

/// Runs nft in the calling thread's namespace.
fn nft(rules: &serde_json::Value) -> io::Result<()> {
    let mut child = Command::new("nft")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("nft (package nftables): {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("nft: {}", text.trim())))
}

/// Makes a datagram socket that sends as `from`, an address of the world, to a guest.
pub(super) async fn answering(
    network: &Network,
    from: SocketAddrV4,
    to: SocketAddrV4,
) -> io::Result<UdpSocket> {
    let fd = network
        .inside(move || {
            let socket = net::socket(Kind::Datagram)?;
            net::set_transparent(socket.as_fd())?;
            net::set_reuse_address(&socket)?;
            net::bind(&socket, from)?;
            net::connect(&socket, to)?;
            Ok(socket)
        })
        .await?;
    UdpSocket::from_std(std::net::UdpSocket::from(fd))
}
