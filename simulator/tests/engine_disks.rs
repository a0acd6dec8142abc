//! Virtual disks in guests: real VMDK chains behind FUSE and loop devices.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "engine/bench.rs"]
mod bench;

use bench::{World, can_run, spec};
use simulator::diskview::DiskView;
use simulator::engine::namespace::{self, NamespaceEngine};
use simulator::engine::{DiskSlot, DiskSpec, EngineError, GuestEngine, PowerOnSpec};
use simulator::vmdk;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_writes_to_the_child_of_a_chain_and_mounts_a_file_system_of_its_own() {
    if !can_run() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let roots = vmdk::Roots::new([store.path()]).unwrap();
    let view = DiskView::start(roots).unwrap();
    let (parent, child) = (
        store.path().join("parent.vmdk"),
        store.path().join("child.vmdk"),
    );
    vmdk::create_flat(&parent, 64 << 20).unwrap();
    // The file system is made as the appliance makes it: on the block device of the attached disk.
    {
        let disk = view.attach(&parent, vmdk::Access::ReadWrite).unwrap();
        let made = std::process::Command::new("/sbin/mkfs.ext4")
            .args(["-q", &format!("/dev/loop{}", disk.number())])
            .status()
            .unwrap();
        assert!(made.success());
        disk.detach(bench::DEADLINE).unwrap();
    }
    vmdk::create_child(&child, &parent, None).unwrap();

    let base = World::start().await;
    let config = namespace::Config {
        program: env!("CARGO_BIN_EXE_vic-sim").into(),
        network: base.network.clone(),
        disks: Some(view.clone()),
        console: None,
        walls: Default::default(),
    };
    let engine = NamespaceEngine::start(config).await.unwrap();
    let world = World {
        engine,
        network: base.network.clone(),
        dir: tempfile::tempdir().unwrap(),
    };
    let slot = DiskSlot { bus: 0, unit: 3 };
    let disk = DiskSpec {
        slot,
        vmdk: child.clone(),
        read_only: false,
    };
    let script = "wait-for /dev/disk/by-slot/0:3\nmount ext4 /dev/disk/by-slot/0:3 /tmp/disk\n\
                  create /tmp/disk/file\nwrite /tmp/disk/file kept\n";
    let mut first = world
        .boot(spec("chain-1"), &format!("{script}wait-for /tmp/go\n"))
        .await;
    first.on.guest.attach_disk(disk.clone()).await.unwrap();
    assert_eq!(first.wait_for("guestinfo.vice..out.3").await, "ok");
    let refused = first.on.guest.detach_disk(slot).await.unwrap_err();
    assert!(matches!(refused, EngineError::InUse(_)), "{refused}");
    // The lock that ESXi would hold.
    assert!(vmdk::inspect(&child).is_ok());
    assert!(view.attach(&child, vmdk::Access::ReadWrite).is_err());
    first.on.guest.kill().await;
    assert_eq!(view.attached(), 0, "closed when the guest is gone");

    let spec = PowerOnSpec {
        disks: vec![disk],
        ..spec("chain-2")
    };
    let script = "mount ext4 /dev/disk/by-slot/0:3 /tmp/disk\nread /tmp/disk/file\n\
                  umount /tmp/disk\npoweroff";
    let mut second = world.boot(spec, script).await;
    assert_eq!(second.wait_for("guestinfo.vice..out.0").await, "ok");
    // Killed without a sync: the journal is replayed, the file is there if it was written back,
    // and the file system mounts in any case.
    let _ = second.wait_for("guestinfo.vice..out.1").await;
    assert_eq!(second.wait_for("guestinfo.vice..out.2").await, "ok");
    let _ = second.ended().await;
    assert_eq!(view.attached(), 0);
    world.engine.shutdown().await;
    base.engine.shutdown().await;
}
