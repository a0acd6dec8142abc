//! Views that are alive, and the search index.

use vmomi::types::*;
use vmomi::{ManagedObjectReference as Moref, Poly};

use super::bench::{Bench, bench, fault_of, folder, pool, spec, vcenter};

async fn shown(bench: &Bench, view: &Moref) -> Vec<Moref> {
    let shown: Option<Vec<Moref>> = bench.client.property(view, "view").await.expect("reads");
    shown.unwrap_or_default()
}

#[tokio::test]
async fn a_container_view_follows_what_lies_in_its_container() {
    let bench = bench().await;
    let views = bench.client.content().view_manager.clone().expect("one");
    let request = |kinds: &[&str], recursive| CreateContainerViewRequest {
        container: bench.client.content().root_folder.clone(),
        r#type: kinds.iter().map(|k| (*k).to_owned()).collect(),
        recursive,
    };
    let vms = bench
        .client
        .invoke(&views, request(&["VirtualMachine"], true));
    let vms = vms.await.expect("a view");
    let flat = bench.client.invoke(&views, request(&[], false));
    let flat = flat.await.expect("a view");
    assert_eq!(shown(&bench, &vms).await, []);
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    assert_eq!(shown(&bench, &vms).await, std::slice::from_ref(&vm));
    let own = shown(&bench, &flat).await;
    assert_eq!(own, [Moref::new("Datacenter", "ha-datacenter")]);
    bench
        .client
        .run_task(&vm, DestroyRequest::default())
        .await
        .expect("gone");
    assert_eq!(shown(&bench, &vms).await, []);
    let in_pool = CreateContainerViewRequest {
        container: pool(),
        r#type: vec!["VirtualMachine".into()],
        recursive: false,
    };
    let in_pool = bench.client.invoke(&views, in_pool).await.expect("a view");
    let vm = bench.create(spec("two", vec![])).await.expect("made");
    assert_eq!(shown(&bench, &in_pool).await, [vm]);
    bench
        .client
        .invoke(&vms, DestroyViewRequest {})
        .await
        .expect("gone");
    let gone = bench.client.property::<Vec<Moref>>(&vms, "view").await;
    assert_eq!(fault_of(gone), "ManagedObjectNotFound");
    let strange = bench.client.invoke(&views, request(&["NoSuchType"], true));
    assert_eq!(fault_of(strange.await), "InvalidArgument");
}

#[tokio::test]
async fn a_list_view_shows_what_it_was_told() {
    let bench = bench().await;
    let one = bench.create(spec("one", vec![])).await.expect("made");
    let two = bench.create(spec("two", vec![])).await.expect("made");
    let none = Moref::new("VirtualMachine", "none");
    let views = bench.client.content().view_manager.clone().expect("one");
    let request = CreateListViewRequest {
        obj: vec![one.clone()],
    };
    let view = bench.client.invoke(&views, request).await.expect("a view");
    assert_eq!(shown(&bench, &view).await, std::slice::from_ref(&one));
    let change = ModifyListViewRequest {
        add: vec![two.clone(), none.clone()],
        remove: vec![one.clone()],
    };
    let unresolved = bench.client.invoke(&view, change).await.expect("changed");
    assert_eq!(unresolved, std::slice::from_ref(&none));
    assert_eq!(shown(&bench, &view).await, std::slice::from_ref(&two));
    let reset = ResetListViewRequest {
        obj: vec![one.clone(), two.clone()],
    };
    bench.client.invoke(&view, reset).await.expect("reset");
    assert_eq!(shown(&bench, &view).await, [one.clone(), two]);
    let copy = CreateListViewFromViewRequest { view: view.clone() };
    let copy = bench.client.invoke(&views, copy).await.expect("a copy");
    assert_eq!(shown(&bench, &copy).await.len(), 2);
    let reset = ResetListViewRequest { obj: vec![one] };
    bench.client.invoke(&view, reset).await.expect("reset");
    let again = ResetListViewFromViewRequest { view };
    bench.client.invoke(&copy, again).await.expect("follows");
    assert_eq!(shown(&bench, &copy).await.len(), 1);
}

#[tokio::test]
async fn the_index_finds_a_vm_by_all_that_is_known_of_it() {
    let bench = bench().await;
    let vm = bench.create(spec("a b", vec![])).await.expect("made");
    let client = &bench.client;
    let index = client.content().search_index.clone().expect("one");
    let config = bench.config(&vm).await;
    let by_uuid = |uuid: &str, vm, instance| FindByUuidRequest {
        datacenter: None,
        uuid: uuid.into(),
        vm_search: vm,
        instance_uuid: instance,
    };
    let found = client.invoke(&index, by_uuid(&config.uuid, true, None));
    assert_eq!(found.await.expect("looks"), Some(vm.clone()));
    let upper = config.uuid.to_uppercase();
    let found = client.invoke(&index, by_uuid(&upper, true, Some(false)));
    assert_eq!(found.await.expect("looks"), Some(vm.clone()));
    let instance = config.instance_uuid.clone().expect("has one");
    let found = client.invoke(&index, by_uuid(&instance, true, Some(true)));
    assert_eq!(found.await.expect("looks"), Some(vm.clone()));
    let found = client.invoke(&index, by_uuid(&instance, true, Some(false)));
    assert_eq!(found.await.expect("looks"), None);
    let path = FindByDatastorePathRequest {
        datacenter: Moref::new("Datacenter", "ha-datacenter"),
        path: config.files.vm_path_name.clone().expect("has one"),
    };
    let found = client.invoke(&index, path).await.expect("looks");
    assert_eq!(found, Some(vm.clone()));
    for path in ["ha-datacenter/vm/a b", "/ha-datacenter/vm/a%20b"] {
        let request = FindByInventoryPathRequest {
            inventory_path: path.into(),
        };
        let found = client.invoke(&index, request).await.expect("looks");
        assert_eq!(found, Some(vm.clone()), "{path}");
    }
    let child = |name: &str| FindChildRequest {
        entity: folder(),
        name: name.into(),
    };
    let found = client.invoke(&index, child("a b")).await;
    assert_eq!(found.expect("looks"), Some(vm.clone()));
    let found = client.invoke(&index, child("none")).await;
    assert_eq!(found.expect("looks"), None);

    client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    let guest = bench.guest(&config);
    guest.send(simulator::engine::GuestEvent::HostName("box.lan".into()));
    let by_name = FindByDnsNameRequest {
        datacenter: None,
        dns_name: "box.lan".into(),
        vm_search: true,
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        // The guest's word travels by itself; it is there soon.
        let found = client.invoke(&index, by_name.clone()).await.expect("looks");
        if found == Some(vm.clone()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never found");
    }
}

#[tokio::test]
async fn the_index_of_a_vcenter_finds_hosts_and_goes_down_its_paths() {
    let bench = vcenter().await;
    let client = &bench.client;
    let index = client.content().search_index.clone().expect("one");
    let host = bench.named("HostSystem", "DC0_C0_H1").await;
    let uuid: Option<String> = client
        .property(&host, "hardware.systemInfo.uuid")
        .await
        .expect("reads");
    let by_uuid = FindAllByUuidRequest {
        datacenter: None,
        uuid: uuid.expect("has one"),
        vm_search: false,
        instance_uuid: None,
    };
    let found = client.invoke(&index, by_uuid).await.expect("looks");
    assert_eq!(found, std::slice::from_ref(&host));
    for (path, kind) in [
        ("DC0", "Datacenter"),
        ("DC0/vm", "Folder"),
        ("DC0/host/DC0_C0", "ClusterComputeResource"),
        ("DC0/host/DC0_C0/DC0_C0_H1", "HostSystem"),
        ("DC0/host/DC0_C0/Resources", "ResourcePool"),
        ("DC0/datastore/LocalDS_0", "Datastore"),
        ("DC0/network/VM Network", "Network"),
        ("DC0/network/DC0_DVPG0", "DistributedVirtualPortgroup"),
    ] {
        let request = FindByInventoryPathRequest {
            inventory_path: path.into(),
        };
        let found = client.invoke(&index, request).await.expect("looks");
        assert_eq!(found.expect(path).r#type, kind, "{path}");
    }
    let nothing = FindByInventoryPathRequest {
        inventory_path: "DC0/host/none/x".into(),
    };
    assert_eq!(client.invoke(&index, nothing).await.expect("looks"), None);
    let configuration: Option<Poly<ComputeResourceConfigInfo>> = client
        .property(
            &bench.first("ClusterComputeResource").await,
            "configurationEx",
        )
        .await
        .expect("reads");
    assert!(configuration.expect("is set").is::<ClusterConfigInfoEx>());
}
