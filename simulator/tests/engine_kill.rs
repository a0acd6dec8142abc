//! A simulator that is killed leaves nothing: no process, loop device, mount, namespace; and the
//! next one removes the empty cgroups.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "engine/bench.rs"]
mod bench;

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use bench::{World, can_run, spec};
use simulator::engine::{DiskSlot, DiskSpec, GuestEngine, NicSpec, PowerOnSpec};

/// Tells this program that it is the one to be killed: the directory for its disk.
const VICTIM: &str = "VIC_TEST_VICTIM";
/// Guests of the killed simulator.
const GUESTS: usize = 3;

/// Not a test of its own: what the process does that the test below kills.
#[tokio::test]
async fn the_victim_of_the_kill_test_waits_to_be_killed() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let world = World::start().await;
    let mut guests = Vec::new();
    for n in 0..GUESTS {
        let image = std::path::Path::new(&dir).join(format!("{n}.img"));
        std::fs::File::create(&image)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let slot = DiskSlot { bus: 0, unit: 0 };
        let nic = NicSpec {
            key: 4000,
            mac: [0, 0x50, 0x56, 2, 2, n as u8],
            network: "bridge".into(),
            connected: true,
        };
        let spec = PowerOnSpec {
            disks: vec![DiskSpec {
                slot,
                vmdk: image,
                read_only: false,
            }],
            nics: vec![nic],
            ..spec(&format!("kill-{n}"))
        };
        let mut vm = world.boot(spec, "read /dev/disk/by-slot/0:0").await;
        let _ = vm.outcomes().await;
        println!("pid {}", vm.on.guest.pid().unwrap());
        guests.push(vm);
    }
    println!("pid {}", world.engine.helper_pid());
    println!("ready");
    std::future::pending::<()>().await;
}

#[test]
fn after_a_kill_every_guest_and_everything_of_theirs_is_gone() {
    if !can_run() {
        return;
    }
    // Built here, so that the victim need not.
    let _ = bench::initramfs();
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_victim_of_the_kill_test_waits_to_be_killed",
            "--nocapture",
        ])
        .env(VICTIM, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pids = Vec::new();
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("ready") {
            break;
        }
        if let Some((_, pid)) = line.split_once("pid ") {
            pids.push(pid.parse::<i32>().unwrap());
        }
    }
    assert_eq!(pids.len(), GUESTS + 1);
    let loops = || -> usize {
        let wanted = dir.path().to_string_lossy().into_owned();
        std::fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .filter_map(|e| std::fs::read_to_string(e.path().join("loop/backing_file")).ok())
            .filter(|file| file.starts_with(&wanted))
            .count()
    };
    assert_eq!(loops(), GUESTS);
    let pidfds: Vec<_> = pids
        .iter()
        .map(|pid| tether_sys::process::pidfd_open(*pid).unwrap())
        .collect();

    victim.kill().unwrap();
    victim.wait().unwrap();
    for (pid, pidfd) in pids.iter().zip(&pidfds) {
        let gone = tether_sys::poll::readable(&[pidfd.as_fd()], 5000).unwrap()[0];
        assert!(gone, "process {pid} lives 5 s after the kill");
    }
    // Loop devices clear themselves when the last process lets go, which may take a moment more.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while loops() > 0 && std::time::Instant::now() < deadline {
        let _ = tether_sys::poll::readable(&[], 10);
    }
    assert_eq!(loops(), 0, "loop devices are left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains("initramfs") && !mounts.contains("vic-disks"),
        "{mounts}"
    );

    // The helper tidied up as it ended, or the next start does.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = World::start().await;
        world.engine.shutdown().await;
    });
    let names = cgroup_names();
    let helper = pids[GUESTS];
    assert!(
        !names
            .iter()
            .any(|n| n.starts_with(&format!("vic-sim.{helper}."))),
        "cgroups are left: {names:?}"
    );
}

fn cgroup_names() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .filter_map(|mount| std::fs::read_dir(mount).ok())
        .flat_map(|dir| {
            dir.flatten()
                .filter_map(|e| e.file_name().into_string().ok())
        })
        .filter(|name| name.starts_with("vic-sim."))
        .collect()
}
