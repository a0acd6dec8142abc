//! The client against another vSphere simulator: that of govmomi, built from Debian's packages.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use vmomi::client::{Client, Config, view_spec};
use vmomi::tls::{Thumbprint, Trust};
use vmomi::types::*;
use vmomi::{Any, ManagedObjectReference, mo};

#[path = "../../tests/peers/debsim.rs"]
mod debsim;
use debsim::Debsim;

fn peer(esx: bool) -> Option<Debsim> {
    Debsim::start(if esx { &["-esx"] } else { &[] })
}

fn config(peer: &Debsim) -> Config {
    let mut config = Config::new(&peer.url).unwrap().with_trust(Trust::Anybody);
    config.wait = Duration::from_secs(5);
    config
}

async fn one(client: &Client, r#type: &str) -> ManagedObjectReference {
    client
        .below(&client.content().root_folder, &[r#type], &["name"])
        .await
        .unwrap()
        .remove(0)
        .object
}

#[tokio::test]
async fn a_session_lists_and_reads_what_an_esx_has() {
    let Some(peer) = peer(true) else { return };
    let client = Client::connect(config(&peer)).await.unwrap();
    assert!(!client.is_vcenter());
    let vms = client
        .below(
            &client.content().root_folder,
            &["VirtualMachine"],
            &["name", "runtime.powerState", "config.hardware.device"],
        )
        .await
        .unwrap();
    assert_eq!(vms.len(), 2);
    let devices: Vec<vmomi::Poly<VirtualDevice>> = vms[0].get("config.hardware.device").unwrap();
    let disk = devices.iter().find_map(|d| d.get::<VirtualDisk>()).unwrap();
    assert!(
        disk.backing
            .as_ref()
            .unwrap()
            .is::<VirtualDiskFlatVer2BackingInfo>()
    );
    let vm: mo::VirtualMachine = client.object(&vms[0].object, &[]).await.unwrap();
    assert_eq!(Some(vm.name.as_str()), vms[0].text("name"));
    assert_eq!(vm.runtime.power_state, VirtualMachinePowerState::PoweredOn);
    let host: mo::HostSystem = client
        .object(&one(&client, "HostSystem").await, &[])
        .await
        .unwrap();
    assert!(host.config.is_some());
    for r#type in [
        "Datastore",
        "Network",
        "ResourcePool",
        "ComputeResource",
        "Datacenter",
    ] {
        client
            .properties(&[one(&client, r#type).await], &[])
            .await
            .unwrap();
    }
    client.close().await.unwrap();
}

#[tokio::test]
async fn tasks_are_awaited_on_the_one_standing_wait() {
    let Some(peer) = peer(true) else { return };
    let client = Client::connect(config(&peer)).await.unwrap();
    let folder = one(&client, "Folder").await;
    let folder = match client
        .property::<ManagedObjectReference>(&one(&client, "Datacenter").await, "vmFolder")
        .await
    {
        Ok(Some(found)) => found,
        _ => folder,
    };
    let pool = one(&client, "ResourcePool").await;
    client.watch().await.unwrap();
    client.calls().clear();
    let name = "a <name> & more";
    let request = CreateVMRequest {
        config: VirtualMachineConfigSpec {
            name: Some(name.into()),
            guest_id: Some("otherGuest".into()),
            files: Some(VirtualMachineFileInfo {
                vm_path_name: Some("[LocalDS_0]".into()),
                ..Default::default()
            }),
            extra_config: vec![OptionValue::new("guestinfo.k", "v|\n\"")],
            ..Default::default()
        },
        pool,
        host: None,
    };
    let created = client.run_task(&folder, request).await.unwrap();
    let vm = created.result.unwrap().as_reference().unwrap().clone();
    assert_eq!(
        client
            .property::<String>(&vm, "name")
            .await
            .unwrap()
            .as_deref(),
        Some(name)
    );
    client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .unwrap();
    let error = client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .unwrap_err();
    assert!(error.is_fault("InvalidPowerState"), "{error}");
    client.run_task(&vm, PowerOffVMRequest {}).await.unwrap();
    client.run_task(&vm, DestroyRequest {}).await.unwrap();
    let error = client.run_task(&vm, DestroyRequest {}).await.unwrap_err();
    assert!(error.is_fault("ManagedObjectNotFound"), "{error}");
    // One short call beside the method itself for each task.
    assert_eq!(client.calls().count("ModifyListView"), 5);
}

#[tokio::test]
async fn a_filter_sees_what_happens() {
    let Some(peer) = peer(false) else { return };
    let client = Client::connect(config(&peer)).await.unwrap();
    assert!(client.is_vcenter());
    let views = client.content().view_manager.clone().unwrap();
    let request = CreateContainerViewRequest {
        container: client.content().root_folder.clone(),
        r#type: vec!["VirtualMachine".into()],
        recursive: true,
    };
    let view = client.create_container_view(&views, request).await.unwrap();
    let spec = view_spec(&view, &["VirtualMachine"], &["name", "runtime.powerState"]);
    let mut filter = client.watch().await.unwrap().filter(spec).await.unwrap();
    let vm = one(&client, "VirtualMachine").await;
    client.run_task(&vm, PowerOffVMRequest {}).await.unwrap();
    let seen = async {
        loop {
            let batch = filter.next().await.unwrap();
            for object in batch.objects.into_iter().filter(|o| o.obj == vm) {
                for change in object.change_set {
                    if change.val.as_ref().and_then(Any::as_str) == Some("poweredOff") {
                        return change.name;
                    }
                }
            }
        }
    };
    let name = tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .unwrap();
    assert_eq!(name, "runtime.powerState");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_by_its_thumbprint() {
    let Some(peer) = peer(true) else { return };
    let error = Client::connect(config(&peer).with_trust(Trust::System))
        .await
        .unwrap_err();
    let vmomi::Error::Untrusted { thumbprint, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(Thumbprint::parse(&thumbprint.to_string()), Some(thumbprint));
    let other = Thumbprint::of(b"another certificate");
    let error = Client::connect(config(&peer).with_trust(Trust::Thumbprint(other)))
        .await
        .unwrap_err();
    assert!(matches!(error, vmomi::Error::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn files_of_a_datastore_are_written_and_read() {
    let Some(peer) = peer(true) else { return };
    let client = Client::connect(config(&peer)).await.unwrap();
    let files = client.datastore("ha-datacenter", "LocalDS_0");
    assert!(files.read("no/such file").await.unwrap().is_none());
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    files.write("a/b c.txt", content.clone()).await.unwrap();
    assert_eq!(
        files.length("a/b c.txt").await.unwrap(),
        Some(content.len() as u64)
    );
    assert_eq!(files.read("a/b c.txt").await.unwrap().unwrap(), content);
    let part = files
        .download_range("a/b c.txt", 10, Some(20))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(part.total, Some(content.len() as u64));
    assert_eq!(part.bytes().await.unwrap(), content[10..20]);
    let behind = files
        .download_range("a/b c.txt", 1 << 30, None)
        .await
        .unwrap()
        .unwrap();
    assert!(behind.bytes().await.unwrap().is_empty());
    let local = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(local.path(), &content).unwrap();
    files.upload_file("up.bin", local.path()).await.unwrap();
    assert_eq!(files.read("up.bin").await.unwrap().unwrap(), content);
}
