//! Ways out of a guest, tried as its PID 1 (the most that a guest can be), against each wall.
//!
//! With the feature `break-walls` one wall at a time is taken away, and the matrix of escape × wall
//! is printed: every wall must have an escape that nothing else stops.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "engine/bench.rs"]
mod bench;

use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;

use bench::{World, can_run, spec};
use simulator::engine::namespace::walls::Walls;
use simulator::engine::{DiskSlot, DiskSpec, GuestEngine, PowerOnSpec};

/// What the victims hold.
const SECRET: &str = "victim-content--";

/// An attempt: what the guest does, and how the last command's outcome tells that it got out.
struct Escape {
    name: &'static str,
    script: Vec<String>,
    got_out: fn(&str) -> bool,
}

/// Things of the host's that no guest may touch.
struct Victims {
    _device: tether_sys::loopdev::LoopDevice,
    _socket: std::os::unix::net::UnixListener,
    _file: tempfile::NamedTempFile,
    other: bench::Vm,
    escapes: Vec<Escape>,
}

fn read_secret(outcome: &str) -> bool {
    outcome.contains(SECRET)
}

fn went_well(outcome: &str) -> bool {
    outcome == "ok"
}

fn escape(name: &'static str, got_out: fn(&str) -> bool, script: &[&str]) -> Escape {
    Escape {
        name,
        got_out,
        script: script.iter().map(|&line| line.to_owned()).collect(),
    }
}

async fn victims(world: &World) -> Victims {
    let image = world.dir.path().join("victim.img");
    let mut content = SECRET.as_bytes().to_vec();
    content.resize(1 << 20, 0);
    std::fs::write(&image, &content).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let device = tether_sys::loopdev::LoopDevice::attach(file.as_fd(), Default::default()).unwrap();
    let minor = device.device().1;

    // Another VM with a disk, whose node and process are as forbidden as the host's.
    let theirs = world.dir.path().join("theirs.img");
    std::fs::write(&theirs, &content).unwrap();
    let disk = DiskSpec {
        slot: DiskSlot { bus: 0, unit: 0 },
        vmdk: theirs,
        read_only: false,
    };
    let other_spec = PowerOnSpec {
        disks: vec![disk],
        ..spec("wall-other")
    };
    let mut other = world.boot(other_spec, "read /dev/disk/by-slot/0:0").await;
    assert_eq!(other.outcomes().await, [format!("read {SECRET}")]);
    let pid = other.on.guest.pid().unwrap();
    let their_minor = loops_of(&world.dir.path().join("theirs.img"));

    let name = format!("vic-walls-{}", world.dir.path().display());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, SECRET.as_bytes());
        }
    });
    let marker = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(marker.path(), SECRET).unwrap();
    // The same value again: should the wall be down, nothing changes.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();

    let mut escapes = vec![
        escape(
            "mknod of a host's device",
            read_secret,
            &[&format!("node b 7 {minor}")],
        ),
        escape(
            "mknod of another VM's device",
            read_secret,
            &[&format!("node b 7 {their_minor}")],
        ),
        escape(
            "a devtmpfs of its own",
            read_secret,
            &[
                "mount devtmpfs dev /tmp/dev",
                &format!("read /tmp/dev/loop{minor}"),
            ],
        ),
        escape(
            "core_pattern through a fresh proc",
            went_well,
            &[
                "mount proc proc /tmp/proc",
                &format!(
                    "write /tmp/proc/sys/kernel/core_pattern {}",
                    pattern.trim_end()
                ),
            ],
        ),
        escape(
            "signal to another VM's process",
            went_well,
            &[&format!("signal {pid}")],
        ),
        escape(
            "host's loopback",
            read_secret,
            &[&format!("fetch 127.0.0.1:{port}")],
        ),
        escape(
            "host's abstract socket",
            went_well,
            &[&format!("abstract {name}")],
        ),
        escape(
            "host's files by climbing out of a chroot",
            read_secret,
            &[&format!("leave-root {}", marker.path().display())],
        ),
        escape(
            "writing to the shared root",
            went_well,
            &["remount-bind-rw /", "remount-rw /", "create /escaped"],
        ),
        escape("setting the host's clock", went_well, &["set-clock"]),
    ];
    for controller in v1_controllers() {
        let script = [
            format!("mount cgroup cgroup /tmp/cg-{controller} {controller}"),
            format!("find /tmp/cg-{controller} release_agent"),
        ];
        escapes.push(Escape {
            name: "release_agent of a v1 hierarchy",
            got_out: |outcome| outcome.starts_with("found ") && outcome != "found 0",
            script: script.to_vec(),
        });
    }
    escapes.push(escape(
        "other VMs' cgroups in v2",
        |outcome| outcome.contains("vic-sim") || outcome.contains("vm "),
        &["mount cgroup2 none /tmp/cg2", "ls /tmp/cg2"],
    ));
    Victims {
        _device: device,
        _socket: socket,
        _file: marker,
        other,
        escapes,
    }
}

fn loops_of(image: &std::path::Path) -> u32 {
    let backing = |n: u32| std::fs::read_to_string(format!("/sys/block/loop{n}/loop/backing_file"));
    (0..4096)
        .find(|n| backing(*n).is_ok_and(|b| b.trim_end() == image.to_string_lossy()))
        .expect("the other VM's device")
}

fn v1_controllers() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter_map(|line| {
            line.split_once(" - cgroup ")?
                .1
                .split(' ')
                .nth(1)?
                .strip_prefix("rw,")
        })
        .map(str::to_owned)
        .collect()
}

/// Tries every escape in one guest; returns which got out.
async fn attempt(world: &World, victims: &Victims, instance: &str) -> Vec<(String, bool)> {
    let script: Vec<_> = victims
        .escapes
        .iter()
        .flat_map(|e| e.script.clone())
        .collect();
    let mut vm = world.boot(spec(instance), &script.join("\n")).await;
    let outcomes = vm.outcomes().await;
    vm.on.guest.kill().await;
    let mut at = 0;
    let mut results = Vec::new();
    for escape in &victims.escapes {
        at += escape.script.len();
        let outcome = &outcomes[at - 1];
        println!(
            "  {instance}: {}: {}",
            escape.name,
            outcomes[at - escape.script.len()..at].join(" / ")
        );
        results.push((escape.name.to_owned(), (escape.got_out)(outcome)));
    }
    results
}

#[tokio::test]
async fn no_way_out_of_a_guest_works_while_every_wall_stands() {
    if !can_run() {
        return;
    }
    let world = World::with(Default::default(), Walls::default()).await;
    let victims = victims(&world).await;
    let results = attempt(&world, &victims, "walls-all").await;
    let out: Vec<_> = results.iter().filter(|(_, out)| *out).collect();
    assert!(out.is_empty(), "got out by {out:?}");
    victims.other.on.guest.kill().await;
    world.engine.shutdown().await;
}

#[cfg(feature = "break-walls")]
#[tokio::test]
async fn every_wall_stops_something_that_no_other_wall_stops() {
    use simulator::engine::namespace::walls::Wall;
    if !can_run() {
        return;
    }
    let mut table = String::new();
    let mut useless = Vec::new();
    for wall in Wall::ALL {
        // The victims' own guest stands behind all walls: it is made by another engine.
        let whole = World::start().await;
        let victims = victims(&whole).await;
        let world = World::with(Default::default(), Walls::default().without(wall)).await;
        let results = attempt(&world, &victims, &format!("no-{}", wall.name())).await;
        let out: std::collections::BTreeSet<_> = results
            .iter()
            .filter(|(_, out)| *out)
            .map(|(name, _)| name.as_str())
            .collect();
        let list: Vec<_> = out.iter().copied().collect();
        table.push_str(&format!("| {:<12} | {} |\n", wall.name(), list.join("; ")));
        if out.is_empty() {
            useless.push(wall);
        }
        world.engine.shutdown().await;
        whole.engine.shutdown().await;
    }
    println!("| without      | gets out by |\n|--------------|---|\n{table}");
    assert!(useless.is_empty(), "nothing needs {useless:?}");
}
