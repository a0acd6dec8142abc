//! VMs: their devices come and go, on and off; they leave the inventory and come back.

use vmomi::types::*;
use vmomi::{Error, ManagedObjectReference as Moref, Poly};

use super::bench::{Bench, add, bench, disk, fault_of, folder, option, pool, spec};

fn nic(key: i32, network: &str) -> Poly<VirtualDeviceConfigSpec> {
    let backing = VirtualEthernetCardNetworkBackingInfo {
        device_name: network.into(),
        ..Default::default()
    };
    let nic = VirtualVmxnet3 {
        key,
        backing: Some(backing.into()),
        ..Default::default()
    };
    add(nic, false)
}

fn change(
    operation: VirtualDeviceConfigSpecOperation,
    destroy: bool,
    device: Poly<VirtualDevice>,
) -> Poly<VirtualDeviceConfigSpec> {
    VirtualDeviceConfigSpec {
        operation: Some(operation),
        file_operation: destroy.then_some(VirtualDeviceConfigSpecFileOperation::Destroy),
        device,
        ..Default::default()
    }
    .into()
}

async fn reconfigure(
    bench: &Bench,
    vm: &Moref,
    devices: Vec<Poly<VirtualDeviceConfigSpec>>,
) -> Result<TaskInfo, Error> {
    let spec = VirtualMachineConfigSpec {
        device_change: devices,
        ..Default::default()
    };
    bench.client.run_task(vm, ReconfigVMRequest { spec }).await
}

/// The devices of one type, as the VM has them now.
async fn devices<T: vmomi::Data + Clone>(bench: &Bench, vm: &Moref) -> Vec<T> {
    let config = bench.config(vm).await;
    let all = config.hardware.device.iter();
    all.filter_map(|d| d.get::<T>()).cloned().collect()
}

#[tokio::test]
async fn devices_come_and_go_while_the_vm_is_off_and_while_it_runs() {
    use VirtualDeviceConfigSpecOperation::{Edit, Remove};
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let one = add(
        VirtualDisk {
            controller_key: Some(1000),
            ..disk(-2, None, "one.vmdk", 1024, None)
        },
        true,
    );
    reconfigure(&bench, &vm, vec![one, nic(-3, "VM Network")])
        .await
        .expect("added");
    let disks: Vec<VirtualDisk> = devices(&bench, &vm).await;
    assert_eq!((disks[0].key, disks[0].unit_number), (2000, Some(0)));
    let nics: Vec<VirtualVmxnet3> = devices(&bench, &vm).await;
    assert_eq!(nics[0].key, 4000);
    assert!(nics[0].mac_address.is_some());
    // A change that fails in the middle changes nothing.
    let two = |key| {
        let two = VirtualDisk {
            controller_key: Some(1000),
            ..disk(key, None, "two.vmdk", 1024, None)
        };
        add(two, true)
    };
    let failed = reconfigure(&bench, &vm, vec![two(-4), nic(-5, "no such network")]).await;
    assert_eq!(fault_of(failed), "InvalidDeviceSpec");
    assert_eq!(devices::<VirtualDisk>(&bench, &vm).await.len(), 1);
    let files = bench.client.datastore("ha-datacenter", "datastore1");
    assert_eq!(files.length("one/two.vmdk").await.expect("asks"), None);

    bench
        .client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let guest = bench.guest(&bench.config(&vm).await);
    assert_eq!(guest.spec().disks.len(), 1);
    reconfigure(&bench, &vm, vec![two(-4)])
        .await
        .expect("added");
    assert_eq!(guest.spec().disks.len(), 2, "the guest has it at once");
    let disks: Vec<VirtualDisk> = devices(&bench, &vm).await;
    assert_eq!((disks[1].key, disks[1].unit_number), (2001, Some(1)));
    let larger = VirtualDisk {
        capacity_in_kb: 4096,
        ..disks[1].clone()
    };
    let grown = reconfigure(&bench, &vm, vec![change(Edit, false, larger.into())]).await;
    assert_eq!(fault_of(grown), "InvalidDeviceSpec", "not while it runs");
    let gone = change(Remove, true, disks[1].clone().into());
    reconfigure(&bench, &vm, vec![gone]).await.expect("removed");
    assert_eq!(guest.spec().disks.len(), 1);
    assert_eq!(files.length("one/two.vmdk").await.expect("asks"), None);
    bench
        .client
        .run_task(&vm, PowerOffVMRequest {})
        .await
        .expect("off");
    // Taken away without its file, a disk stays where it is.
    let gone = change(Remove, false, disks[0].clone().into());
    reconfigure(&bench, &vm, vec![gone]).await.expect("removed");
    assert!(devices::<VirtualDisk>(&bench, &vm).await.is_empty());
    assert!(files.length("one/one.vmdk").await.expect("asks").is_some());
    let unknown = VirtualDisk {
        key: 2015,
        ..disks[0].clone()
    };
    let unknown = change(Remove, false, unknown.into());
    let wrong = reconfigure(&bench, &vm, vec![unknown]).await;
    assert_eq!(fault_of(wrong), "InvalidDeviceSpec");
}

#[tokio::test]
async fn a_vm_leaves_the_inventory_with_its_files_in_place_and_comes_back() {
    let bench = bench().await;
    let client = &bench.client;
    let mut config = spec("one", vec![add(disk(-2, None, "", 1024, None), true)]);
    config.extra_config = vec![option("guestinfo.a", "1")];
    let vm = bench.create(config).await.expect("made");
    let before = bench.config(&vm).await;
    client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let running = client.invoke(&vm, UnregisterVMRequest {}).await;
    assert_eq!(fault_of(running), "InvalidPowerState");
    client
        .run_task(&vm, PowerOffVMRequest {})
        .await
        .expect("off");
    client
        .invoke(&vm, UnregisterVMRequest {})
        .await
        .expect("leaves");
    let gone = client.property::<String>(&vm, "name").await;
    assert_eq!(fault_of(gone), "ManagedObjectNotFound");
    let register = |path: &str| RegisterVMRequest {
        path: path.into(),
        name: None,
        as_template: false,
        pool: Some(pool()),
        ..Default::default()
    };
    let path = before.files.vm_path_name.clone().expect("has one");
    let back = client.run_task(&folder(), register(&path)).await;
    let back = back.expect("comes back").result;
    let back = back.and_then(|r| r.as_reference().cloned()).expect("a VM");
    let after = bench.config(&back).await;
    assert_eq!(after.uuid, before.uuid);
    assert_eq!(after.instance_uuid, before.instance_uuid);
    assert_eq!(after.extra_config, before.extra_config);
    assert_eq!(after.hardware.device.len(), before.hardware.device.len());
    let twice = client.run_task(&folder(), register(&path)).await;
    assert!(
        ["AlreadyExists", "DuplicateName"].contains(&fault_of(twice).as_str()),
        "a VM is there once"
    );
    let none = register("[datastore1] none/none.vmx");
    let none = client.run_task(&folder(), none).await;
    assert_eq!(fault_of(none), "FileNotFound");
    client
        .run_task(&back, PowerOnVMRequest::default())
        .await
        .expect("on");
    client
        .run_task(&back, ResetVMRequest {})
        .await
        .expect("on again");
    client
        .run_task(&back, SuspendVMRequest {})
        .await
        .expect("stops");
    assert_eq!(bench.power(&back).await, "suspended");
    client
        .run_task(&back, PowerOnVMRequest::default())
        .await
        .expect("goes on");
    assert_eq!(bench.power(&back).await, "poweredOn");
    client
        .run_task(&back, PowerOffVMRequest {})
        .await
        .expect("off");
    client
        .run_task(&back, DestroyRequest {})
        .await
        .expect("gone");
    let files = client.datastore("ha-datacenter", "datastore1");
    assert_eq!(files.length("one/one.vmx").await.expect("asks"), None);
}
