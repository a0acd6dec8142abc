//! An engine without VMs, for tests of the persona: containers are tasks that know a few programs.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    reason = "the methods are those of the true engine"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use actors::container::{
    AttachOptions, ContainerSnapshot, CreateSpec, Created, ExecSnapshot, ExecSpec, ExitOutcome,
    LogRecord, LogsOptions, Phase, ProcessList, RemoveOptions, Signal, StartExec, StopOptions,
    WaitCondition,
};
use actors::events::{Event, EventKind, Subscription};
use actors::image::{Images, Progress, PullRequest, Removed, Transfer, Upload};
use actors::network::{NetworkSnapshot, Pool};
use actors::streams::{Attachment, ConsoleSize, Input, Output, Stream};
use actors::system::SystemInfo;
use actors::volume::{VolumeSnapshot, VolumeSpec};
use actors::{ContainerId, Error, ExecId, ImageId, NetworkId};
use bytes::Bytes;
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

impl Snapshots {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world
            .lock()
            .expect("no test panics with the world in its hands")
    }

    pub fn containers(&self) -> Vec<Arc<ContainerSnapshot>> {
        let mut all: Vec<_> = self
            .world()
            .containers
            .values()
            .map(|c| c.snapshot.clone())
            .collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then(b.id.cmp(&a.id)));
        all
    }

    pub fn images(&self) -> Arc<Images> {
        self.world().images.clone()
    }

    pub fn find_image(&self, wanted: &str) -> Result<Arc<actors::image::ImageSnapshot>, Error> {
        actors::image::find(&self.images(), wanted)
    }

    pub fn networks(&self) -> Vec<Arc<NetworkSnapshot>> {
        let endpoints: BTreeMap<_, _> = self
            .containers()
            .iter()
            .filter(|c| c.is_running())
            .map(|c| {
                let e = actors::network::Endpoint {
                    id: actors::EndpointId::of_name(&c.name),
                    name: c.name.clone(),
                    mac: "02:42:ac:11:00:02".into(),
                    address: [172, 17, 0, 2].into(),
                };
                (c.id, e)
            })
            .collect();
        [("bridge", "bridge"), ("host", "host"), ("none", "null")]
            .iter()
            .map(|(name, driver)| {
                Arc::new(NetworkSnapshot {
                    id: NetworkId::of_name(name),
                    name: (*name).to_owned(),
                    driver: (*driver).to_owned(),
                    created: OffsetDateTime::UNIX_EPOCH,
                    pool: (*name == "bridge").then_some(Pool {
                        network: [172, 17, 0, 0].into(),
                        prefix_len: 16,
                        gateway: [172, 17, 0, 1].into(),
                    }),
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                    predefined: true,
                    endpoints: if *name == "bridge" {
                        endpoints.clone()
                    } else {
                        BTreeMap::new()
                    },
                })
            })
            .collect()
    }

    pub fn find_network(&self, wanted: &str) -> Result<Arc<NetworkSnapshot>, Error> {
        let name = if wanted == "default" {
            "bridge"
        } else {
            wanted
        };
        self.networks()
            .into_iter()
            .find(|n| n.name == name || n.id.to_string() == name)
            .ok_or_else(|| Error::NoSuchNetwork(wanted.to_owned()))
    }

    pub fn volumes(&self) -> Vec<Arc<VolumeSnapshot>> {
        self.world().volumes.values().cloned().collect()
    }

    pub fn find_volume(&self, name: &str) -> Result<Arc<VolumeSnapshot>, Error> {
        self.world()
            .volumes
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    pub fn find_exec(
        &self,
        id: &str,
    ) -> Result<(Arc<ContainerSnapshot>, Arc<ExecSnapshot>), Error> {
        let missing = || Error::NoSuchExec(id.to_owned());
        let exec: ExecId = id.parse().map_err(|_| missing())?;
        self.containers()
            .into_iter()
            .find_map(|c| c.execs.get(&exec).cloned().map(|e| (c.clone(), e)))
            .ok_or_else(missing)
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

    pub async fn create(&self, spec: CreateSpec) -> Result<Created, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId::random();
        let name = spec
            .name
            .clone()
            .unwrap_or_else(|| format!("fake_{}", id.short()));
        if let Ok(holder) = self.find(&name) {
            return Err(Error::NameTaken {
                name,
                holder: holder.id,
            });
        }
        let mut snapshot = sample::container(&name);
        snapshot.id = id;
        snapshot.created = OffsetDateTime::now_utc();
        let warnings = spec.warnings.clone();
        snapshot.spec = Arc::new(spec);
        self.emit(&id.to_string(), "create", &snapshot);
        self.put(snapshot);
        Ok(Created { id, warnings })
    }

    pub async fn start(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let (argv, tty, killed, input) = self.with(id, |fake| {
            match fake.snapshot.phase {
                Phase::Running => return Err(Error::NotModified),
                Phase::Paused => return Err(Error::StartPaused),
                _ => {}
            }
            fake.change(|s| {
                s.phase = Phase::Running;
                s.started_at = Some(OffsetDateTime::now_utc());
                s.vm.pid = 7;
            });
            let process = &fake.snapshot.spec.process;
            Ok((
                process.argv.clone(),
                process.tty,
                fake.killed.clone(),
                fake.input.take(),
            ))
        })?;
        if argv[0] == "nosuch" {
            let text = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
                        create failed: unable to start container process: exec: \"nosuch\": executable file not found in \
                        $PATH: unknown";
            self.exited(id, 127, true);
            return Err(Error::Launch {
                text: text.to_owned(),
                exit_code: 127,
            });
        }
        self.emit(&id.to_string(), "start", &*self.find(&id.to_string())?);
        let engine = self.clone();
        tokio::spawn(async move {
            let send = |stream, data: Bytes| engine.output(id, stream, data);
            let code = tokio::select! {
                biased;
                code = program(&argv, input, tty, send) => code,
                () = killed.0.notified() => 128 + *killed.1.lock().expect("signal"),
            };
            engine.exited(id, code, false);
        });
        Ok(())
    }

    async fn output(&self, id: ContainerId, stream: Stream, data: Bytes) {
        let (outputs, followers, record) = {
            let mut world = self.snapshots.world();
            let Some(fake) = world.containers.get_mut(&id) else {
                return;
            };
            let record = LogRecord {
                time: OffsetDateTime::now_utc(),
                stream,
                seq: fake.log.len() as u64,
                data: data.clone(),
            };
            fake.log.push(record.clone());
            (fake.outputs.clone(), fake.followers.clone(), record)
        };
        for output in outputs {
            let _ = output
                .send(Output {
                    stream,
                    data: data.clone(),
                })
                .await;
        }
        for follower in followers {
            let _ = follower.send(record.clone()).await;
        }
    }

    fn exited(&self, id: ContainerId, code: i32, failed: bool) {
        let gone = {
            let mut world = self.snapshots.world();
            let Some(fake) = world.containers.get_mut(&id) else {
                return;
            };
            fake.outputs.clear();
            fake.followers.clear();
            fake.input = None;
            fake.change(|s| {
                s.phase = if failed {
                    Phase::Created
                } else {
                    Phase::Exited
                };
                s.exit_code = i64::from(code);
                s.finished_at = Some(OffsetDateTime::now_utc());
            });
            fake.resolve(&[WaitCondition::NextExit, WaitCondition::NotRunning]);
            fake.snapshot.clone()
        };
        self.emit(&id.to_string(), "die", &gone);
        if gone.spec.auto_remove {
            self.forget(id);
        }
    }

    fn forget(&self, id: ContainerId) {
        let gone = self.snapshots.world().containers.remove(&id);
        if let Some(mut fake) = gone {
            self.emit(&id.to_string(), "destroy", &fake.snapshot);
            fake.resolve(&[
                WaitCondition::NextExit,
                WaitCondition::NotRunning,
                WaitCondition::Removed,
            ]);
        }
    }

    pub async fn stop(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let running = self.with(id, |fake| Ok(fake.snapshot.is_running()))?;
        if !running {
            return Err(Error::NotModified);
        }
        let ended = self.wait(id, WaitCondition::NotRunning).await?;
        self.kill(id, options.signal.unwrap_or(Signal(15))).await?;
        let _ = ended.await;
        Ok(())
    }

    pub async fn restart(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        match self.stop(id, options).await {
            Ok(()) | Err(Error::NotModified) => self.start(id).await,
            Err(why) => Err(why),
        }
    }

    pub async fn kill(&self, id: ContainerId, signal: Signal) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            if !fake.snapshot.is_running() {
                return Err(Error::NotRunning(id));
            }
            *fake.killed.1.lock().expect("signal") = signal.0;
            fake.killed.0.notify_one();
            Ok(())
        })
    }

    pub async fn pause(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.phase {
            Phase::Running => {
                fake.change(|s| s.phase = Phase::Paused);
                Ok(())
            }
            Phase::Paused => Err(Error::AlreadyPaused(id)),
            _ => Err(Error::NotRunning(id)),
        })
    }

    pub async fn unpause(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.phase {
            Phase::Paused => {
                fake.change(|s| s.phase = Phase::Running);
                Ok(())
            }
            _ => Err(Error::NotPaused(id)),
        })
    }

    pub async fn rename(&self, id: ContainerId, name: &str) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if let Ok(holder) = self.find(name) {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                holder: holder.id,
            });
        }
        self.with(id, |fake| {
            fake.change(|s| s.name = name.to_owned());
            Ok(())
        })
    }

    pub async fn remove(&self, id: ContainerId, options: RemoveOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let phase = self.with(id, |fake| Ok(fake.snapshot.phase))?;
        match phase {
            Phase::Running if !options.force => return Err(Error::RemoveRunning(options.name)),
            Phase::Paused if !options.force => return Err(Error::RemovePaused(options.name)),
            Phase::Running => {
                let ended = self.wait(id, WaitCondition::NotRunning).await?;
                self.kill(id, Signal(9)).await?;
                let _ = ended.await;
            }
            _ => {}
        }
        self.forget(id);
        Ok(())
    }

    pub async fn written(
        &self,
        containers: &[ContainerId],
    ) -> Result<BTreeMap<ContainerId, u64>, Error> {
        Ok(containers.iter().map(|id| (*id, 4096)).collect())
    }

    pub async fn wait(
        &self,
        id: ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<ExitOutcome>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, receiver) = oneshot::channel();
            fake.waiters.push((condition, sender));
            if !fake.snapshot.is_running() {
                fake.resolve(&[WaitCondition::NotRunning]);
            }
            Ok(receiver)
        })
    }

    pub async fn attach(
        &self,
        id: ContainerId,
        options: AttachOptions,
    ) -> Result<Attachment, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, output) = mpsc::channel(8);
            if options.stdout || options.stderr {
                fake.outputs.push(sender);
            }
            let open = options.stdin && fake.snapshot.spec.process.open_stdin;
            let input = open.then(|| {
                let (sender, receiver) = mpsc::channel(8);
                fake.input = Some(receiver);
                sender
            });
            Ok(Attachment {
                output,
                input,
                tty: fake.snapshot.spec.process.tty,
            })
        })
    }

    pub async fn resize(&self, id: ContainerId, _size: ConsoleSize) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.is_running() {
            true => Ok(()),
            false => Err(Error::NotRunning(id)),
        })
    }

    pub async fn logs(
        &self,
        id: ContainerId,
        options: LogsOptions,
    ) -> Result<mpsc::Receiver<LogRecord>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, receiver) = mpsc::channel(64);
            let skip = options
                .tail
                .map_or(0, |tail| fake.log.len().saturating_sub(tail as usize));
            for record in &fake.log[skip..] {
                let _ = sender.try_send(record.clone());
            }
            if options.follow && fake.snapshot.is_running() {
                fake.followers.push(sender);
            }
            Ok(receiver)
        })
    }

    pub async fn top(&self, id: ContainerId, _ps_args: &str) -> Result<ProcessList, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.is_running() {
            true => Ok(ProcessList {
                titles: ["PID", "CMD"].map(str::to_owned).to_vec(),
                processes: vec![["1", "sleep"].map(str::to_owned).to_vec()],
            }),
            false => Err(Error::NotRunning(id)),
        })
    }

    pub async fn create_exec(&self, id: ContainerId, spec: ExecSpec) -> Result<ExecId, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            if !fake.snapshot.is_running() {
                return Err(Error::NotRunning(id));
            }
            let exec = ExecSnapshot {
                id: ExecId::random(),
                container: id,
                spec,
                started: false,
                running: false,
                exit_code: None,
                pid: 0,
            };
            let exec_id = exec.id;
            fake.change(|s| {
                s.execs.insert(exec_id, Arc::new(exec));
            });
            Ok(exec_id)
        })
    }

    fn change_exec(
        &self,
        container: ContainerId,
        id: ExecId,
        change: impl FnOnce(&mut ExecSnapshot),
    ) {
        let _ = self.with(container, |fake| {
            fake.change(|s| {
                if let Some(exec) = s.execs.get_mut(&id) {
                    change(Arc::make_mut(exec));
                }
            });
            Ok(())
        });
    }

    pub async fn start_exec(&self, id: ExecId, _options: StartExec) -> Result<Attachment, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let (container, exec) = self.snapshots.find_exec(&id.to_string())?;
        self.change_exec(container.id, id, |e| {
            e.started = true;
            e.running = true;
        });
        let (output_sender, output) = mpsc::channel(8);
        let (input_sender, input) = mpsc::channel(8);
        let (engine, argv, tty) = (
            self.clone(),
            exec.spec.process.argv.clone(),
            exec.spec.process.tty,
        );
        let attach_stdin = exec.spec.attach_stdin;
        tokio::spawn(async move {
            let send = |stream, data| {
                let sender = output_sender.clone();
                async move {
                    let _ = sender.send(Output { stream, data }).await;
                }
            };
            let code = program(&argv, attach_stdin.then_some(input), tty, send).await;
            engine.change_exec(container.id, id, |e| {
                e.running = false;
                e.exit_code = Some(i64::from(code));
            });
            drop(output_sender);
        });
        Ok(Attachment {
            output,
            input: attach_stdin.then_some(input_sender),
            tty,
        })
    }

    pub async fn resize_exec(&self, _id: ExecId, _size: ConsoleSize) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        Ok(())
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

    pub async fn pull(&self, request: PullRequest) -> Result<Transfer, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if request.image.contains("nosuch") {
            return Err(Error::NotFound(format!(
                "pull access denied for {}, repository does not exist or may require 'docker login'",
                actors::image::familiar_name(&request.image)
            )));
        }
        Ok(transfer(vec![
            Progress::Status {
                id: "latest".into(),
                status: "Pulling from library/busybox".into(),
            },
            Progress::Bar {
                id: "0123456789ab".into(),
                status: "Downloading".into(),
                current: 1,
                total: 2,
            },
            Progress::Status {
                id: "0123456789ab".into(),
                status: "Pull complete".into(),
            },
            Progress::Status {
                id: String::new(),
                status: "Status: Downloaded newer image for busybox:latest".into(),
            },
        ]))
    }

    pub async fn load(&self, mut archive: Upload, _quiet: bool) -> Result<Transfer, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut size = 0;
        while let Some(piece) = archive.recv().await {
            size += piece.map_err(|why| Error::Invalid(why.to_string()))?.len();
        }
        Ok(transfer(vec![Progress::Stream(format!(
            "Loaded image: fake:{size}\n"
        ))]))
    }

    pub async fn tag(&self, image: ImageId, reference: &str) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut world = self.snapshots.world();
        let mut images = (*world.images).clone();
        let tagged = images
            .get_mut(&image)
            .ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        if !tagged.tags.iter().any(|tag| tag == reference) {
            Arc::make_mut(tagged).tags.push(reference.to_owned());
        }
        world.images = Arc::new(images);
        Ok(())
    }

    pub async fn remove_image(
        &self,
        wanted: &str,
        _force: bool,
        _noprune: bool,
    ) -> Result<Vec<Removed>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let found = self.snapshots.find_image(wanted)?;
        Ok(vec![
            Removed::Untagged(found.tags[0].clone()),
            Removed::Deleted(found.id.to_string()),
        ])
    }

    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Arc<VolumeSnapshot>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let name = spec
            .name
            .clone()
            .unwrap_or_else(|| ContainerId::random().to_string());
        let volume = Arc::new(VolumeSnapshot {
            name: name.clone(),
            driver: spec.driver,
            labels: spec.labels,
            options: spec.options,
            created: OffsetDateTime::now_utc(),
            path: format!("[ds] volumes/{name}.vmdk"),
            anonymous: spec.name.is_none(),
            capacity: 1 << 30,
        });
        self.snapshots.world().volumes.insert(name, volume.clone());
        Ok(volume)
    }

    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let gone = self.snapshots.world().volumes.remove(name);
        if gone.is_some() || force {
            Ok(())
        } else {
            Err(Error::NoSuchVolume(name.to_owned()))
        }
    }
}

fn transfer(steps: Vec<Progress>) -> Transfer {
    let (sender, progress) = mpsc::channel(steps.len());
    for step in steps {
        sender.try_send(step).expect("room for all");
    }
    Transfer { progress }
}

/// Runs one of the programs that the fake knows, answering its exit code.
async fn program<F: Future<Output = ()>>(
    argv: &[String],
    input: Option<mpsc::Receiver<Input>>,
    tty: bool,
    send: impl Fn(Stream, Bytes) -> F,
) -> i32 {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", rest @ ..] => {
            send(
                Stream::Stdout,
                Bytes::from(format!(
                    "{}{}",
                    rest.join(" "),
                    if tty { "\r\n" } else { "\n" }
                )),
            )
            .await;
            0
        }
        ["fail", text, code] => {
            send(Stream::Stderr, Bytes::from(format!("{text}\n"))).await;
            code.parse().expect("a code")
        }
        ["cat"] => {
            let mut input = input;
            while let Some(input) = &mut input {
                match input.recv().await {
                    Some(Input::Data(data)) => send(Stream::Stdout, data).await,
                    Some(Input::Close) | None => break,
                }
            }
            0
        }
        ["flood", megabytes] => {
            let piece = Bytes::from(vec![b'x'; 32 * 1024]);
            for _ in 0..megabytes.parse::<usize>().expect("a number") * 32 {
                send(Stream::Stdout, piece.clone()).await;
            }
            0
        }
        ["nosuch"] => {
            send(
                Stream::Stdout,
                Bytes::from_static(
                    b"OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": \
                      executable file not found in $PATH: unknown\r\n",
                ),
            )
            .await;
            127
        }
        ["true"] => 0,
        ["exit", code] => code.parse().expect("a code"),
        _ => std::future::pending().await,
    }
}
