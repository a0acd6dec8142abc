//! The VM's network: addresses by configuration and by DHCP, and what the link does with streams.

use tether_protocol::config::{NetworkEndpoint, Session};
use tether_protocol::rpci::{Command, info};
use tether_protocol::session::{Message, PRIMARY, Stream, WINDOW};

use crate::machine::{Builder, Machine};

#[test]
fn the_network_is_set_up_and_reported() {
    let endpoint = NetworkEndpoint {
        address: "172.16.0.2/16".parse().ok(),
        gateway: "172.16.0.1".parse().ok(),
        ..Default::default()
    };
    let mut vm = Builder::new(&[
        "sh",
        "-c",
        "ip addr show eth0; ip route; cat /etc/hosts /etc/resolv.conf; read x",
    ])
    .session(|s| s.open_stdin = true)
    .network(endpoint)
    .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "nameserver 172.16.0.1\n");
    let out = vm.output(PRIMARY, Stream::Stdout);
    assert!(
        out.contains("172.16.0.2/16") && out.contains("default via 172.16.0.1"),
        "{out}"
    );
    assert!(out.contains("172.16.0.2\tc0ffee000000\n"), "{out}");
    assert_eq!(vm.variable("guestinfo.ip"), "172.16.0.2");
    let told = vm.told();
    let nics = told.iter().find_map(|command| match command {
        Command::SetGuestInfo {
            kind: info::NIC_V3,
            data,
        } => tether_protocol::nicinfo::NicInfo::decode(data).ok(),
        _ => None,
    });
    assert_eq!(
        nics.unwrap().nics[0].addresses[0].to_string(),
        "172.16.0.2/16"
    );
    vm.type_in(PRIMARY, b"\n");
    vm.exit_of(PRIMARY);
    vm.off();
}

/// The NICs as the guest told them last.
fn told_addresses(vm: &Machine) -> Vec<String> {
    let told = vm.told();
    let nics = told.iter().rev().find_map(|command| match command {
        Command::SetGuestInfo {
            kind: info::NIC_V3,
            data,
        } => tether_protocol::nicinfo::NicInfo::decode(data).ok(),
        _ => None,
    });
    let nics = nics.map_or(Vec::new(), |info| info.nics);
    nics.iter()
        .flat_map(|nic| nic.addresses.iter().map(ToString::to_string))
        .collect()
}

#[test]
fn an_address_from_dhcp_is_renewed_and_replaced_when_its_server_forgets_it() {
    let script = "while read x; do ip addr show eth0; ip route; cat /etc/hosts /etc/resolv.conf; \
        echo done $x; done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| s.open_stdin = true)
        .network(NetworkEndpoint::default())
        .boot();
    let server = vm.dhcp_server(("10.9.0.50", "10.9.0.59"), 4);
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.type_in(PRIMARY, b"first\n");
    vm.until(PRIMARY, "done first\n");
    let out = vm.output(PRIMARY, Stream::Stdout);
    for wanted in [
        "inet 10.9.0.5",
        "/24",
        "default via 10.9.0.1",
        "\tc0ffee000000\n",
        "nameserver 10.9.0.3\nsearch lab.example\n",
    ] {
        assert!(out.contains(wanted), "no {wanted:?} in {out}");
    }
    let first = vm.variable("guestinfo.ip");
    assert!(first.starts_with("10.9.0.5"), "{first}");
    assert_eq!(told_addresses(&vm), [format!("{first}/24")]);
    assert_eq!(
        vm.variable("guestinfo.vice..networks|0.assigned.IP"),
        format!("{first}/24")
    );
    // Two renewals, which is longer than the lease would have lasted.
    server.until_grants(3);
    assert_eq!(vm.variable("guestinfo.ip"), first);
    drop(server);
    // Another server, which does not know the address and has none of its network.
    let server = vm.dhcp_server(("10.9.0.70", "10.9.0.79"), 600);
    vm.until_variable_fits("guestinfo.ip", |ip| ip.starts_with("10.9.0.7"));
    server.until_grants(1);
    vm.type_in(PRIMARY, b"second\n");
    vm.until(PRIMARY, "done second\n");
    let out = vm.output(PRIMARY, Stream::Stdout);
    let (_, out) = out.split_once("done first\n").unwrap();
    let second = vm.variable("guestinfo.ip");
    assert!(out.contains(&format!("inet {second}/24")), "{out}");
    assert!(!out.contains(&first), "{out}");
    assert!(out.contains("default via 10.9.0.1"), "{out}");
    assert!(out.contains(&format!("{second}\tc0ffee000000\n")), "{out}");
    vm.send(Message::CloseStdin { process: PRIMARY });
    assert_eq!(vm.exit_of(PRIMARY), 0);
    vm.off();
}

#[test]
fn a_slow_reader_stops_its_own_stream_and_no_other() {
    const MUCH: usize = 8 << 20;
    let mut vm = Builder::new(&["cat"])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    let args = ["dd", "if=/dev/zero", "bs=65536", "count=128"];
    vm.hold(2, Stream::Stdout);
    vm.send(Message::Exec {
        process: 2,
        id: "slow".into(),
        spec: Session {
            args: args.map(str::to_owned).to_vec(),
            ..Default::default()
        },
    });
    vm.subscribe(2);
    // The window fills, and then nothing more comes of this stream, while others go on.
    vm.type_in(PRIMARY, b"first\n");
    vm.until(PRIMARY, "first\n");
    while vm.held(2, Stream::Stdout) < WINDOW {
        vm.read();
    }
    for i in 0..200 {
        let line = format!("line {i}\n");
        vm.type_in(PRIMARY, line.as_bytes());
        vm.until(PRIMARY, &line);
    }
    assert_eq!(vm.held(2, Stream::Stdout), WINDOW);
    // It waits, and has not been given up.
    let exited = |m: &Message| matches!(m, Message::Exited { process: 2, .. });
    assert!(!vm.messages.iter().any(exited));
    vm.let_go(2, Stream::Stdout);
    assert_eq!(vm.exit_of(2), 0);
    assert_eq!(vm.output(2, Stream::Stdout).len(), MUCH);
    vm.send(Message::CloseStdin { process: PRIMARY });
    assert_eq!(vm.exit_of(PRIMARY), 0);
    vm.off();
}
