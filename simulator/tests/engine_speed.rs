//! What power-on and the end of a guest cost, printed; the budget of `docker run` is 12 ms for PowerOn.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "engine/bench.rs"]
mod bench;

use std::time::{Duration, Instant};

use bench::{World, can_run, spec};
use simulator::engine::GuestEngine;
use simulator::engine::{DiskSlot, DiskSpec, NicSpec, PowerOnSpec, SerialBacking, SerialSpec};

/// Far above the budget: only a step that went wrong altogether takes this long on any machine.
const ABSURD: Duration = Duration::from_millis(500);

/// Time between two power-ons.
const PACE: Duration = Duration::from_millis(150);

#[tokio::test]
async fn power_on_with_a_disk_a_nic_and_a_serial_port_is_quick() {
    if !can_run() {
        return;
    }
    let world = World::start().await;
    let image = world.dir.path().join("disk.img");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let (mut on, mut off) = (Vec::new(), Vec::new());
    // Alone, as a user's first container is: close together, later ones find the kernel warm.
    let mut pace = tokio::time::interval(PACE);
    for round in 0..20u8 {
        pace.tick().await;
        let nic = NicSpec {
            key: 4000,
            mac: [0, 0x50, 0x56, 0, 1, round],
            network: "bridge".into(),
            connected: true,
        };
        let disk = DiskSpec {
            slot: DiskSlot { bus: 0, unit: 0 },
            vmdk: image.clone(),
            read_only: false,
        };
        let serial = SerialSpec {
            index: 0,
            backing: SerialBacking::None,
            connected: true,
        };
        let spec = PowerOnSpec {
            nics: vec![nic],
            disks: vec![disk],
            serials: vec![serial],
            ..spec(&format!("speed-{round}"))
        };
        let start = Instant::now();
        let mut vm = world.boot(spec, "poweroff").await;
        on.push(start.elapsed());
        let _ = vm.ended().await;
        off.push(start.elapsed());
    }
    on.sort();
    off.sort();
    println!(
        "power on: median {:?}, worst {:?}; to the end: median {:?}",
        on[10], on[19], off[10]
    );
    assert!(on[10] < ABSURD, "{on:?}");
    world.engine.shutdown().await;
}
