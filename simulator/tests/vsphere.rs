//! The simulator as a client sees it: our own client, over the wire, with guests that do not run.

#![allow(clippy::needless_update)]

use std::time::Duration;

use simulator::{Config, Simulator};
use vmomi::types::*;
use vmomi::{Any, Client};

#[path = "vsphere/actors.rs"]
mod actors;
#[path = "vsphere/bench.rs"]
mod bench;
#[path = "vsphere/collector.rs"]
mod collector;
#[path = "vsphere/files.rs"]
mod files;
#[path = "vsphere/http.rs"]
mod http;
#[path = "vsphere/pools.rs"]
mod pools;
#[path = "vsphere/sessions.rs"]
mod sessions;
#[path = "vsphere/tasks.rs"]
mod tasks;
#[path = "vsphere/validation.rs"]
mod validation;
#[path = "vsphere/views.rs"]
mod views;
#[path = "vsphere/vms.rs"]
mod vms;
#[path = "vsphere/walk.rs"]
mod walk;

use bench::{Bench, add, bench, client_config, disk, fault_of, folder, option, spec};

#[tokio::test]
async fn a_vm_lives_from_create_to_destroy() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    assert_eq!(bench.power(&vm).await, "poweredOff");
    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    assert_eq!(bench.power(&vm).await, "poweredOn");
    let again = bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await;
    assert_eq!(fault_of(again), "InvalidPowerState");
    let destroyed = bench.client.run_task(&vm, DestroyRequest::default()).await;
    assert_eq!(fault_of(destroyed), "InvalidPowerState");
    bench
        .client
        .run_task(&vm, PowerOffVMRequest::default())
        .await
        .expect("off");
    bench
        .client
        .run_task(&vm, DestroyRequest::default())
        .await
        .expect("gone");
    let gone = bench.client.property::<Option<String>>(&vm, "name").await;
    assert!(gone.is_err(), "{gone:?}");
    bench.simulator.stop().await;
}

#[tokio::test]
async fn a_name_is_given_once_and_free_again_after_its_vm() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    assert_eq!(
        fault_of(bench.create(spec("one", vec![])).await),
        "DuplicateName"
    );
    bench
        .client
        .run_task(&vm, DestroyRequest::default())
        .await
        .expect("gone");
    bench.create(spec("one", vec![])).await.expect("made again");
}

#[tokio::test]
async fn a_child_disk_is_made_by_create_and_goes_with_the_vm_while_its_parent_stays() {
    let bench = bench().await;
    let parent = bench.create(spec(
        "base",
        vec![add(disk(-2, None, "base.vmdk", 2048, None), true)],
    ));
    let parent = parent.await.expect("made");
    let child = disk(
        -2,
        Some(0),
        "c.vmdk",
        0,
        Some("[datastore1] base/base.vmdk"),
    );
    let vm = bench
        .create(spec("child", vec![add(child, true)]))
        .await
        .expect("made");
    let config = bench.config(&vm).await;
    let disk = config
        .hardware
        .device
        .iter()
        .find_map(|d| d.get::<VirtualDisk>())
        .expect("a disk");
    assert_eq!(
        (disk.key, disk.unit_number, disk.capacity_in_kb),
        (2000, Some(0), 2048)
    );
    let backing = disk
        .backing
        .as_ref()
        .and_then(|b| b.get::<VirtualDiskFlatVer2BackingInfo>());
    let backing = backing.expect("a flat backing");
    assert_eq!(backing.file_name, "[datastore1] child/c.vmdk");
    let up = backing.parent.as_ref().map(|p| p.file_name().clone());
    assert_eq!(up.as_deref(), Some("[datastore1] base/base.vmdk"));
    bench
        .client
        .run_task(&vm, DestroyRequest::default())
        .await
        .expect("gone");
    let files = bench.client.datastore("ha-datacenter", "datastore1");
    assert_eq!(files.length("child/c.vmdk").await.expect("asks"), None);
    assert!(
        files
            .length("base/base.vmdk")
            .await
            .expect("asks")
            .is_some()
    );
    bench
        .client
        .run_task(&parent, DestroyRequest::default())
        .await
        .expect("gone");
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let bench = bench().await;
    let orphan = disk(-2, None, "x.vmdk", 0, Some("[datastore1] none.vmdk"));
    let failed = bench.create(spec("one", vec![add(orphan, true)])).await;
    assert_eq!(fault_of(failed), "FileNotFound");
    let vms = bench
        .client
        .below(&folder(), &["VirtualMachine"], &["name"])
        .await
        .expect("lists");
    assert!(vms.is_empty());
    bench
        .create(spec("one", vec![]))
        .await
        .expect("name and directory are free");
}

#[tokio::test]
async fn extra_config_round_trips_and_the_secret_is_for_the_guest_only() {
    let bench = bench().await;
    let mut config = spec("one", vec![]);
    let long = "x|\n\"=".repeat(30_000);
    config.extra_config = vec![
        option("guestinfo.a", &long),
        option("guestinfo.ovfEnv", "sealed"),
        option("b", "1"),
    ];
    let vm = bench.create(config).await.expect("made");
    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let config = bench.config(&vm).await;
    let value = |key: &str| {
        config
            .extra_config
            .iter()
            .find(|o| o.key == key)
            .and_then(|o| o.value.clone())
    };
    assert_eq!(value("guestinfo.a"), Some(Any::from(long.as_str())));
    assert_eq!(value("guestinfo.ovfEnv"), None);
    let guest = bench.guest(&config).spec().guestinfo;
    assert_eq!(guest.get("guestinfo.ovfEnv").as_deref(), Some("sealed"));
    let change = VirtualMachineConfigSpec {
        extra_config: vec![option("b", ""), option("guestinfo.c", "2")],
        ..Default::default()
    };
    let request = ReconfigVMRequest { spec: change };
    bench.client.run_task(&vm, request).await.expect("changed");
    assert_eq!(
        guest.get("guestinfo.c").as_deref(),
        Some("2"),
        "seen by the running guest"
    );
    let config = bench.config(&vm).await;
    assert!(
        config.extra_config.iter().all(|o| o.key != "b"),
        "an empty value takes it away"
    );
}

#[tokio::test]
async fn a_stale_change_version_is_refused() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let version = bench.config(&vm).await.change_version;
    let change = |note: &str| ReconfigVMRequest {
        spec: VirtualMachineConfigSpec {
            change_version: Some(version.clone()),
            annotation: Some(note.into()),
            ..Default::default()
        },
    };
    bench
        .client
        .run_task(&vm, change("first"))
        .await
        .expect("changed");
    let second = bench.client.run_task(&vm, change("second")).await;
    assert_eq!(fault_of(second), "ConcurrentAccess");
    assert_eq!(bench.config(&vm).await.annotation.as_deref(), Some("first"));
}

#[tokio::test]
async fn what_the_guest_writes_is_seen_and_its_power_off_ends_the_run() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let config = bench.config(&vm).await;
    let guest = bench.guest(&config);
    let watch = bench.client.watch().await.expect("a watch");
    let spec = PropertyFilterSpec {
        prop_set: vec![vmomi::client::property_spec(
            "VirtualMachine",
            &[
                "runtime.powerState",
                "config.extraConfig[\"guestinfo.status\"]",
            ],
        )],
        object_set: vec![ObjectSpec {
            obj: vm.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut filter = watch.filter(spec).await.expect("a filter");
    filter.next().await.expect("the state at first");
    guest.info_set("guestinfo.status", "7");
    guest.end(simulator::engine::GuestEvent::PoweredOff(
        simulator::engine::PowerOffCause::PoweredOff,
    ));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while bench.power(&vm).await != "poweredOff" {
        tokio::time::timeout_at(deadline, filter.next())
            .await
            .expect("in time")
            .expect("alive");
    }
    let config = bench.config(&vm).await;
    let status = config
        .extra_config
        .iter()
        .find(|o| o.key == "guestinfo.status");
    assert_eq!(status.and_then(|o| o.value.clone()), Some(Any::from("7")));
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (vm, before, print) = {
        let simulator = Simulator::start(Config::esx(dir.path()))
            .await
            .expect("starts");
        let client = Client::connect(client_config(&simulator, "root"))
            .await
            .expect("logs in");
        let bench = Bench {
            simulator,
            client,
            dir: tempfile::tempdir().expect("unused"),
        };
        let nic = VirtualVmxnet3 {
            key: -3,
            backing: Some(
                VirtualEthernetCardNetworkBackingInfo {
                    device_name: "VM Network".into(),
                    ..Default::default()
                }
                .into(),
            ),
            ..Default::default()
        };
        let serial = VirtualSerialPort {
            key: -4,
            backing: Some(
                VirtualSerialPortURIBackingInfo {
                    service_uri: "tcp://10.0.0.1:2377".into(),
                    direction: "client".into(),
                    ..Default::default()
                }
                .into(),
            ),
            ..Default::default()
        };
        let devices = vec![
            add(disk(-2, None, "", 1024, None), true),
            add(nic, false),
            add(serial, false),
        ];
        let mut config = spec("kept", devices);
        config.extra_config = vec![
            option("guestinfo.a", "1|2"),
            option("guestinfo.ovfEnv", "sealed"),
        ];
        let vm = bench.create(config).await.expect("made");
        bench
            .client
            .run_task(&vm, PowerOnVMRequest::default())
            .await
            .expect("on");
        let config = bench.config(&vm).await;
        bench.guest(&config).info_set("guestinfo.status", "3");
        bench
            .client
            .run_task(&vm, PowerOffVMRequest::default())
            .await
            .expect("off");
        let before = bench.config(&vm).await;
        let print = bench.simulator.thumbprint().to_owned();
        drop(bench.client);
        bench.simulator.stop().await;
        (vm, before, print)
    };
    let simulator = Simulator::start(Config::esx(dir.path()))
        .await
        .expect("starts again");
    assert_eq!(simulator.thumbprint(), print);
    let client = Client::connect(client_config(&simulator, "root"))
        .await
        .expect("logs in");
    let bench = Bench {
        simulator,
        client,
        dir,
    };
    let after = bench.config(&vm).await;
    assert_eq!(after.name, "kept");
    assert_eq!(after.uuid, before.uuid);
    assert_eq!(after.instance_uuid, before.instance_uuid);
    assert_eq!(after.extra_config, before.extra_config);
    let keys = |c: &VirtualMachineConfigInfo| {
        c.hardware
            .device
            .iter()
            .map(|d| *d.key())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&after), keys(&before));
    let macs = |c: &VirtualMachineConfigInfo| {
        let all = c
            .hardware
            .device
            .iter()
            .filter_map(|d| d.get::<VirtualVmxnet3>());
        all.map(|n| n.mac_address.clone()).collect::<Vec<_>>()
    };
    assert_eq!(macs(&after), macs(&before));
    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let guest = bench.guest(&after).spec();
    assert_eq!(
        guest.guestinfo.get("guestinfo.ovfEnv").as_deref(),
        Some("sealed")
    );
    assert_eq!(
        (guest.disks.len(), guest.nics.len(), guest.serials.len()),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn a_vm_whose_actor_dies_is_there_again() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let path = format!("sim/vms/{}", vm.value);
    assert!(bench.simulator.tree().kill(&path).await.is_some());
    let note = VirtualMachineConfigSpec {
        annotation: Some("alive".into()),
        ..Default::default()
    };
    let mut last = None;
    for _ in 0..50 {
        let request = ReconfigVMRequest { spec: note.clone() };
        match bench.client.run_task(&vm, request).await {
            Ok(_) => break,
            Err(error) => last = Some(error),
        }
    }
    assert_eq!(
        bench.config(&vm).await.annotation.as_deref(),
        Some("alive"),
        "{last:?}"
    );
    assert_eq!(
        bench.power(&vm).await,
        "poweredOff",
        "its guest died with the actor"
    );
}

#[tokio::test]
async fn files_go_up_and_come_down() {
    let bench = bench().await;
    let files = bench.client.datastore("ha-datacenter", "datastore1");
    let content: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    files
        .write("dir/a b.bin", content.clone())
        .await
        .expect("goes up");
    assert_eq!(
        files.length("dir/a b.bin").await.expect("asks"),
        Some(content.len() as u64)
    );
    let read = files
        .read("dir/a b.bin")
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(read, content);
    assert_eq!(files.read("dir/none").await.expect("asks"), None);
}

#[tokio::test]
async fn faults_come_by_rule_and_calls_are_counted() {
    let bench = bench().await;
    bench
        .simulator
        .add_faults(&["CreateVM_Task:1:task=FileLocked"])
        .expect("a rule");
    assert_eq!(
        fault_of(bench.create(spec("one", vec![])).await),
        "FileLocked"
    );
    let vm = bench
        .create(spec("one", vec![]))
        .await
        .expect("the next one works");
    bench
        .simulator
        .add_faults(&["PowerOnVM_Task:1:NoPermission"])
        .expect("a rule");
    let denied = bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await;
    assert_eq!(fault_of(denied), "NoPermission");
    assert_eq!(bench.power(&vm).await, "poweredOff");
    assert_eq!(bench.simulator.take_calls()["CreateVM_Task"], 2);
}

#[tokio::test]
async fn a_vcenter_has_a_cluster_hosts_and_a_distributed_port_group() {
    let dir = tempfile::tempdir().expect("temp dir");
    let simulator = Simulator::start(Config::vc(dir.path()))
        .await
        .expect("starts");
    let config = client_config(&simulator, "administrator@vsphere.local");
    let client = Client::connect(config).await.expect("logs in");
    assert!(client.is_vcenter());
    let root = client.content().root_folder.clone();
    let count = |found: Vec<vmomi::client::Properties>| found.len();
    for (kind, expected) in [
        ("ClusterComputeResource", 1),
        ("HostSystem", 2),
        ("DistributedVirtualPortgroup", 1),
        ("Datastore", 1),
    ] {
        let found = client
            .below(&root, &[kind], &["name"])
            .await
            .expect("lists");
        assert_eq!(count(found), expected, "{kind}");
    }
    simulator.stop().await;
}
