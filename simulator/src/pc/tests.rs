//! Collectors over an inventory of folders and VMs that the tests make.

use std::time::Duration;

use vmomi::types::{
    ObjectSpec, ObjectUpdateKind, PropertyFilterSpec, PropertySpec, SelectionSpec, TraversalSpec,
    UpdateSet, VirtualMachinePowerState, VirtualMachineRuntimeInfo,
};
use vmomi::{ManagedObjectReference as Moref, Version};

use super::{Collector, Reader, WaitOptions};
use crate::inventory::{Inventory, Prop, Tree, ViewDefinition};

fn reader() -> Reader {
    Reader {
        version: Version::newest(),
        session: None,
        sessions: vec![],
        filters: vec![],
    }
}

fn folder(inventory: &Inventory, id: &str, parent: Option<&str>) -> Moref {
    inventory.commit(|t| {
        let moref = t.create(
            Moref::new("Folder", id),
            vec![
                ("name", Prop::value(id)),
                ("childEntity", Prop::Refs(Tree::default())),
            ],
        );
        if let Some(parent) = parent {
            t.set(id, "parent", Moref::new("Folder", parent));
            t.add_ref(parent, "childEntity", &moref);
        }
        moref
    })
}

fn vm(inventory: &Inventory, id: &str, parent: &str) -> Moref {
    inventory.commit(|t| {
        let moref = t.create(
            Moref::new("VirtualMachine", id),
            vec![
                ("name", Prop::value(id)),
                ("runtime", Prop::value(VirtualMachineRuntimeInfo::default())),
                ("parent", Prop::value(Moref::new("Folder", parent))),
            ],
        );
        t.add_ref(parent, "childEntity", &moref);
        moref
    })
}

fn power(inventory: &Inventory, id: &str, state: VirtualMachinePowerState) {
    inventory.commit(|t| {
        let runtime = VirtualMachineRuntimeInfo {
            power_state: state,
            ..Default::default()
        };
        t.set(id, "runtime", runtime);
    });
}

/// All VMs below `root`, through folders in folders.
fn below(root: &str, paths: &[&str]) -> PropertyFilterSpec {
    let again = SelectionSpec {
        name: Some("down".into()),
        ..Default::default()
    };
    let down = TraversalSpec {
        name: Some("down".into()),
        r#type: "Folder".into(),
        path: "childEntity".into(),
        select_set: vec![again.into()],
        ..Default::default()
    };
    PropertyFilterSpec {
        prop_set: vec![PropertySpec {
            r#type: "VirtualMachine".into(),
            path_set: paths.iter().map(|p| (*p).to_owned()).collect(),
            ..Default::default()
        }],
        object_set: vec![ObjectSpec {
            obj: Moref::new("Folder", root),
            skip: Some(true),
            select_set: vec![down.into()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

const AT_ONCE: WaitOptions = WaitOptions {
    max_wait: Some(Duration::ZERO),
    max_updates: None,
};

async fn poll(collector: &Collector, version: &str) -> Option<UpdateSet> {
    collector
        .wait(reader(), version, AT_ONCE)
        .await
        .expect("no fault")
}

fn kinds(updates: &UpdateSet) -> Vec<(String, ObjectUpdateKind)> {
    let all = updates.filter_set.iter().flat_map(|f| &f.object_set);
    all.map(|u| (u.obj.value.clone(), u.kind.clone())).collect()
}

async fn collector(inventory: &Inventory, spec: PropertyFilterSpec) -> Collector {
    let collector = Collector::alone(inventory).await;
    collector
        .create_filter(&inventory.now(), "f".into(), &spec)
        .await
        .expect("a good filter");
    collector
}

#[tokio::test]
async fn a_filter_tells_what_enters_changes_and_leaves() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    folder(&inventory, "sub", Some("root"));
    vm(&inventory, "vm-1", "sub");
    let c = collector(&inventory, below("root", &["name", "runtime.powerState"])).await;
    let first = poll(&c, "").await.expect("everything");
    assert_eq!(
        kinds(&first),
        [("vm-1".to_owned(), ObjectUpdateKind::Enter)]
    );
    assert_eq!(poll(&c, &first.version).await, None);

    vm(&inventory, "vm-2", "root");
    power(&inventory, "vm-1", VirtualMachinePowerState::PoweredOn);
    let second = poll(&c, &first.version).await.expect("changes");
    assert_eq!(
        kinds(&second),
        [
            ("vm-1".to_owned(), ObjectUpdateKind::Modify),
            ("vm-2".to_owned(), ObjectUpdateKind::Enter)
        ]
    );
    let changes = &second.filter_set[0].object_set[0].change_set;
    assert_eq!(
        changes.len(),
        1,
        "only what is watched and has changed: {changes:?}"
    );
    assert_eq!(changes[0].name, "runtime.powerState");

    inventory.commit(|t| {
        t.remove_ref("sub", "childEntity", "vm-1");
        t.remove("vm-1");
    });
    let third = poll(&c, &second.version).await.expect("changes");
    assert_eq!(
        kinds(&third),
        [("vm-1".to_owned(), ObjectUpdateKind::Leave)]
    );
}

#[tokio::test]
async fn an_object_that_moves_out_of_reach_leaves() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    folder(&inventory, "other", None);
    let moref = vm(&inventory, "vm-1", "root");
    let c = collector(&inventory, below("root", &["name"])).await;
    let first = poll(&c, "").await.expect("everything");
    inventory.commit(|t| {
        t.remove_ref("root", "childEntity", "vm-1");
        t.add_ref("other", "childEntity", &moref);
    });
    let second = poll(&c, &first.version).await.expect("a change");
    assert_eq!(
        kinds(&second),
        [("vm-1".to_owned(), ObjectUpdateKind::Leave)]
    );
}

#[tokio::test]
async fn a_lost_reply_is_sent_again_and_a_strange_version_is_refused() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    vm(&inventory, "vm-1", "root");
    let c = collector(&inventory, below("root", &["runtime.powerState"])).await;
    let first = poll(&c, "").await.expect("everything");
    power(&inventory, "vm-1", VirtualMachinePowerState::PoweredOn);
    let second = poll(&c, &first.version).await.expect("a change");
    assert_eq!(poll(&c, &first.version).await, Some(second.clone()));
    assert_eq!(poll(&c, &second.version).await, None);
    let fault = c.wait(reader(), "77", AT_ONCE).await.expect_err("refused");
    assert_eq!(fault.fault.type_name(), "InvalidCollectorVersion");
}

#[tokio::test]
async fn a_long_list_is_truncated_and_nothing_is_lost() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    for i in 0..10 {
        vm(&inventory, &format!("vm-{i}"), "root");
    }
    let c = collector(&inventory, below("root", &["name"])).await;
    let options = WaitOptions {
        max_wait: Some(Duration::ZERO),
        max_updates: Some(4),
    };
    let (mut version, mut seen, mut truncated) = (String::new(), 0, Vec::new());
    while let Some(set) = c.wait(reader(), &version, options).await.expect("no fault") {
        seen += kinds(&set).len();
        truncated.push(set.truncated == Some(true));
        version = set.version;
    }
    assert_eq!((seen, truncated), (10, vec![true, true, false]));
}

#[tokio::test]
async fn a_wait_ends_by_a_change_or_by_being_cancelled() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    vm(&inventory, "vm-1", "root");
    let c = collector(&inventory, below("root", &["runtime.powerState"])).await;
    let first = poll(&c, "").await.expect("everything");
    let wait = |version: String| {
        let c = c.clone();
        tokio::spawn(async move { c.wait(reader(), &version, WaitOptions::default()).await })
    };
    let waiting = wait(first.version.clone());
    tokio::task::yield_now().await;
    power(&inventory, "vm-1", VirtualMachinePowerState::PoweredOn);
    let second = waiting
        .await
        .expect("ends")
        .expect("no fault")
        .expect("a change");
    let waiting = wait(second.version.clone());
    tokio::task::yield_now().await;
    c.cancel_wait();
    let fault = waiting.await.expect("ends").expect_err("cancelled");
    assert_eq!(fault.fault.type_name(), "RequestCanceled");
}

#[tokio::test]
async fn a_container_view_is_alive() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    vm(&inventory, "vm-1", "root");
    inventory.commit(|t| {
        t.create(Moref::new("ContainerView", "view"), vec![]);
        t.add_view(ViewDefinition {
            view: "view".into(),
            container: "root".into(),
            types: vec!["VirtualMachine".into()],
            recursive: true,
        });
    });
    let shown = || inventory.now().children("view", "view").len();
    assert_eq!(shown(), 1);
    vm(&inventory, "vm-2", "root");
    assert_eq!(shown(), 2);
    inventory.commit(|t| t.remove("vm-1"));
    assert_eq!(shown(), 1);
}

#[tokio::test]
async fn wrong_specifications_are_refused() {
    let inventory = Inventory::default();
    folder(&inventory, "root", None);
    let c = Collector::alone(&inventory).await;
    let refused = async |spec: PropertyFilterSpec| {
        let now = inventory.now();
        let made = c.create_filter(&now, "f".into(), &spec).await;
        made.expect_err("refused").fault.type_name().to_owned()
    };
    assert_eq!(
        refused(below("root", &["config.nonsense"])).await,
        "InvalidProperty"
    );
    assert_eq!(
        refused(below("nowhere", &["name"])).await,
        "ManagedObjectNotFound"
    );
}
