//! The standing wait against a server that fails on purpose.

#![allow(clippy::unwrap_used)]

#[path = "support/server.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Reply, Server};
use tokio::sync::Notify;
use vmomi::client::{Client, view_spec};
use vmomi::soap::Request;
use vmomi::types::*;
use vmomi::{Any, ManagedObjectReference};

/// A property collector that watches one list of tasks, and filters that a test feeds.
#[derive(Default)]
struct World {
    epoch: u32,
    filters: u32,
    listed: BTreeSet<String>,
    ended: BTreeMap<String, Option<LocalizedMethodFault>>,
    told: BTreeSet<String>,
    updates: Vec<PropertyFilterUpdate>,
    truncated: bool,
    lose: bool,
    refuse_wait_once: bool,
}

struct Fake {
    world: Mutex<World>,
    changed: Notify,
    waits: std::sync::atomic::AtomicUsize,
    slow_filter: Notify,
    hold_filters: std::sync::atomic::AtomicBool,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            world: Mutex::default(),
            changed: Notify::new(),
            waits: 0.into(),
            slow_filter: Notify::new(),
            hold_filters: false.into(),
        })
    }

    fn change(&self, with: impl FnOnce(&mut World)) {
        with(&mut self.world.lock().unwrap());
        self.changed.notify_waiters();
    }

    fn current(&self, this: &ManagedObjectReference) -> bool {
        this.value
            .ends_with(&format!("-{}", self.world.lock().unwrap().epoch))
    }

    fn updates(&self) -> Option<UpdateSet> {
        let mut world = self.world.lock().unwrap();
        let world = &mut *world;
        let mut sets = std::mem::take(&mut world.updates);
        let mut objects = Vec::new();
        for (task, error) in &world.ended {
            if world.listed.contains(task) && world.told.insert(task.clone()) {
                let state = if error.is_some() {
                    TaskInfoState::Error
                } else {
                    TaskInfoState::Success
                };
                let change = |name: &str, val: Any| PropertyChange {
                    name: name.into(),
                    val: Some(val),
                    ..Default::default()
                };
                let mut changes = vec![
                    change("info.state", state.into()),
                    change("info.name", "Test_Task".into()),
                ];
                if let Some(error) = error {
                    changes.push(change("info.error", error.clone().into()));
                }
                objects.push(ObjectUpdate {
                    kind: ObjectUpdateKind::Enter,
                    obj: ManagedObjectReference::new("Task", task.clone()),
                    change_set: changes,
                    ..Default::default()
                });
            }
        }
        if !objects.is_empty() {
            let filter =
                ManagedObjectReference::new("PropertyFilter", format!("filter-{}-1", world.epoch));
            sets.push(PropertyFilterUpdate {
                filter,
                object_set: objects,
                ..Default::default()
            });
        }
        (!sets.is_empty()).then(|| UpdateSet {
            version: "v".into(),
            filter_set: sets,
            truncated: world.truncated.then_some(true),
        })
    }

    async fn answer(self: Arc<Self>, request: Request) -> Reply {
        let method = request.method.name;
        let made =
            |kind: &str, id: String| Reply::of(method, &ManagedObjectReference::new(kind, id));
        let gone = || {
            Reply::fault(ManagedObjectNotFound {
                obj: request.this.clone(),
                ..Default::default()
            })
        };
        match method {
            "CreatePropertyCollector" => {
                let mut world = self.world.lock().unwrap();
                *world = World {
                    epoch: world.epoch + 1,
                    ended: std::mem::take(&mut world.ended),
                    ..Default::default()
                };
                made("PropertyCollector", format!("pc-{}", world.epoch))
            }
            "CreateListView" => made(
                "ListView",
                format!("list-{}", self.world.lock().unwrap().epoch),
            ),
            "CreateFilter" if !self.current(&request.this) => gone(),
            "CreateFilter" => {
                let filter = {
                    let mut world = self.world.lock().unwrap();
                    world.filters += 1;
                    format!("filter-{}-{}", world.epoch, world.filters)
                };
                if self.hold_filters.load(std::sync::atomic::Ordering::SeqCst) {
                    // The first state goes out before the filter's creation is answered.
                    let filter = ManagedObjectReference::new("PropertyFilter", filter.clone());
                    let set = PropertyFilterUpdate {
                        filter,
                        object_set: vec![ObjectUpdate::default()],
                        ..Default::default()
                    };
                    self.change(|world| world.updates.push(set));
                    self.slow_filter.notified().await;
                }
                made("PropertyFilter", filter)
            }
            "ModifyListView" if !self.current(&request.this) => gone(),
            "ModifyListView" => {
                let request = request
                    .arguments
                    .downcast::<ModifyListViewRequest>()
                    .unwrap();
                let unresolved: Vec<_> = request
                    .add
                    .iter()
                    .filter(|t| t.value == "nobody")
                    .cloned()
                    .collect();
                self.change(|world| {
                    world
                        .listed
                        .extend(request.add.into_iter().map(|t| t.value));
                    for task in request.remove {
                        world.listed.remove(&task.value);
                    }
                });
                Reply::of(method, &unresolved)
            }
            "WaitForUpdatesEx" => loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let mut world = self.world.lock().unwrap();
                    if std::mem::take(&mut world.refuse_wait_once) {
                        return Reply::Close;
                    }
                    if std::mem::take(&mut world.lose) {
                        // As a server that has started anew: nothing of before is there.
                        world.epoch += 1;
                    }
                }
                if !self.current(&request.this) {
                    return gone();
                }
                if let Some(set) = self.updates() {
                    return Reply::of(method, &set);
                }
                self.waits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                changed.await;
            },
            "DestroyPropertyFilter" => Reply::of(method, &()),
            other => panic!("{other}"),
        }
    }
}

async fn start(fake: &Arc<Fake>) -> (Server, Client) {
    let handler = fake.clone();
    let server = Server::start(move |request, _| Box::pin(handler.clone().answer(request))).await;
    let client = Client::connect(server.config()).await.unwrap();
    client.watch().await.unwrap();
    (server, client)
}

fn task(id: &str) -> ManagedObjectReference {
    ManagedObjectReference::new("Task", id)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it should be soon")
}

#[tokio::test]
async fn a_task_is_awaited_with_one_call_and_its_fault_is_the_error() {
    let fake = Fake::new();
    let (server, client) = start(&fake).await;
    fake.change(|w| {
        w.ended.insert("t1".into(), None);
        w.ended.insert(
            "t2".into(),
            Some(LocalizedMethodFault::new(
                FileNotFound::default(),
                "no file",
            )),
        );
    });
    let info = soon(client.wait_task(&task("t1"))).await.unwrap();
    assert_eq!(info.state, TaskInfoState::Success);
    assert_eq!(server.count("ModifyListView"), 1);
    let error = soon(client.wait_task(&task("t2"))).await.unwrap_err();
    assert_eq!(error.to_string(), "Test_Task: FileNotFound: no file");
    assert!(error.is_fault("FileFault"));
    assert_eq!(server.count("ModifyListView"), 2);
    // The list holds what is awaited, not what is over.
    assert_eq!(fake.world.lock().unwrap().listed.len(), 1);
}

#[tokio::test]
async fn many_tasks_share_the_calls_that_list_them() {
    let fake = Fake::new();
    let (server, client) = start(&fake).await;
    let waits: Vec<_> = (0..200)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.wait_task(&task(&format!("t{n}"))).await })
        })
        .collect();
    while fake.world.lock().unwrap().listed.len() < 200 {
        tokio::task::yield_now().await;
    }
    assert!(
        server.count("ModifyListView") <= 100,
        "{}",
        server.count("ModifyListView")
    );
    fake.change(|w| w.ended.extend((0..200).map(|n| (format!("t{n}"), None))));
    for wait in waits {
        soon(wait).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_task_that_the_server_does_not_know_is_lost_and_says_so() {
    let fake = Fake::new();
    let (_server, client) = start(&fake).await;
    let error = soon(client.wait_task(&task("nobody"))).await.unwrap_err();
    assert!(
        matches!(error, vmomi::Error::TaskLost { .. }) && error.is_ambiguous(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_broken_wait_goes_on_and_a_lost_collector_is_made_anew_with_all_that_hangs_on_it() {
    let fake = Fake::new();
    let (server, client) = start(&fake).await;
    let view = ManagedObjectReference::new("ContainerView", "v");
    let spec = view_spec(&view, &["VirtualMachine"], &["name"]);
    let mut filter = client.watch().await.unwrap().filter(spec).await.unwrap();
    let wait = {
        let client = client.clone();
        tokio::spawn(async move { client.wait_task(&task("t1")).await })
    };
    while fake.world.lock().unwrap().listed.is_empty() {
        tokio::task::yield_now().await;
    }
    fake.change(|w| w.refuse_wait_once = true);
    fake.change(|w| w.lose = true);
    // Listed again on the new list, watched by the new filter.
    while server.count("CreateFilter") < 4 || fake.world.lock().unwrap().listed.is_empty() {
        tokio::task::yield_now().await;
    }
    fake.change(|w| {
        w.ended.insert("t1".into(), None);
        let filter = ManagedObjectReference::new("PropertyFilter", format!("filter-{}-2", w.epoch));
        let object_set = vec![ObjectUpdate::default()];
        w.updates.push(PropertyFilterUpdate {
            filter,
            object_set,
            ..Default::default()
        });
    });
    assert_eq!(
        soon(wait).await.unwrap().unwrap().state,
        TaskInfoState::Success
    );
    let batch = soon(filter.next()).await.unwrap();
    assert!(
        batch.fresh && batch.complete && batch.objects.len() == 1,
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_collector_that_went_while_its_wait_still_stands_is_missed_by_the_next_who_needs_it() {
    let fake = Fake::new();
    let (server, client) = start(&fake).await;
    let waits = || fake.waits.load(std::sync::atomic::Ordering::SeqCst);
    while waits() == 0 {
        tokio::task::yield_now().await;
    }
    {
        // Nobody wakes the wait.
        let mut world = fake.world.lock().unwrap();
        world.epoch += 1;
        world.ended.insert("t1".into(), None);
    }
    assert_eq!(
        soon(client.wait_task(&task("t1"))).await.unwrap().state,
        TaskInfoState::Success
    );
    assert_eq!(server.count("CreatePropertyCollector"), 2);
    fake.world.lock().unwrap().epoch += 1;
    let view = ManagedObjectReference::new("ContainerView", "v");
    let mut filter = client
        .watch()
        .await
        .unwrap()
        .filter(view_spec(&view, &["VirtualMachine"], &[]))
        .await
        .unwrap();
    while fake.world.lock().unwrap().filters < 2 {
        tokio::task::yield_now().await;
    }
    fake.change(|w| {
        let filter = ManagedObjectReference::new("PropertyFilter", format!("filter-{}-2", w.epoch));
        w.updates.push(PropertyFilterUpdate {
            filter,
            ..Default::default()
        });
    });
    assert!(soon(filter.next()).await.unwrap().fresh);
}

#[tokio::test]
async fn a_filters_first_state_is_not_lost_when_it_comes_before_the_filter() {
    let fake = Fake::new();
    let (server, client) = start(&fake).await;
    fake.hold_filters
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let making = {
        let client = client.clone();
        tokio::spawn(async move {
            let view = ManagedObjectReference::new("ContainerView", "v");
            client
                .watch()
                .await
                .unwrap()
                .filter(view_spec(&view, &["VirtualMachine"], &[]))
                .await
        })
    };
    // The wait has given the update and begun again before the creation is answered.
    while server.count("WaitForUpdatesEx") < 2 {
        tokio::task::yield_now().await;
    }
    fake.slow_filter.notify_one();
    let mut filter = soon(making).await.unwrap().unwrap();
    assert!(soon(filter.next()).await.unwrap().fresh);
    drop(filter);
    while server.count("DestroyPropertyFilter") == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_truncated_state_is_told_as_incomplete_until_its_end() {
    let fake = Fake::new();
    let (_server, client) = start(&fake).await;
    let view = ManagedObjectReference::new("ContainerView", "v");
    let mut filter = client
        .watch()
        .await
        .unwrap()
        .filter(view_spec(&view, &["VirtualMachine"], &[]))
        .await
        .unwrap();
    let update = |w: &mut World, filter: u32| {
        let filter =
            ManagedObjectReference::new("PropertyFilter", format!("filter-{}-{filter}", w.epoch));
        let object_set = vec![ObjectUpdate::default()];
        w.updates.push(PropertyFilterUpdate {
            filter,
            object_set,
            ..Default::default()
        });
    };
    fake.change(|w| {
        w.truncated = true;
        update(w, 2);
    });
    let first = soon(filter.next()).await.unwrap();
    assert!(first.fresh && !first.complete);
    // The rest is another filter's: this one learns that its state is whole.
    fake.change(|w| {
        w.truncated = false;
        update(w, 1);
    });
    let last = soon(filter.next()).await.unwrap();
    assert!(!last.fresh && last.complete && last.objects.is_empty());
}
