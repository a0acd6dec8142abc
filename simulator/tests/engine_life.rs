//! Guests boot, talk, end, and leave nothing behind.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "engine/bench.rs"]
mod bench;

use std::os::unix::fs::MetadataExt;

use bench::{DEADLINE, World, can_run, spec};
use simulator::engine::{
    DiskSlot, DiskSpec, GuestEngine, GuestEvent, NicSpec, PowerOffCause, SerialBacking, SerialSpec,
};
use simulator::network::VM_NETWORK;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_guest_runs_its_script_and_powers_off() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let script =
        "mount proc proc /proc\nls /proc/1/root\nread /proc/1/comm\nread /dev/zero\npoweroff";
    let mut vm = world.boot(spec("life-1"), script).await;
    assert_eq!(vm.wait_for("guestinfo.vice..out.0").await, "ok");
    assert_eq!(
        vm.wait_for("guestinfo.vice..out.1").await,
        "ls dev etc init mnt proc run sys tmp"
    );
    assert_eq!(vm.wait_for("guestinfo.vice..out.2").await, "read init");
    assert_eq!(
        vm.ended().await,
        GuestEvent::PoweredOff(PowerOffCause::PoweredOff)
    );
    world.engine.shutdown().await;
}

#[tokio::test]
async fn exit_reboot_and_kill_are_told_apart() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let mut exits = world.boot(spec("end-1"), "exit 7").await;
    let mut reboots = world.boot(spec("end-2"), "reboot").await;
    let mut killed = world.boot(spec("end-3"), "").await;
    assert_eq!(
        exits.ended().await,
        GuestEvent::PoweredOff(PowerOffCause::Exited(7))
    );
    assert_eq!(reboots.ended().await, GuestEvent::RebootRequested);
    let _ = killed.outcomes().await;
    killed.on.guest.kill().await;
    assert_eq!(
        killed.ended().await,
        GuestEvent::PoweredOff(PowerOffCause::Killed)
    );
    world.engine.shutdown().await;
}

#[tokio::test]
async fn the_hosts_commands_reach_the_guests_agent() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let mut vm = world.boot(spec("tclo-1"), "tclo").await;
    let _ = vm.outcomes().await;
    let ping = async {
        loop {
            if let Ok(reply) = vm.on.guest.tclo("ping".into()).await {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, ping).await.unwrap(), "OK ");
    assert_eq!(vm.on.guest.tclo("OS_Halt".into()).await.unwrap(), "OK ");
    assert_eq!(
        vm.ended().await,
        GuestEvent::PoweredOff(PowerOffCause::PoweredOff)
    );
    world.engine.shutdown().await;
}

#[tokio::test]
async fn disks_come_and_go_while_the_guest_runs() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let image = |name: &str| {
        let path = world.dir.path().join(format!("{name}.img"));
        let mut content = format!("{name:-<16}").into_bytes();
        content.resize(1 << 20, 0);
        std::fs::write(&path, content).unwrap();
        path
    };
    let disk = |unit, vmdk| DiskSpec {
        slot: DiskSlot { bus: 0, unit },
        vmdk,
        read_only: false,
    };
    let spec = simulator::engine::PowerOnSpec {
        disks: vec![disk(0, image("first"))],
        ..spec("disk-1")
    };
    let script = "read /dev/disk/by-slot/0:0\nwait-for /dev/disk/by-slot/0:1\n\
                  read /dev/disk/by-slot/0:1\nwrite /dev/disk/by-slot/0:1 changed\n\
                  wait-gone /dev/disk/by-slot/0:1\nread /dev/disk/by-slot/0:0";
    let mut vm = world.boot(spec, script).await;
    assert_eq!(
        vm.wait_for("guestinfo.vice..out.0").await,
        "read first-----------"
    );
    let second = image("second");
    vm.on
        .guest
        .attach_disk(disk(1, second.clone()))
        .await
        .unwrap();
    assert!(
        vm.on
            .guest
            .attach_disk(disk(1, second.clone()))
            .await
            .is_err()
    );
    assert_eq!(
        vm.wait_for("guestinfo.vice..out.2").await,
        "read second----------"
    );
    assert_eq!(vm.wait_for("guestinfo.vice..out.3").await, "ok");
    vm.on
        .guest
        .detach_disk(DiskSlot { bus: 0, unit: 1 })
        .await
        .unwrap();
    assert!(std::fs::read(&second).unwrap().starts_with(b"changed"));
    assert_eq!(
        vm.wait_for("guestinfo.vice..out.5").await,
        "read first-----------"
    );
    vm.on.guest.kill().await;
    world.engine.shutdown().await;
}

#[tokio::test]
async fn a_serial_port_dials_again_when_its_line_is_cut() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let address = std::net::SocketAddrV4::new(world.network.config().management(), 2377);
    let listener = world.network.listen(address).await.unwrap();
    let serial = SerialSpec {
        index: 0,
        backing: SerialBacking::TcpClient {
            host: address.ip().to_string(),
            port: 2377,
        },
        connected: true,
    };
    let log = world.dir.path().join("serial.log");
    let file = SerialSpec {
        index: 1,
        backing: SerialBacking::File(log.clone()),
        connected: true,
    };
    let spec = simulator::engine::PowerOnSpec {
        serials: vec![serial.clone(), file],
        ..spec("serial-1")
    };
    let mut vm = world
        .boot(
            spec,
            "echo ttyS0\nappend /dev/ttyS1 one\nappend /dev/ttyS1 two",
        )
        .await;
    for round in 0..3 {
        let (mut line, _) = tokio::time::timeout(DEADLINE, listener.accept())
            .await
            .unwrap()
            .unwrap();
        line.write_all(format!("hello {round}").as_bytes())
            .await
            .unwrap();
        let mut answer = [0; 7];
        tokio::time::timeout(DEADLINE, line.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, format!("HELLO {round}").as_bytes());
        if round == 1 {
            // The cut may also come from vSphere.
            let unplugged = SerialSpec {
                connected: false,
                ..serial.clone()
            };
            vm.on.guest.set_serial(unplugged).await.unwrap();
            assert_eq!(line.read(&mut answer).await.unwrap_or(0), 0);
            vm.on.guest.set_serial(serial.clone()).await.unwrap();
        }
    }
    assert_eq!(vm.outcomes().await, ["ok", "ok", "ok"]);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo\n");
    world.engine.shutdown().await;
}

#[tokio::test]
async fn two_guests_meet_on_a_port_group_and_not_across_two() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let nic = |last: u8, network: &str| NicSpec {
        key: 4000,
        mac: [0, 0x50, 0x56, 0, 0, last],
        network: network.to_owned(),
        connected: true,
    };
    let with = |name: &str, nics| simulator::engine::PowerOnSpec { nics, ..spec(name) };
    let mut first = world
        .boot(
            with("net-1", vec![nic(1, "bridge")]),
            "address eth0 10.1.0.1 24\nls /dev/disk",
        )
        .await;
    assert_eq!(first.outcomes().await[0], "mac 00:50:56:00:00:01");
    let script = "address eth0 10.1.0.2 24\nfetch 10.1.0.1:9";
    let mut same = world
        .boot(with("net-2", vec![nic(2, "bridge")]), script)
        .await;
    let mut other = world
        .boot(with("net-3", vec![nic(3, "elsewhere")]), script)
        .await;
    // Refused: the other guest's kernel answered. On another port group nobody does.
    assert_eq!(same.outcomes().await[1], "ECONNREFUSED");
    assert_eq!(other.outcomes().await[1], "errno 113");
    world.engine.shutdown().await;
}

#[tokio::test]
async fn vm_network_has_addresses_names_and_a_way_out_and_only_named_host_ports() {
    if !can_run() {
        return;
    }
    let serve = |listener: std::net::TcpListener, text: &'static str| {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut &stream, text.as_bytes());
            }
        });
    };
    let named = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hidden = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (named_port, hidden_port) = (
        named.local_addr().unwrap().port(),
        hidden.local_addr().unwrap().port(),
    );
    serve(named, "named");
    serve(hidden, "hidden");

    let config = simulator::network::Config {
        host_ports: vec![named_port],
        ..Default::default()
    };
    let world = World::with(config, Default::default()).await;
    let (gateway, management) = (
        world.network.config().gateway(),
        world.network.config().management(),
    );
    let api = world
        .network
        .listen(std::net::SocketAddrV4::new(management, 443))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = api.accept().await {
            let _ = stream.write_all(b"api").await;
        }
    });
    // The world, as seen from here: a namespace with an address of its own would be better, but the
    // relay connects from the host's; an address of the host that is not loopback stands for it.
    let mac = [0, 0x50, 0x56, 9, 9, 9];
    let nic = NicSpec {
        key: 4000,
        mac,
        network: VM_NETWORK.into(),
        connected: true,
    };
    let spec = simulator::engine::PowerOnSpec {
        nics: vec![nic],
        ..spec("out-1")
    };
    let mut script = vec![
        "dhcp eth0".to_owned(),
        format!("resolve {gateway} host.docker.internal"),
        format!("fetch {gateway}:{named_port}"),
        format!("fetch {gateway}:{hidden_port}"),
        format!("fetch {management}:443"),
    ];
    let outward = host_address();
    if let Some(ip) = outward {
        let tcp = std::net::TcpListener::bind((ip, 0)).unwrap();
        script.push(format!("fetch {}", tcp.local_addr().unwrap()));
        serve(tcp, "world");
        let udp = std::net::UdpSocket::bind((ip, 0)).unwrap();
        script.push(format!("ask-udp {} ping", udp.local_addr().unwrap()));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..length].to_ascii_uppercase(), from);
            }
        });
    }
    let mut vm = world.boot(spec, &script.join("\n")).await;
    let outcomes = vm.outcomes().await;
    let address = world.network.address_of(mac).unwrap();
    assert_eq!(outcomes[0], format!("{address} via {gateway}"));
    assert_eq!(outcomes[1], gateway.to_string());
    assert_eq!(outcomes[2], "got named");
    assert_eq!(outcomes[3], "ECONNREFUSED");
    assert_eq!(outcomes[4], "got api");
    if outward.is_some() {
        assert_eq!(outcomes[5..], ["got world", "got PING"]);
    }
    world.engine.shutdown().await;
}

fn host_address() -> Option<std::net::Ipv4Addr> {
    let mut netlink = tether_sys::netlink::Netlink::open().ok()?;
    netlink
        .addresses()
        .ok()?
        .into_iter()
        .find_map(|a| match a.ip {
            std::net::IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
            _ => None,
        })
}

#[tokio::test]
async fn guests_live_in_namespaces_of_their_own_and_die_with_the_helper() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let mut vm = world.boot(spec("die-1"), "").await;
    let _ = vm.outcomes().await;
    let pid = vm.on.guest.pid().unwrap();
    for kind in ["pid_for_children", "mnt", "net", "uts", "ipc", "cgroup"] {
        let inode = |who: String| {
            std::fs::metadata(format!("/proc/{who}/ns/{kind}"))
                .unwrap()
                .ino()
        };
        assert_ne!(inode(pid.to_string()), inode("self".into()), "{kind}");
    }
    let guest = tether_sys::process::pidfd_open(pid).unwrap();
    tether_sys::process::kill(world.engine.helper_pid() as i32, 9).unwrap();
    assert_eq!(
        vm.ended().await,
        GuestEvent::PoweredOff(PowerOffCause::Lost)
    );
    let gone = tokio::task::spawn_blocking(move || {
        use std::os::fd::AsFd;
        tether_sys::poll::readable(&[guest.as_fd()], 5000).unwrap()[0]
    });
    assert!(gone.await.unwrap(), "the guest outlived the helper by 5 s");
}
