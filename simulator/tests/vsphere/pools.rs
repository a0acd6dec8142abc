//! Folders and resource pools.

use vmomi::types::*;
use vmomi::{ManagedObjectReference as Moref, Method};

use super::bench::{Bench, bench, fault_of, pool, spec, vcenter};

async fn children(bench: &Bench, of: &Moref, list: &str) -> Vec<Moref> {
    let list: Option<Vec<Moref>> = bench.client.property(of, list).await.expect("reads");
    list.unwrap_or_default()
}

async fn reference(bench: &Bench, of: &Moref, path: &str) -> Moref {
    let found: Option<Moref> = bench.client.property(of, path).await.expect("reads");
    found.expect("is set")
}

fn new_pool(name: &str) -> CreateResourcePoolRequest {
    let allocation = ResourceAllocationInfo {
        reservation: Some(0),
        limit: Some(-1),
        expandable_reservation: Some(true),
        ..Default::default()
    };
    CreateResourcePoolRequest {
        name: name.into(),
        spec: ResourceConfigSpec {
            cpu_allocation: ResourceAllocationInfo {
                limit: Some(1000),
                ..allocation.clone()
            },
            memory_allocation: allocation,
            ..Default::default()
        },
    }
}

fn rename(name: &str) -> RenameRequest {
    RenameRequest {
        new_name: name.into(),
    }
}

/// A task of a method that takes nothing.
async fn done<M: Method<Response = Moref>>(bench: &Bench, on: &Moref, request: M) {
    bench.client.run_task(on, request).await.expect("done");
}

#[tokio::test]
async fn a_pool_holds_vms_and_gives_them_to_its_parent_when_it_goes() {
    let bench = bench().await;
    let client = &bench.client;
    let made = client.invoke(&pool(), new_pool("a")).await.expect("made");
    assert_eq!(
        fault_of(client.invoke(&pool(), new_pool("a")).await),
        "DuplicateName"
    );
    assert_eq!(
        fault_of(client.invoke(&pool(), new_pool("")).await),
        "InvalidName"
    );
    let inner = client.invoke(&made, new_pool("b")).await.expect("made");
    assert_eq!(
        children(&bench, &pool(), "resourcePool").await,
        std::slice::from_ref(&made)
    );
    assert_eq!(reference(&bench, &inner, "parent").await, made);
    let limit: Option<i64> = client
        .property(&made, "config.cpuAllocation.limit")
        .await
        .expect("reads");
    assert_eq!(limit, Some(1000));

    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let into = MoveIntoResourcePoolRequest {
        list: vec![vm.clone()],
    };
    client.invoke(&inner, into).await.expect("moves");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while children(&bench, &inner, "vm").await != [vm.clone()] {
        assert!(std::time::Instant::now() < deadline, "never moved");
    }
    assert_eq!(reference(&bench, &vm, "resourcePool").await, inner);
    assert_eq!(children(&bench, &pool(), "vm").await, []);

    let change = UpdateConfigRequest {
        name: Some("c".into()),
        config: Some(ResourceConfigSpec {
            cpu_allocation: ResourceAllocationInfo {
                limit: Some(2000),
                ..Default::default()
            },
            ..Default::default()
        }),
    };
    client.invoke(&made, change).await.expect("changed");
    let limit: Option<i64> = client
        .property(&made, "summary.config.cpuAllocation.limit")
        .await
        .expect("reads");
    assert_eq!(limit, Some(2000));
    assert_eq!(bench.named("ResourcePool", "c").await, made);

    done(&bench, &inner, DestroyRequest {}).await;
    assert_eq!(reference(&bench, &vm, "resourcePool").await, made);
    done(&bench, &made, DestroyRequest {}).await;
    assert_eq!(reference(&bench, &vm, "resourcePool").await, pool());
    assert_eq!(
        children(&bench, &pool(), "vm").await,
        std::slice::from_ref(&vm)
    );
    // The VM's own actor knows where it is now: it can go on.
    done(&bench, &vm, PowerOnVMRequest::default()).await;
    done(&bench, &vm, PowerOffVMRequest {}).await;
    assert_eq!(reference(&bench, &vm, "resourcePool").await, pool());
    done(&bench, &vm, DestroyRequest {}).await;
    assert_eq!(children(&bench, &pool(), "vm").await, []);
    let root = client.run_task(&pool(), DestroyRequest {}).await;
    assert_eq!(fault_of(root), "NotSupported");
}

#[tokio::test]
async fn the_children_of_a_pool_are_removed_at_once_and_their_vms_stay() {
    let bench = bench().await;
    let client = &bench.client;
    let a = client.invoke(&pool(), new_pool("a")).await.expect("made");
    let b = client.invoke(&a, new_pool("b")).await.expect("made");
    let request = CreateVMRequest {
        config: spec("one", vec![]),
        pool: b.clone(),
        ..Default::default()
    };
    let folder = super::bench::folder();
    let vm = client
        .run_task(&folder, request)
        .await
        .expect("made")
        .result;
    let vm = vm.and_then(|r| r.as_reference().cloned()).expect("a VM");
    client
        .invoke(&pool(), DestroyChildrenRequest {})
        .await
        .expect("done");
    assert_eq!(children(&bench, &pool(), "resourcePool").await, []);
    for gone in [&a, &b] {
        let found = client.property::<String>(gone, "name").await;
        assert_eq!(fault_of(found), "ManagedObjectNotFound", "{gone}");
    }
    assert_eq!(reference(&bench, &vm, "resourcePool").await, pool());
    done(&bench, &vm, DestroyRequest {}).await;
}

#[tokio::test]
async fn folders_are_made_renamed_filled_and_removed_when_they_are_empty() {
    let bench = vcenter().await;
    let client = &bench.client;
    let datacenter = bench.named("Datacenter", "DC0").await;
    let root = reference(&bench, &datacenter, "vmFolder").await;
    let new = |name: &str| CreateFolderRequest { name: name.into() };
    let a = client.invoke(&root, new("a")).await.expect("made");
    let b = client.invoke(&a, new("b")).await.expect("made");
    assert_eq!(
        fault_of(client.invoke(&root, new("a")).await),
        "DuplicateName"
    );
    assert_eq!(fault_of(client.invoke(&root, new("")).await), "InvalidName");
    assert_eq!(
        children(&bench, &a, "childEntity").await,
        std::slice::from_ref(&b)
    );
    let kinds: Option<Vec<String>> = client.property(&b, "childType").await.expect("reads");
    assert!(
        kinds
            .expect("is set")
            .contains(&"VirtualMachine".to_owned())
    );

    let cluster = bench.first("ClusterComputeResource").await;
    let mut config = spec("one", vec![]);
    config.files = Some(VirtualMachineFileInfo {
        vm_path_name: Some("[LocalDS_0]".into()),
        ..Default::default()
    });
    let request = CreateVMRequest {
        config,
        pool: reference(&bench, &cluster, "resourcePool").await,
        ..Default::default()
    };
    let vm = client.run_task(&b, request).await.expect("made").result;
    let vm = vm.and_then(|r| r.as_reference().cloned()).expect("a VM");
    assert_eq!(reference(&bench, &vm, "parent").await, b);
    let full = client.run_task(&b, DestroyRequest {}).await;
    assert_eq!(fault_of(full), "ResourceInUse");
    let into = MoveIntoFolderRequest {
        list: vec![vm.clone()],
    };
    done(&bench, &root, into).await;
    assert_eq!(reference(&bench, &vm, "parent").await, root);
    done(&bench, &b, DestroyRequest {}).await;
    done(&bench, &a, rename("c")).await;
    assert_eq!(bench.named("Folder", "c").await, a);
    let d = client.invoke(&root, new("d")).await.expect("made");
    let taken = client.run_task(&d, rename("c")).await;
    assert_eq!(fault_of(taken), "DuplicateName");
    // A VM is no folder's name either.
    let vm_folder = client.run_task(&datacenter, DestroyRequest {}).await;
    assert_eq!(fault_of(vm_folder), "NotSupported");
    let store = reference(&bench, &datacenter, "datastoreFolder").await;
    let wrong = CreateVMRequest {
        config: spec("two", vec![]),
        pool: reference(&bench, &cluster, "resourcePool").await,
        ..Default::default()
    };
    assert_eq!(
        fault_of(client.run_task(&store, wrong).await),
        "NotSupported"
    );
}
