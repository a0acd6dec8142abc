//! An engine without VMs, for tests of the persona: containers are tasks that know a few programs.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    reason = "the methods are those of the true engine"
)]

mod execs;
mod images;
mod life;
mod program;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actors::container::{ContainerSnapshot, ExitOutcome, LogRecord, WaitCondition};
use actors::events::{Event, EventKind, Subscription};
use actors::image::Images;
use actors::streams::{Input, Output};
use actors::system::SystemInfo;
use actors::volume::VolumeSnapshot;
use actors::{ContainerId, Error};
use time::OffsetDateTime;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::sample;

/// The engine.
#[derive(Clone)]
pub struct Engine {
    snapshots: Snapshots,
    system: Arc<SystemInfo>,
    events: broadcast::Sender<Arc<Event>>,
    messages: Arc<AtomicUsize>,
}

/// What can be read.
#[derive(Clone)]
pub struct Snapshots {
    world: Arc<Mutex<World>>,
}

struct World {
    containers: BTreeMap<ContainerId, Fake>,
    images: Arc<Images>,
    volumes: BTreeMap<String, Arc<VolumeSnapshot>>,
    history: Vec<Arc<Event>>,
}

struct Fake {
    snapshot: Arc<ContainerSnapshot>,
    outputs: Vec<mpsc::Sender<Output>>,
    input: Option<mpsc::Receiver<Input>>,
    waiters: Vec<(WaitCondition, oneshot::Sender<ExitOutcome>)>,
    log: Vec<LogRecord>,
    followers: Vec<mpsc::Sender<LogRecord>>,
    killed: Arc<(Notify, Mutex<i32>)>,
}

impl Fake {
    fn change(&mut self, change: impl FnOnce(&mut ContainerSnapshot)) {
        let mut next = (*self.snapshot).clone();
        change(&mut next);
        self.snapshot = Arc::new(next);
    }

    fn resolve(&mut self, reached: &[WaitCondition]) {
        let outcome = ExitOutcome {
            status_code: self.snapshot.exit_code,
            error: None,
        };
        for (condition, waiter) in std::mem::take(&mut self.waiters) {
            if reached.contains(&condition) {
                let _ = waiter.send(outcome.clone());
            } else {
                self.waiters.push((condition, waiter));
            }
        }
    }
}

/// Stands for the guard of a request.
pub struct Serving;

impl Engine {
    /// Counts nothing.
    pub fn serving(&self) -> Serving {
        Serving
    }

    /// An engine with the sample image and nothing else.
    pub fn new() -> Self {
        let image = Arc::new(sample::image());
        let world = World {
            containers: BTreeMap::new(),
            images: Arc::new([(image.id.clone(), image)].into()),
            volumes: BTreeMap::new(),
            history: Vec::new(),
        };
        let system = SystemInfo {
            name: "vch-test".into(),
            version: "0.1.0".into(),
            cpus: 4,
            memory: 8 << 30,
            operating_system: "VMware ESXi 8.0.1".into(),
            ..SystemInfo::default()
        };
        Self {
            snapshots: Snapshots {
                world: Arc::new(Mutex::new(world)),
            },
            system: Arc::new(system),
            events: broadcast::channel(64).0,
            messages: Arc::default(),
        }
    }

    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    pub fn system(&self) -> Arc<SystemInfo> {
        self.system.clone()
    }

    /// How many messages to actors there would have been.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// Puts a container as it is.
    pub fn put(&self, snapshot: ContainerSnapshot) {
        let fake = Fake {
            snapshot: Arc::new(snapshot),
            outputs: Vec::new(),
            input: None,
            waiters: Vec::new(),
            log: Vec::new(),
            followers: Vec::new(),
            killed: Arc::new((Notify::new(), Mutex::new(0))),
        };
        self.snapshots
            .world()
            .containers
            .insert(fake.snapshot.id, fake);
    }

    /// Waits for everybody who waits for a container.
    pub fn waiters(&self, id: ContainerId) -> usize {
        let mut world = self.snapshots.world();
        let Some(fake) = world.containers.get_mut(&id) else {
            return 0;
        };
        fake.waiters.retain(|(_, w)| !w.is_closed());
        fake.waiters.len()
    }

    /// Lets something have happened.
    pub fn happened(&self, event: Event) {
        self.snapshots.world().history.push(Arc::new(event));
    }

    fn emit(&self, id: &str, action: &str, container: &ContainerSnapshot) {
        let event = Arc::new(Event {
            kind: EventKind::Container,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: [
                ("name".to_owned(), container.name.clone()),
                ("image".to_owned(), container.spec.image_name.clone()),
                ("exitCode".to_owned(), container.exit_code.to_string()),
            ]
            .into(),
            time: OffsetDateTime::now_utc(),
        });
        self.snapshots.world().history.push(event.clone());
        let _ = self.events.send(event);
    }

    pub fn find(&self, wanted: &str) -> Result<Arc<ContainerSnapshot>, Error> {
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        let all = self.snapshots.containers();
        if let Some(found) = all.iter().find(|c| c.name == name) {
            return Ok(found.clone());
        }
        let mut found = all
            .iter()
            .filter(|c| !wanted.is_empty() && c.id.to_string().starts_with(wanted));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix(wanted.to_owned())),
            _ => Err(Error::NoSuchContainer(wanted.to_owned())),
        }
    }

    fn with<T>(
        &self,
        id: ContainerId,
        work: impl FnOnce(&mut Fake) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut world = self.snapshots.world();
        let fake = world
            .containers
            .get_mut(&id)
            .ok_or_else(|| Error::NoSuchContainer(id.to_string()))?;
        work(fake)
    }

    pub async fn events(&self, since: Option<OffsetDateTime>) -> Result<Subscription, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut live = self.events.subscribe();
        let old: Vec<_> = match since {
            Some(since) => self
                .snapshots
                .world()
                .history
                .iter()
                .filter(|e| e.time >= since)
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        let (sender, events) = mpsc::channel(64);
        tokio::spawn(async move {
            for event in old {
                let _ = sender.send(event).await;
            }
            while let Ok(event) = live.recv().await {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok(Subscription { events })
    }
}
