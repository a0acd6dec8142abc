//! Reading through the property collector: traversal, paging, and what is refused.

use vmomi::client::property_spec;
use vmomi::types::*;
use vmomi::{Any, ManagedObjectReference as Moref, Poly};

use super::bench::{Bench, bench, fault_of, folder, spec, vcenter};

fn named(name: &str) -> Poly<SelectionSpec> {
    SelectionSpec {
        name: Some(name.into()),
        ..Default::default()
    }
    .into()
}

fn step(name: &str, kind: &str, path: &str, next: &[&str]) -> Poly<SelectionSpec> {
    TraversalSpec {
        name: Some(name.into()),
        r#type: kind.into(),
        path: path.into(),
        skip: Some(false),
        select_set: next.iter().map(|n| named(n)).collect(),
        ..Default::default()
    }
    .into()
}

/// The selection that old clients send: every way down from the root folder, each by its name.
fn whole_tree() -> Vec<Poly<SelectionSpec>> {
    vec![
        step(
            "folders",
            "Folder",
            "childEntity",
            &["folders", "vms", "hosts", "stores", "members", "pools"],
        ),
        step("vms", "Datacenter", "vmFolder", &["folders"]),
        step("hosts", "Datacenter", "hostFolder", &["folders"]),
        step("stores", "Datacenter", "datastoreFolder", &["folders"]),
        step("members", "ComputeResource", "host", &[]),
        step("pools", "ComputeResource", "resourcePool", &["below"]),
        step("below", "ResourcePool", "resourcePool", &["below"]),
    ]
}

fn of(
    start: &Moref,
    props: Vec<PropertySpec>,
    set: Vec<Poly<SelectionSpec>>,
) -> PropertyFilterSpec {
    PropertyFilterSpec {
        prop_set: props,
        object_set: vec![ObjectSpec {
            obj: start.clone(),
            skip: Some(false),
            select_set: set,
        }],
        ..Default::default()
    }
}

/// Reads by hand, so that every page is seen: its length, and the names in it.
async fn pages(bench: &Bench, specs: Vec<PropertyFilterSpec>, size: i32) -> Vec<Vec<Moref>> {
    let collector = &bench.client.content().property_collector;
    let request = RetrievePropertiesExRequest {
        spec_set: specs,
        options: RetrieveOptions {
            max_objects: Some(size),
        },
    };
    let mut page = bench
        .client
        .invoke(collector, request)
        .await
        .expect("reads");
    let mut all = Vec::new();
    while let Some(result) = page.take() {
        all.push(result.objects.into_iter().map(|o| o.obj).collect());
        if let Some(token) = result.token {
            let more = ContinueRetrievePropertiesExRequest { token };
            page = Some(bench.client.invoke(collector, more).await.expect("goes on"));
        }
    }
    all
}

#[tokio::test]
async fn a_traversal_finds_the_whole_tree_once() {
    let bench = vcenter().await;
    let root = bench.client.content().root_folder.clone();
    let props = vec![property_spec("ManagedEntity", &["name", "parent"])];
    let read = bench
        .client
        .retrieve(vec![of(&root, props, whole_tree())])
        .await
        .expect("reads");
    let mut seen = std::collections::HashSet::new();
    for found in &read {
        assert!(seen.insert(found.object.clone()), "{} twice", found.object);
        assert!(found.text("name").is_some());
        // Whatever lies in the tree hangs on something that was found before it.
        let parent: Option<Moref> = found.get("parent");
        assert!(parent.is_none_or(|p| seen.contains(&p)), "{found:?}");
    }
    let count = |kind: &str| read.iter().filter(|o| o.object.r#type == kind).count();
    assert_eq!(count("Datacenter"), 1);
    assert_eq!(count("HostSystem"), 2);
    assert_eq!(count("ClusterComputeResource"), 1);
    assert_eq!(count("ResourcePool"), 1);
    assert_eq!(count("Datastore"), 1);
    assert_eq!(count("Folder"), 4, "the root, and three of the datacenter");
}

#[tokio::test]
async fn objects_that_are_skipped_are_passed_through_but_not_shown() {
    let bench = bench().await;
    let mut way = whole_tree();
    for one in &mut way {
        if let Some(step) = one.get_mut::<TraversalSpec>() {
            step.skip = Some(step.path != "host");
        }
    }
    let root = bench.client.content().root_folder.clone();
    let mut spec = of(&root, vec![property_spec("ManagedEntity", &["name"])], way);
    spec.object_set[0].skip = Some(true);
    let read = bench.client.retrieve(vec![spec]).await.expect("reads");
    let kinds: Vec<&str> = read.iter().map(|o| o.object.r#type.as_str()).collect();
    assert_eq!(kinds, ["HostSystem"]);
}

#[tokio::test]
async fn every_object_is_on_one_page_whatever_the_size_and_the_number_of_specifications() {
    let bench = bench().await;
    let mut vms = Vec::new();
    for i in 0..5 {
        let made = bench.create(spec(&format!("vm{i}"), vec![])).await;
        vms.push(made.expect("made"));
    }
    let children = || {
        let mut spec = of(
            &folder(),
            vec![property_spec("VirtualMachine", &["name"])],
            vec![step("c", "Folder", "childEntity", &[])],
        );
        spec.object_set[0].skip = Some(true);
        spec
    };
    let stores = PropertyFilterSpec {
        prop_set: vec![property_spec("Datastore", &["name"])],
        object_set: vec![ObjectSpec {
            obj: bench.first("Datastore").await,
            ..Default::default()
        }],
        ..Default::default()
    };
    let sizes = |pages: &[Vec<Moref>]| pages.iter().map(Vec::len).collect::<Vec<_>>();
    let two = pages(&bench, vec![children()], 2).await;
    assert_eq!(sizes(&two), [2, 2, 1]);
    assert_eq!(two.concat(), vms);
    let five = pages(&bench, vec![children()], 5).await;
    assert_eq!(sizes(&five), [5], "no token when nothing is left");
    // Two specifications are one list.
    let both = pages(&bench, vec![children(), stores], 4).await;
    assert_eq!(sizes(&both), [4, 2]);
    assert_eq!(both.concat()[..5], vms);
}

#[tokio::test]
async fn pages_show_the_moment_of_the_first_one_and_a_token_is_good_once() {
    let bench = bench().await;
    let mut vms = Vec::new();
    for i in 0..3 {
        let made = bench.create(spec(&format!("vm{i}"), vec![])).await;
        vms.push(made.expect("made"));
    }
    let collector = bench.client.content().property_collector.clone();
    let request = RetrievePropertiesExRequest {
        spec_set: vec![PropertyFilterSpec {
            prop_set: vec![property_spec("VirtualMachine", &["name"])],
            object_set: vms
                .iter()
                .map(|vm| ObjectSpec {
                    obj: vm.clone(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }],
        options: RetrieveOptions {
            max_objects: Some(1),
        },
    };
    let first = bench.client.invoke(&collector, request).await;
    let token = first.expect("reads").expect("objects").token.expect("more");
    let rename = RenameRequest {
        new_name: "other".into(),
    };
    bench
        .client
        .run_task(&vms[1], rename)
        .await
        .expect("renamed");
    let more = ContinueRetrievePropertiesExRequest {
        token: token.clone(),
    };
    let second = bench
        .client
        .invoke(&collector, more)
        .await
        .expect("goes on");
    assert_eq!(second.objects[0].prop_set[0].val, Any::from("vm1"));
    let token = second.token.expect("one more");
    let cancel = CancelRetrievePropertiesExRequest {
        token: token.clone(),
    };
    bench
        .client
        .invoke(&collector, cancel)
        .await
        .expect("forgotten");
    let more = ContinueRetrievePropertiesExRequest { token };
    let late = bench.client.invoke(&collector, more).await;
    assert_eq!(fault_of(late), "InvalidArgument");
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let bench = bench().await;
    let client = &bench.client;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    for path in [
        "nonsense",
        "config.nonsense",
        "config.hardware.device[1].nonsense",
        "name.length",
        "config..name",
    ] {
        let error = client.property::<Any>(&vm, path).await.expect_err(path);
        let fault = error.fault().expect("a fault").clone();
        let invalid = fault.get::<InvalidProperty>().expect(path).clone();
        assert_eq!(invalid.name, path);
    }
    let none = Moref::new("VirtualMachine", "none");
    let error = client
        .property::<String>(&none, "name")
        .await
        .expect_err("");
    let fault = error.fault().expect("a fault").clone();
    let missing = fault.get::<ManagedObjectNotFound>().expect("says so");
    assert_eq!(missing.obj, none);
    // Who asks for it gets what is there, and no fault for what is not.
    let mut lenient = of(
        &none,
        vec![property_spec("VirtualMachine", &["name"])],
        vec![],
    );
    lenient.object_set.push(ObjectSpec {
        obj: vm.clone(),
        ..Default::default()
    });
    lenient.report_missing_objects_in_results = Some(true);
    let read = client.retrieve(vec![lenient]).await.expect("reads");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].object, vm);
    let unset: Option<String> = client
        .property(&vm, "config.annotation")
        .await
        .expect("reads");
    assert!(unset.is_none_or(|text| text.is_empty()));
    let spec = of(&vm, vec![property_spec("NoSuchType", &["name"])], vec![]);
    let strange = client.retrieve(vec![spec]).await.expect_err("no such type");
    assert!(strange.is_fault("InvalidArgument"), "{strange}");
}

#[tokio::test]
async fn an_element_of_an_array_is_read_by_its_key() {
    let bench = bench().await;
    let mut config = spec("one", vec![]);
    config.extra_config = vec![super::bench::option("guestinfo.a.b[\"c\"]", "deep")];
    let vm = bench.create(config).await.expect("made");
    let client = &bench.client;
    let device: Option<Poly<VirtualDevice>> = client
        .property(&vm, "config.hardware.device[1000]")
        .await
        .expect("reads");
    assert!(device.expect("is there").is::<ParaVirtualSCSIController>());
    let value: Option<String> = client
        .property(
            &vm,
            "config.extraConfig[\"guestinfo.a.b[\\\"c\\\"]\"].value",
        )
        .await
        .expect("reads");
    assert_eq!(value.as_deref(), Some("deep"));
    let none: Option<String> = client
        .property(&vm, "config.extraConfig[\"none\"].value")
        .await
        .expect("reads");
    assert_eq!(none, None);
}
