//! Every vSphere method that the programs can send goes wrong, in every way, while containers live and die.
//!
//! The list of methods is read from the sources ([`sources::methods`]); one that a whole pass of the workload does not
//! send fails the test. For each way of going wrong there is a world of its own, which takes one method after the other:
//! the fault is set, the workload runs as a person would run it (what fails with a clear error is tried again), and
//! when it is over nothing may be left: no VM, no disk, no file, no address, nothing attached to the appliance.
//!
//! | way | what the simulator does, once |
//! |---|---|
//! | fail | answers with a fault (a status 500 for files); nothing was done |
//! | stall | never answers; nothing was done |
//! | late | does it, and answers when the request's deadline is past |
//! | cut | does it, and ends the connection without an answer |
//! | cut before | ends the connection; nothing was done |
//!
//! A request's deadline is a setting; here it is one second.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::container::{LogsOptions, RemoveOptions, StopOptions, WaitCondition};
use actors::volume::VolumeSpec;
use actors::{ContainerId, Error};
use strategy::{Backoff, Intensity, Policy};

use crate::bench::{Bench, Options, Stage, mounts, spec};
use crate::sources;

/// Deadline of a vSphere request.
const REQUEST: Duration = Duration::from_secs(1);

/// How long one step of the workload may take, and how long it may fail before it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ways of going wrong: what each is called, and its rule.
const WAYS: [(&str, &str); 5] = [
    ("fail", "SystemError"),
    ("stall", "stall"),
    ("late", "late=1500"),
    ("cut", "drop-after"),
    ("cut before", "drop"),
];

/// Addresses of the bridge's pool that containers can have.
const ADDRESSES: usize = 5;

fn options() -> Options {
    Options {
        vcenter: true,
        stage: Stage::Played,
        deadline: REQUEST,
        wait: REQUEST,
        keep_alive: Duration::from_millis(500),
        page: 2,
        bridge_width: 29,
        policy: Policy {
            intensity: Intensity {
                restarts: 10_000,
                period: Duration::from_secs(1),
            },
            backoff: Backoff {
                base: Duration::from_millis(20),
                max: Duration::from_millis(200),
                reset_after: Duration::from_secs(1),
            },
            ..Policy::default()
        },
        ..Options::default()
    }
}

/// The steps of the workload, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Load,
    MakeVolume,
    CreateA,
    CreateB,
    StartA,
    Exec,
    Logs,
    Size,
    Rename,
    NewNetwork,
    NewWatch,
    NewSession,
    Halt,
    Off,
    RemoveA,
    RemoveB,
    RemoveVolume,
    RemoveImage,
}

const STEPS: [Step; 18] = [
    Step::Load,
    Step::MakeVolume,
    Step::CreateA,
    Step::CreateB,
    Step::StartA,
    Step::Exec,
    Step::Logs,
    Step::Size,
    Step::Rename,
    Step::NewNetwork,
    Step::NewWatch,
    Step::NewSession,
    Step::Halt,
    Step::Off,
    Step::RemoveA,
    Step::RemoveB,
    Step::RemoveVolume,
    Step::RemoveImage,
];

struct Stand {
    bench: Bench,
    way: &'static str,
}

impl Stand {
    fn id(&self, names: &[&str]) -> Result<ContainerId, Error> {
        let found = names
            .iter()
            .find_map(|n| self.bench.world.engine.find(n).ok());
        found
            .map(|c| c.id)
            .ok_or_else(|| Error::NoSuchContainer(names[0].to_owned()))
    }

    /// Does one step; a step that is done already is fine.
    async fn step(&self, step: Step, target: &str) -> Result<(), Error> {
        let bench = &self.bench;
        let engine = &bench.world.engine;
        let image = || engine.snapshots().find_image("busybox:latest");
        match step {
            Step::Load => drop(bench.load("busybox:latest", 2).await?),
            Step::MakeVolume => {
                let name = Some("data".to_owned());
                let wanted = VolumeSpec {
                    name,
                    ..VolumeSpec::default()
                };
                engine.create_volume(wanted).await?;
            }
            Step::CreateA => {
                let image = image()?;
                let mut wanted = spec("aa", &image, &["stubborn"]);
                wanted.mounts = mounts(&[Some("data"), None]);
                bench.create_spec(wanted).await?;
            }
            Step::CreateB => {
                // Its answer is always lost: whether it was made is asked for.
                bench.fault("CreateVM_Task:1:drop-after");
                let argv = if target == "ShutdownGuest" {
                    "deaf"
                } else {
                    "serve"
                };
                let image = image()?;
                bench.create_spec(spec("bb", &image, &[argv])).await?;
            }
            Step::StartA => done(engine.start(self.id(&["aa"])?).await)?,
            Step::Exec => {
                let said = bench.exec(self.id(&["aa"])?, &["say", "hello"]).await?;
                assert_eq!(said, ("hello".into(), 0));
            }
            Step::Logs => {
                let whole = LogsOptions {
                    stdout: true,
                    ..LogsOptions::default()
                };
                let mut log = engine.logs(self.id(&["aa"])?, whole).await?;
                if log.recv().await.is_none() {
                    return Err(Error::Interrupted("logs"));
                }
            }
            Step::Size => drop(engine.written(&[self.id(&["aa"])?]).await?),
            Step::Rename => engine.rename(self.id(&["aa", "aa2"])?, "aa2").await?,
            Step::NewNetwork => self.kill("vch/networks/bridge").await,
            Step::NewWatch => self.kill("vch/vsphere/watch").await,
            Step::NewSession => self.kill("vch/vsphere").await,
            Step::Halt => {
                // One whose guest does not hear: its stop signal goes by vSphere.
                let id = self.id(&["bb"])?;
                if target == "ShutdownGuest" {
                    done(engine.start(id).await)?;
                    done(engine.stop(id, within(6)).await)?;
                }
            }
            // It does not obey: its power is cut.
            Step::Off => done(engine.stop(self.id(&["aa2", "aa"])?, within(0)).await)?,
            Step::RemoveA => self.remove(&["aa2", "aa"]).await?,
            Step::RemoveB => self.remove(&["bb"]).await?,
            Step::RemoveVolume => match engine.remove_volume("data", false).await {
                Ok(()) | Err(Error::NoSuchVolume(_)) => {}
                Err(why) => return Err(why),
            },
            Step::RemoveImage => match engine.remove_image("busybox:latest", false, false).await {
                Ok(_) | Err(Error::NoSuchImage(_)) => {}
                Err(why) => return Err(why),
            },
        }
        Ok(())
    }

    async fn kill(&self, path: &str) {
        let tree = &self.bench.world.tree;
        let present = || tree.entries().into_iter().find(|e| e.path == path);
        let mut killed = None;
        self.bench
            .until(path, async || {
                killed = tree.kill(path).await;
                killed.is_some()
            })
            .await;
        let old = killed.map(|k| k.actor);
        self.bench
            .until(path, async || {
                present().is_some_and(|e| Some(e.actor) != old)
            })
            .await;
    }

    async fn remove(&self, names: &[&str]) -> Result<(), Error> {
        let Ok(id) = self.id(names) else {
            return Ok(());
        };
        let options = RemoveOptions {
            force: true,
            volumes: true,
            ..RemoveOptions::default()
        };
        match self.bench.world.engine.remove(id, options).await {
            Err(Error::RemovalInProgress(_)) => {
                let gone = self
                    .bench
                    .world
                    .engine
                    .wait(id, WaitCondition::Removed)
                    .await;
                if let Ok(gone) = gone {
                    let _ = tokio::time::timeout(PATIENCE, gone).await;
                }
                Ok(())
            }
            Err(Error::NoSuchContainer(_)) => Ok(()),
            answer => answer,
        }
    }

    /// Runs the workload as a person would; gives the errors that were seen.
    async fn workload(&self, target: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for step in STEPS {
            let begun = Instant::now();
            loop {
                let done = tokio::time::timeout(PATIENCE, self.step(step, target)).await;
                let Ok(done) = done else {
                    panic!("{} {target}: {step:?} does not answer", self.way)
                };
                let Err(why) = done else { break };
                let text = format!("{step:?}: {why}");
                assert!(!why.to_string().trim().is_empty(), "{} {target}", self.way);
                assert!(!text.contains("panic"), "{} {target}: {text}", self.way);
                assert!(begun.elapsed() < PATIENCE, "{} {target}: {text}", self.way);
                if self.bench.simulator.faults().is_empty() && seen.len() > 20 {
                    panic!("{} {target}: {seen:#?}", self.way);
                }
                seen.push(text);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        seen
    }

    /// Waits until nothing is left but what a clean pass leaves.
    async fn nothing_left(&self, target: &str, clean: &BTreeSet<String>) {
        let bench = &self.bench;
        let what = format!("{} {target}: something is left", self.way);
        let left = async || {
            let mut left = Vec::new();
            left.extend(bench.vms().await.into_keys().map(|vm| format!("VM {vm}")));
            left.extend(
                bench
                    .attached()
                    .await
                    .into_iter()
                    .map(|d| format!("attached {d}")),
            );
            let files = bench.files();
            left.extend(files.difference(clean).map(|f| format!("file {f}")));
            let shelves = bench.world.engine.snapshots();
            left.extend(
                shelves
                    .containers()
                    .iter()
                    .map(|c| format!("container {}", c.name)),
            );
            left.extend(
                shelves
                    .volumes()
                    .iter()
                    .map(|v| format!("volume {}", v.name)),
            );
            left.extend(shelves.images().keys().map(|i| format!("image {i}")));
            left
        };
        let begun = Instant::now();
        loop {
            let left = left().await;
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {left:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All addresses are there to be given.
    async fn all_addresses_are_free(&self, target: &str) {
        let bench = &self.bench;
        let image = bench.load("addresses:latest", 1).await.expect("an image");
        for n in 0..ADDRESSES {
            let made = bench
                .create_spec(spec(&format!("node{n}"), &image, &["serve"]))
                .await;
            assert!(made.is_ok(), "{} {target}: address {n}: {made:?}", self.way);
        }
        for n in 0..ADDRESSES {
            self.remove(&[&format!("node{n}")]).await.expect("removed");
        }
        let removed = bench
            .world
            .engine
            .remove_image("addresses:latest", false, false);
        removed.await.expect("removed");
    }
}

fn within(seconds: i64) -> StopOptions {
    StopOptions {
        signal: None,
        timeout: Some(seconds),
    }
}

fn done(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(Error::NotModified) => Ok(()),
        answer => answer,
    }
}

/// One way of going wrong, all methods: what each came to.
async fn one_way(
    (way, rule): (&'static str, &'static str),
    methods: Arc<BTreeSet<String>>,
) -> (&'static str, BTreeMap<String, String>) {
    let bench = Bench::with(options()).await;
    let stand = Stand { bench, way };
    let seen = stand.workload("").await;
    assert!(seen.is_empty(), "{way}: without any fault: {seen:?}");
    let clean: BTreeSet<String> = stand.bench.files();
    let mut table = BTreeMap::new();
    for method in methods.iter().filter(|m| *m != "Logout") {
        stand.bench.fault(&format!("{method}:1:{rule}"));
        let seen = stand.workload(method).await;
        // Some are only sent now and then.
        stand
            .bench
            .until(&format!("{way} {method} is sent"), async || {
                stand.bench.simulator.faults().is_empty()
            })
            .await;
        stand.nothing_left(method, &clean).await;
        let outcome = match seen.first() {
            None => "ok".to_owned(),
            Some(first) => format!("error, then ok ({first})"),
        };
        table.insert(method.clone(), outcome);
    }
    stand.all_addresses_are_free("in the end").await;
    stand.bench.fault(&format!("Logout:1:{rule}"));
    stand.bench.stop().await;
    table.insert("Logout".into(), "ok".into());
    (way, table)
}

/// The methods that one clean pass and an orderly end send.
async fn record() -> BTreeSet<String> {
    let bench = Bench::with(options()).await;
    let stand = Stand {
        bench,
        way: "clean",
    };
    let mut sent: BTreeSet<String> = stand.bench.all_calls.clone();
    for target in ["", "ShutdownGuest"] {
        let seen = stand.workload(target).await;
        assert!(seen.is_empty(), "without any fault: {seen:?}");
    }
    let bench = stand.bench;
    bench
        .until("a keep-alive", async || {
            sent.extend(bench.take_calls().into_keys());
            sent.contains("CurrentTime")
        })
        .await;
    sent.extend(bench.end().await);
    sent
}

/// Runs a world on a runtime of its own.
fn on_its_own<T>(life: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(life)
}

#[test]
fn each_method_fails_stalls_and_loses_its_connection_once_and_nothing_is_left() {
    let methods = Arc::new(sources::methods());
    let sent = on_its_own(record());
    println!("{} methods: {methods:?}", methods.len());
    let unseen: Vec<_> = methods.difference(&sent).collect();
    assert!(unseen.is_empty(), "the workload does not send {unseen:?}");
    let worlds = WAYS.map(|way| {
        let methods = methods.clone();
        std::thread::spawn(move || on_its_own(one_way(way, methods)))
    });
    let columns: BTreeMap<_, _> = worlds
        .map(|world| world.join().expect("a way's world"))
        .into_iter()
        .collect();
    let mut text = format!("{:28}", "method");
    for (way, _) in WAYS {
        let _ = write!(text, " {way:16}");
    }
    let mut notes = String::new();
    for method in methods.iter() {
        let _ = write!(text, "\n{method:28}");
        for (way, _) in WAYS {
            let outcome = &columns[way][method];
            let short = outcome.split(" (").next().unwrap_or_default();
            let _ = write!(text, " {short:16}");
            if short != outcome {
                let _ = write!(notes, "\n{method}, {way}: {outcome}");
            }
        }
    }
    println!("{text}\n{notes}");
}
