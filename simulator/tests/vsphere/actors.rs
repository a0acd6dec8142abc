//! The tree of actors: each kind is killed, and the others and the service go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use vmomi::client::{property_spec, view_spec};
use vmomi::types::*;
use vmomi::{Client, ManagedObjectReference as Moref};

use super::bench::{Bench, Raw, add, bench, client_config, disk, fault_of, spec};

/// How long anything may take on a machine that has other work.
const SOON: Duration = Duration::from_secs(60);

/// The actors that run, by path: their kind, and their number in this process.
fn actors(bench: &Bench) -> BTreeMap<String, (&'static str, u64)> {
    let entries = bench.simulator.tree().entries();
    entries
        .into_iter()
        .map(|e| (e.path, (e.kind, e.actor)))
        .collect()
}

/// Kills the actor at `path`, and waits until another one is there.
async fn replaced(bench: &Bench, path: &str) {
    let (_, before) = actors(bench)[path];
    let killed = bench.simulator.tree().kill(path).await;
    assert_eq!(killed.expect("is there").actor, before);
    let deadline = Instant::now() + SOON;
    while actors(bench)
        .get(path)
        .is_none_or(|(_, now)| *now == before)
    {
        assert!(Instant::now() < deadline, "{path} does not come back");
        tokio::task::yield_now().await;
    }
}

/// Waits until `path` is not in the tree any more.
async fn gone(bench: &Bench, path: &str) {
    let deadline = Instant::now() + SOON;
    while actors(bench).contains_key(path) {
        assert!(Instant::now() < deadline, "{path} does not end");
        tokio::task::yield_now().await;
    }
}

/// The service as a client needs it: a VM is made, changed, and destroyed.
async fn works(bench: &Bench, name: &str) {
    let device = add(disk(-2, None, "", 1024, None), true);
    let vm = bench.create(spec(name, vec![device])).await.expect("made");
    let client = &bench.client;
    client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("on");
    client
        .run_task(&vm, PowerOffVMRequest {})
        .await
        .expect("off");
    client.run_task(&vm, DestroyRequest {}).await.expect("gone");
}

fn key_of(session: &UserSession) -> String {
    format!("sim/sessions/{}", session.key)
}

async fn session(client: &Client) -> UserSession {
    let manager = client.content().session_manager.clone().expect("one");
    let found: Option<UserSession> = client
        .property(&manager, "currentSession")
        .await
        .expect("reads");
    found.expect("is set")
}

#[tokio::test]
async fn every_thing_with_a_life_is_an_actor_in_the_tree() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let me = session(&bench.client).await;
    let collector = bench.client.content().property_collector.clone();
    let made = bench
        .client
        .invoke(&collector, CreatePropertyCollectorRequest {})
        .await
        .expect("made");
    let tree = actors(&bench);
    let mine = key_of(&me);
    for (path, kind) in [
        (mine.clone(), "session"),
        (format!("{mine}/{}", collector.value), "collector"),
        (format!("{mine}/{}", made.value), "collector"),
        ("sim/hosts/ha-host".into(), "host"),
        ("sim/datastores/datastore-1".into(), "datastore"),
        ("sim/networks/HaNetwork-VM Network".into(), "network"),
        (format!("sim/vms/{}", vm.value), "vm"),
    ] {
        assert_eq!(tree.get(&path).map(|(k, _)| *k), Some(kind), "{path}");
    }
    let branches: BTreeSet<&str> = tree.keys().filter_map(|p| p.split('/').nth(1)).collect();
    let all = [
        "datastores",
        "hosts",
        "networks",
        "sessions",
        "tasks",
        "vms",
    ];
    assert_eq!(branches.into_iter().collect::<Vec<_>>(), all);
    // A cookie is a secret: the tree names sessions by what `sessionList` shows.
    let cookie = bench.client.cookie().expect("logged in");
    assert!(tree.keys().all(|path| !path.contains(&cookie)));
    bench
        .client
        .invoke(&made, DestroyPropertyCollectorRequest {})
        .await
        .expect("gone");
    gone(&bench, &format!("{mine}/{}", made.value)).await;
    bench.client.close().await.expect("logs out");
    gone(&bench, &mine).await;
    gone(&bench, &format!("{mine}/{}", collector.value)).await;
}

#[tokio::test]
async fn a_session_that_dies_takes_what_is_its_own_and_nothing_else() {
    let bench = bench().await;
    let other = Client::connect(client_config(&bench.simulator, "root"))
        .await
        .expect("logs in");
    let (mine, theirs) = (session(&bench.client).await, session(&other).await);
    let root = bench.client.content().root_folder.clone();
    let views = bench.client.content().view_manager.clone().expect("one");
    let request = CreateContainerViewRequest {
        container: root,
        r#type: vec!["VirtualMachine".into()],
        recursive: true,
    };
    let my_view = bench.client.invoke(&views, request.clone()).await;
    let my_view = my_view.expect("a view");
    let their_view = other.invoke(&views, request).await.expect("a view");
    let watch = other.watch().await.expect("a watch");
    let filter = view_spec(&their_view, &["VirtualMachine"], &["name"]);
    let mut filter = watch.filter(filter).await.expect("a filter");

    let killed = bench.simulator.tree().kill(&key_of(&mine)).await;
    assert_eq!(killed.expect("is there").kind, "session");
    gone(&bench, &key_of(&mine)).await;
    let theirs_now = session(&other).await;
    assert_eq!(theirs_now.key, theirs.key, "the other one has its session");
    let lost = other.property::<Vec<Moref>>(&my_view, "view").await;
    assert_eq!(fault_of(lost), "ManagedObjectNotFound");
    // The client whose session it was logs in again by itself, and its tasks are awaited as before.
    works(&bench, "after").await;
    assert_ne!(session(&bench.client).await.key, mine.key);
    let vm = bench.create(spec("seen", vec![])).await.expect("made");
    let deadline = tokio::time::Instant::now() + SOON;
    let mut seen = false;
    while !seen {
        let batch = tokio::time::timeout_at(deadline, filter.next()).await;
        let batch = batch.expect("in time").expect("alive");
        seen = format!("{batch:?}").contains(&vm.value);
    }
}

#[tokio::test]
async fn a_collector_that_dies_is_missed_by_its_own_client_only() {
    let bench = bench().await;
    let manager = bench.client.content().session_manager.clone().expect("one");
    let raw = Raw::logged_in(&bench.simulator, "root", &manager).await;
    let first = bench.client.content().property_collector.clone();
    let made = raw.send(&first, &CreatePropertyCollectorRequest {}).await;
    let made = made
        .of::<CreatePropertyCollectorRequest>()
        .expect("a collector");
    let session = raw
        .send(
            &first,
            &RetrievePropertiesExRequest {
                spec_set: vec![PropertyFilterSpec {
                    prop_set: vec![property_spec("SessionManager", &["currentSession"])],
                    object_set: vec![ObjectSpec {
                        obj: manager.clone(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            },
        )
        .await;
    let session = session.of::<RetrievePropertiesExRequest>().expect("reads");
    let session = session.expect("an object").objects[0].prop_set[0]
        .val
        .clone();
    let key = key_of(session.as_data::<UserSession>().expect("a session"));
    let create = CreateFilterRequest {
        spec: PropertyFilterSpec {
            prop_set: vec![property_spec("Folder", &["name"])],
            object_set: vec![ObjectSpec {
                obj: super::bench::folder(),
                ..Default::default()
            }],
            ..Default::default()
        },
        partial_updates: false,
    };
    let wait = |version: &str| WaitForUpdatesExRequest {
        version: Some(version.into()),
        ..Default::default()
    };
    for collector in [&first, &made] {
        let filter = raw.send(collector, &create).await;
        filter.of::<CreateFilterRequest>().expect("a filter");
        let seen = raw.send(collector, &wait("")).await;
        let seen = seen.of::<WaitForUpdatesExRequest>().expect("waits");
        assert!(seen.is_some());
    }
    // One that was made is not there any more; a wait that stands ends.
    let path = format!("{key}/{}", made.value);
    let request = wait("1");
    let standing = raw.send(&made, &request);
    let kill = async {
        let deadline = Instant::now() + SOON;
        let busy = || {
            let entries = bench.simulator.tree().entries();
            entries.iter().any(|e| e.path == path && e.busy > 0)
        };
        while !busy() {
            assert!(Instant::now() < deadline, "the wait never begins");
            tokio::task::yield_now().await;
        }
        bench.simulator.tree().kill(&path).await.expect("is there")
    };
    let (standing, _) = tokio::join!(standing, kill);
    let fault = standing.fault::<WaitForUpdatesExRequest>();
    assert!(["RequestCanceled", "ManagedObjectNotFound"].contains(&fault.as_str()));
    gone(&bench, &path).await;
    let late = raw.send(&made, &wait("1")).await;
    assert_eq!(
        late.fault::<WaitForUpdatesExRequest>(),
        "ManagedObjectNotFound"
    );
    // The session's own is there again, and has forgotten its filters and versions.
    let path = format!("{key}/{}", first.value);
    let check = CheckForUpdatesRequest {
        version: Some("1".into()),
    };
    let before = raw.send(&first, &check);
    assert_eq!(
        before.await.of::<CheckForUpdatesRequest>().expect("same"),
        None
    );
    replaced(&bench, &path).await;
    let late = raw.send(&first, &check);
    assert_eq!(
        late.await.fault::<CheckForUpdatesRequest>(),
        "InvalidCollectorVersion"
    );
    let again = raw.send(&first, &create).await;
    again.of::<CreateFilterRequest>().expect("a new filter");
    let seen = raw.send(&first, &wait("")).await;
    let seen = seen.of::<WaitForUpdatesExRequest>().expect("waits");
    assert_eq!(seen.expect("everything").filter_set.len(), 1);
    works(&bench, "after").await;
}

#[tokio::test]
async fn a_client_that_waits_survives_the_end_of_its_collector() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let me = key_of(&session(&bench.client).await);
    for round in 0..5 {
        // Whatever collectors it has, all of them die while it waits on one.
        for (path, (kind, _)) in actors(&bench) {
            if kind == "collector" && path.starts_with(&me) {
                bench.simulator.tree().kill(&path).await;
            }
        }
        let note = VirtualMachineConfigSpec {
            annotation: Some(format!("round {round}")),
            ..Default::default()
        };
        let deadline = Instant::now() + SOON;
        loop {
            let request = ReconfigVMRequest { spec: note.clone() };
            match bench.client.run_task(&vm, request).await {
                Ok(_) => break,
                // The call was made, its outcome was lost with the collector: it may be asked again.
                Err(error) => assert!(error.is_retryable() || error.fault().is_some(), "{error}"),
            }
            assert!(Instant::now() < deadline);
        }
        let config = bench.config(&vm).await;
        assert_eq!(config.annotation, note.annotation);
    }
}

#[tokio::test]
async fn a_task_that_dies_ends_with_a_fault_and_its_work_with_no_second_end() {
    let bench = bench().await;
    let client = &bench.client;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let manager = client.content().task_manager.clone().expect("one");
    let create = |n: i32| CreateTaskRequest {
        obj: vm.clone(),
        task_type_id: format!("com.example.{n}"),
        ..Default::default()
    };
    let victim = client.invoke(&manager, create(1)).await.expect("made").task;
    let other = client.invoke(&manager, create(2)).await.expect("made").task;
    let path = format!("sim/tasks/{}", victim.value);
    let run = SetTaskStateRequest {
        state: TaskInfoState::Running,
        ..Default::default()
    };
    client.invoke(&victim, run.clone()).await.expect("runs");
    bench.simulator.tree().kill(&path).await.expect("is there");
    assert_eq!(fault_of(client.wait_task(&victim).await), "SystemError");
    let late = client.invoke(&victim, run.clone()).await;
    assert_eq!(fault_of(late), "InvalidState");
    let info: Option<TaskInfo> = client.property(&victim, "info").await.expect("reads");
    assert_eq!(info.expect("is set").state, TaskInfoState::Error);
    // The other one goes on, and leaves the tree when it has ended.
    client.invoke(&other, run).await.expect("runs");
    let done = SetTaskStateRequest {
        state: TaskInfoState::Success,
        ..Default::default()
    };
    client.invoke(&other, done).await.expect("ends");
    client.wait_task(&other).await.expect("success");
    gone(&bench, &format!("sim/tasks/{}", other.value)).await;
    works(&bench, "after").await;
    let deadline = Instant::now() + SOON;
    let left = || actors(&bench).keys().any(|p| p.starts_with("sim/tasks/"));
    while left() {
        assert!(Instant::now() < deadline, "no task stays when it has ended");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn hosts_datastores_and_networks_that_die_are_there_again_with_all_they_had() {
    let bench = bench().await;
    let client = &bench.client;
    let host = bench.first("HostSystem").await;
    let system: Option<Moref> = client
        .property(&host, "configManager.networkSystem")
        .await
        .expect("reads");
    let system = system.expect("is set");
    let switch = |name: &str| AddVirtualSwitchRequest {
        vswitch_name: name.into(),
        ..Default::default()
    };
    let group = |name: &str, switch: &str| AddPortGroupRequest {
        portgrp: HostPortGroupSpec {
            name: name.into(),
            vlan_id: 0,
            vswitch_name: switch.into(),
            ..Default::default()
        },
    };
    let remove = |name: &str| RemovePortGroupRequest {
        pg_name: name.into(),
    };
    client.invoke(&system, switch("s1")).await.expect("made");
    client
        .invoke(&system, group("g1", "s1"))
        .await
        .expect("made");
    replaced(&bench, "sim/hosts/ha-host").await;
    replaced(&bench, "sim/networks/HaNetwork-g1").await;
    let taken = client.invoke(&system, group("g1", "s1")).await;
    assert_eq!(fault_of(taken), "AlreadyExists");
    let used = RemoveVirtualSwitchRequest {
        vswitch_name: "s1".into(),
    };
    let used_fault = fault_of(client.invoke(&system, used.clone()).await);
    assert_eq!(used_fault, "ResourceInUse");

    let nic = VirtualVmxnet3 {
        key: -3,
        backing: Some(
            VirtualEthernetCardNetworkBackingInfo {
                device_name: "g1".into(),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    };
    let vm = bench
        .create(spec("one", vec![add(nic, false)]))
        .await
        .expect("made");
    replaced(&bench, "sim/networks/HaNetwork-g1").await;
    let used_fault = fault_of(client.invoke(&system, remove("g1")).await);
    assert_eq!(used_fault, "ResourceInUse", "a VM is on it");
    let network = Moref::new("Network", "HaNetwork-g1");
    let used_fault = fault_of(client.invoke(&network, DestroyNetworkRequest {}).await);
    assert_eq!(used_fault, "ResourceInUse");
    client.run_task(&vm, DestroyRequest {}).await.expect("gone");
    client
        .invoke(&network, DestroyNetworkRequest {})
        .await
        .expect("gone");
    gone(&bench, "sim/networks/HaNetwork-g1").await;
    let missing = fault_of(client.invoke(&system, remove("g1")).await);
    assert_eq!(missing, "NotFound");
    client
        .invoke(&system, used)
        .await
        .expect("nothing needs it");
    let own = Moref::new("Network", "HaNetwork-VM Network");
    let used_fault = fault_of(client.invoke(&own, DestroyNetworkRequest {}).await);
    assert_eq!(used_fault, "ResourceInUse");

    let files = client.content().file_manager.clone().expect("one");
    for round in 0..5 {
        replaced(&bench, "sim/datastores/datastore-1").await;
        let request = MakeDirectoryRequest {
            name: format!("[datastore1] round{round}"),
            ..Default::default()
        };
        client.invoke(&files, request).await.expect("made");
    }
    works(&bench, "after").await;
}

#[tokio::test]
async fn a_datastore_that_dies_busy_ends_every_task_and_leaves_no_half_disk() {
    let bench = bench().await;
    let client = &bench.client;
    let disks = client.content().virtual_disk_manager.clone().expect("one");
    let create = |name: &str| CreateVirtualDiskRequest {
        name: format!("[datastore1] {name}.vmdk"),
        spec: FileBackedVirtualDiskSpec {
            disk_type: "thin".into(),
            adapter_type: "lsiLogic".into(),
            capacity_kb: 32 << 10,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    };
    client.run_task(&disks, create("base")).await.expect("made");
    let copies = (0..30).map(|n| {
        let (client, disks) = (client.clone(), disks.clone());
        async move {
            // Some share a place: these wait for one another.
            let request = CopyVirtualDiskRequest {
                source_name: "[datastore1] base.vmdk".into(),
                dest_name: format!("[datastore1] copy{}.vmdk", n % 10),
                ..Default::default()
            };
            (n % 10, client.run_task(&disks, request).await)
        }
    });
    let kills = async {
        for _ in 0..5 {
            replaced(&bench, "sim/datastores/datastore-1").await;
        }
    };
    let (results, ()) = tokio::join!(futures_util::future::join_all(copies), kills);
    let uuid = |n: i32| QueryVirtualDiskUuidRequest {
        name: format!("[datastore1] copy{n}.vmdk"),
        ..Default::default()
    };
    for n in 0..10 {
        let good = results.iter().filter(|(m, r)| *m == n && r.is_ok()).count();
        assert!(good <= 1, "copy{n} was made {good} times");
        // A disk is whole, or not there: the next who wants it there has it.
        let there = client.invoke(&disks, uuid(n)).await;
        assert!(there.is_ok() || fault_of(there) == "FileNotFound");
        let again = CopyVirtualDiskRequest {
            source_name: "[datastore1] base.vmdk".into(),
            dest_name: format!("[datastore1] copy{n}.vmdk"),
            force: Some(true),
            ..Default::default()
        };
        client.run_task(&disks, again).await.expect("replaces it");
        client.invoke(&disks, uuid(n)).await.expect("is whole");
    }
}

#[tokio::test]
async fn a_whole_branch_that_dies_grows_again() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    for branch in [
        "vms",
        "hosts",
        "datastores",
        "networks",
        "tasks",
        "sessions",
    ] {
        let path = format!("sim/{branch}");
        let below = |tree: &BTreeMap<String, (&'static str, u64)>| -> BTreeSet<String> {
            let own = format!("{path}/");
            let paths = tree.keys().filter(|p| p.starts_with(&own));
            paths.cloned().collect()
        };
        let before = below(&actors(&bench));
        replaced(&bench, &path).await;
        if !matches!(branch, "tasks" | "sessions") {
            let deadline = Instant::now() + SOON;
            while below(&actors(&bench)) != before {
                assert!(Instant::now() < deadline, "{branch} does not grow again");
                tokio::task::yield_now().await;
            }
        }
        works(&bench, &format!("after-{branch}")).await;
    }
    let note = VirtualMachineConfigSpec {
        annotation: Some("alive".into()),
        ..Default::default()
    };
    let request = ReconfigVMRequest { spec: note };
    bench.client.run_task(&vm, request).await.expect("changed");
}
