//! Actors killed at random during a workload: on the inert engine, in this process, seeded.
//!
//! Each round picks a kind of actor, idle or busy, and something for a user to do. Idle: an actor of that kind that
//! has no outstanding request, itself or below it, is killed just before. Busy: it is killed at the moment when it
//! has one, while the user's request is under way. A request that is answered with an error is made again, as a
//! person would. Then everything has to agree with the model: containers, their phases, execs' answers, log numbers,
//! images, layers, volumes, VMs, disks and files; and actors have to answer within a second of the kill.
//!
//! `CHAOS_KILLS` says how many kills there are, `CHAOS_SEED` which (both are printed: `cargo xtask chaos` sets them).
//! Restart pauses are short here, so that thousands of kills fit into minutes; the default ones are met by the kills in
//! a real appliance. Two kinds are left to those too: `vch`, whose end is the program's, and `docker`, the persona.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use actors::container::{LogsOptions, Phase, RemoveOptions, StopOptions, WaitCondition};
use actors::volume::VolumeSpec;
use actors::{ContainerId, Error};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use strategy::{Backoff, Intensity, Policy};

use crate::bench::{Bench, Options, Stage, mounts, spec};

/// Kinds that are not killed here.
const ELSEWHERE: [&str; 2] = ["vch", "docker"];

/// How long a user tries.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an actor may take to answer after a kill.
const SECOND: Duration = Duration::from_secs(1);

/// Most containers at a time.
const CROWD: usize = 5;

/// Most images at a time, give or take.
const SHELF: usize = 4;

/// A container of the model.
#[derive(Debug, Clone)]
struct Kept {
    id: ContainerId,
    image: String,
    serves: bool,
    phase: Phase,
    code: i64,
    runs: u32,
    volume: Option<String>,
    /// What execs have written to its log.
    said: Vec<String>,
}

/// What there has to be.
#[derive(Debug, Default)]
struct Model {
    containers: BTreeMap<String, Kept>,
    volumes: BTreeSet<String>,
    images: BTreeSet<String>,
}

/// What a user does.
#[derive(Debug, Clone)]
enum Deed {
    Create {
        name: String,
        image: String,
        serves: bool,
        volume: Option<String>,
    },
    Start(String),
    Stop(String),
    Remove(String),
    Say(String, String),
    Log(String, String),
    Logs(String),
    Top(String),
    Pause(String),
    Rename(String, String),
    MakeVolume(String),
    RemoveVolume(String),
    Load(String),
    RemoveImage(String),
    Events,
    Networks,
}

struct Chaos {
    bench: Bench,
    model: Model,
    random: StdRng,
    next: u64,
    slow: Vec<(String, Duration)>,
}

fn options() -> Options {
    Options {
        stage: Stage::Played,
        policy: Policy {
            intensity: Intensity {
                restarts: 1_000_000,
                period: Duration::from_secs(1),
            },
            backoff: Backoff {
                base: Duration::from_millis(2),
                max: Duration::from_millis(20),
                reset_after: Duration::from_secs(1),
            },
            ..Policy::default()
        },
        ..Options::default()
    }
}

impl Chaos {
    fn name(&mut self, head: &str) -> String {
        self.next += 1;
        format!("{head}{}", self.next)
    }

    fn pick(&mut self, wanted: impl Fn(&Kept) -> bool) -> Option<String> {
        let found: Vec<_> = self
            .model
            .containers
            .iter()
            .filter(|(_, c)| wanted(c))
            .map(|(name, _)| name.clone())
            .collect();
        found.choose(&mut self.random).cloned()
    }

    fn any(&mut self, of: &BTreeSet<String>) -> Option<String> {
        let all: Vec<_> = of.iter().cloned().collect();
        all.choose(&mut self.random).cloned()
    }

    /// Something that can be done now.
    fn deed(&mut self) -> Deed {
        loop {
            let serving = |c: &Kept| c.phase == Phase::Running;
            let deed = match self.random.random_range(0..20) {
                0..=2 if self.model.containers.len() < CROWD => {
                    let images = self.model.images.clone();
                    let volumes = self.model.volumes.clone();
                    self.any(&images).map(|image| Deed::Create {
                        name: self.name("c"),
                        image,
                        serves: self.random.random_bool(0.7),
                        volume: self.any(&volumes).filter(|_| self.next.is_multiple_of(2)),
                    })
                }
                3..=5 => self.pick(|c| c.phase != Phase::Running).map(Deed::Start),
                6 => self.pick(serving).map(Deed::Stop),
                7 => self.pick(|_| true).map(Deed::Remove),
                8 => self.pick(serving).map(|c| Deed::Say(c, self.name("word"))),
                9..=10 => self.pick(serving).map(|c| Deed::Log(c, self.name("line"))),
                11 => self.pick(|_| true).map(Deed::Logs),
                12 => self.pick(serving).map(Deed::Top),
                13 => self.pick(serving).map(Deed::Pause),
                14 => self.pick(|_| true).map(|c| Deed::Rename(c, self.name("r"))),
                15 if self.model.volumes.len() < 3 => Some(Deed::MakeVolume(self.name("v"))),
                16 => {
                    let used: BTreeSet<_> = self.used(|c| c.volume.clone());
                    let free = &self.model.volumes - &used;
                    self.any(&free).map(Deed::RemoveVolume)
                }
                17 if self.model.images.len() < 3 => {
                    Some(Deed::Load(format!("{}:latest", self.name("image"))))
                }
                18 => {
                    let used: BTreeSet<_> = self.used(|c| Some(c.image.clone()));
                    let free = &self.model.images - &used;
                    self.any(&free).map(Deed::RemoveImage)
                }
                19 => Some(if self.next.is_multiple_of(2) {
                    Deed::Events
                } else {
                    Deed::Networks
                }),
                _ => None,
            };
            if let Some(deed) = deed {
                return deed;
            }
        }
    }

    fn used(&self, what: impl Fn(&Kept) -> Option<String>) -> BTreeSet<String> {
        self.model.containers.values().filter_map(what).collect()
    }

    /// What a kind of actor is busy with.
    fn deed_for(&mut self, kind: &str) -> Deed {
        if matches!(kind, "images" | "layer" | "pull" | "appliance") {
            return Deed::Load(format!("{}:latest", self.name("image")));
        }
        for _ in 0..200 {
            let deed = self.deed();
            let fits = match kind {
                "repository" => matches!(deed, Deed::Load(_) | Deed::RemoveImage(_)),
                "volumes" | "volume" => {
                    matches!(deed, Deed::MakeVolume(_) | Deed::RemoveVolume(_))
                }
                "networks" | "network" => matches!(deed, Deed::Create { .. }),
                "link" => matches!(deed, Deed::Top(_) | Deed::Pause(_) | Deed::Stop(_)),
                "exec" => matches!(deed, Deed::Say(..) | Deed::Log(..)),
                "events" => matches!(deed, Deed::Events),
                "container" | "serial" => {
                    matches!(deed, Deed::Start(_) | Deed::Stop(_) | Deed::Remove(_))
                }
                _ => true,
            };
            if fits {
                return deed;
            }
        }
        self.deed()
    }

    fn kept(&self, name: &str) -> &Kept {
        &self.model.containers[name]
    }
}

/// Does a deed once. What is done already is fine.
async fn once(bench: &Bench, deed: &Deed, model: &Model) -> Result<Option<ContainerId>, Error> {
    let engine = &bench.world.engine;
    let id = |name: &str| model.containers[name].id;
    match deed {
        Deed::Create {
            name,
            image,
            serves,
            volume,
        } => {
            let image = engine.snapshots().find_image(image)?;
            let argv: &[&str] = if *serves { &["serve"] } else { &["exit", "7"] };
            let mut wanted = spec(name, &image, argv);
            wanted.mounts = match volume {
                Some(volume) => mounts(&[Some(volume.as_str()), None]),
                None => vec![],
            };
            return Ok(Some(bench.create_spec(wanted).await?.id));
        }
        Deed::Start(name) => match engine.start(id(name)).await {
            Ok(()) | Err(Error::NotModified) => {}
            Err(why) => return Err(why),
        },
        Deed::Stop(name) => {
            let options = StopOptions {
                signal: None,
                timeout: Some(30),
            };
            match engine.stop(id(name), options).await {
                Ok(()) | Err(Error::NotModified) => {}
                Err(why) => return Err(why),
            }
        }
        Deed::Remove(name) => {
            let options = RemoveOptions {
                force: true,
                volumes: true,
                ..RemoveOptions::default()
            };
            match engine.remove(id(name), options).await {
                Ok(()) | Err(Error::NoSuchContainer(_)) => {}
                Err(Error::RemovalInProgress(_)) => {
                    if let Ok(gone) = engine.wait(id(name), WaitCondition::Removed).await {
                        let _ = gone.await;
                    }
                }
                Err(why) => return Err(why),
            }
        }
        Deed::Say(name, word) => {
            let (said, code) = bench.exec(id(name), &["say", word]).await?;
            // One whose link died has lost its stream, and says so by its code or by the end of its output.
            if code == 0 && said.is_empty() {
                return Err(Error::Interrupted("exec"));
            }
            assert_eq!((said.as_str(), code), (word.as_str(), 0));
        }
        Deed::Log(name, line) => {
            let (_, code) = bench.exec(id(name), &["log", line]).await?;
            if code != 0 {
                return Err(Error::Interrupted("exec"));
            }
        }
        Deed::Logs(name) => drop(read_log(bench, id(name)).await?),
        Deed::Top(name) => drop(engine.top(id(name), "").await?),
        Deed::Pause(name) => {
            match engine.pause(id(name)).await {
                Ok(()) | Err(Error::AlreadyPaused(_)) => {}
                Err(why) => return Err(why),
            }
            loop {
                match engine.unpause(id(name)).await {
                    Ok(()) | Err(Error::NotPaused(_)) => break,
                    Err(Error::Interrupted(_)) => {}
                    Err(why) => return Err(why),
                }
            }
        }
        Deed::Rename(name, to) => engine.rename(id(name), to).await?,
        Deed::MakeVolume(name) => {
            let wanted = VolumeSpec {
                name: Some(name.clone()),
                ..VolumeSpec::default()
            };
            engine.create_volume(wanted).await?;
        }
        Deed::RemoveVolume(name) => match engine.remove_volume(name, false).await {
            Ok(()) | Err(Error::NoSuchVolume(_)) => {}
            Err(why) => return Err(why),
        },
        Deed::Load(tag) => drop(bench.load(tag, 2).await?),
        Deed::RemoveImage(tag) => match engine.remove_image(tag, false, false).await {
            Ok(_) | Err(Error::NoSuchImage(_)) => {}
            Err(why) => return Err(why),
        },
        Deed::Events => drop(engine.events(None).await?),
        Deed::Networks => assert!(engine.snapshots().find_network("bridge").is_ok()),
    }
    Ok(None)
}

/// The texts of a log; its numbers have no gap.
async fn read_log(bench: &Bench, id: ContainerId) -> Result<Vec<String>, Error> {
    let whole = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let mut log = bench.world.engine.logs(id, whole).await?;
    let mut texts = Vec::new();
    while let Some(record) = log.recv().await {
        texts.push(String::from_utf8_lossy(&record.data).trim_end().to_owned());
        assert_eq!(
            record.seq,
            texts.len() as u64,
            "a gap in the log: {texts:?}"
        );
    }
    Ok(texts)
}

/// Does a deed as a person would: what fails is done again.
async fn persist(bench: &Bench, deed: &Deed, model: &Model) -> Option<ContainerId> {
    let begun = Instant::now();
    loop {
        let Ok(answer) = tokio::time::timeout(PATIENCE, once(bench, deed, model)).await else {
            panic!("{deed:?} is not answered\n{}", bench.world.tree.print());
        };
        match answer {
            Ok(id) => return id,
            Err(why) => assert!(begun.elapsed() < PATIENCE, "{deed:?}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Chaos {
    /// The model after a deed.
    fn note(&mut self, deed: &Deed, made: Option<ContainerId>) {
        let containers = &mut self.model.containers;
        match deed.clone() {
            Deed::Create {
                name,
                image,
                serves,
                volume,
            } => {
                let kept = Kept {
                    id: made.expect("an id"),
                    image,
                    serves,
                    phase: Phase::Created,
                    code: 0,
                    runs: 0,
                    volume,
                    said: vec![],
                };
                containers.insert(name, kept);
            }
            Deed::Start(name) => {
                let kept = containers.get_mut(&name).unwrap();
                kept.runs += 1;
                (kept.phase, kept.code) = match kept.serves {
                    true => (Phase::Running, 0),
                    false => (Phase::Exited, 7),
                };
            }
            Deed::Stop(name) => {
                let kept = containers.get_mut(&name).unwrap();
                (kept.phase, kept.code) = (Phase::Exited, 143);
            }
            Deed::Remove(name) => drop(containers.remove(&name)),
            Deed::Log(name, line) => containers.get_mut(&name).unwrap().said.push(line),
            Deed::Rename(name, to) => {
                let kept = containers.remove(&name).unwrap();
                containers.insert(to, kept);
            }
            Deed::MakeVolume(name) => drop(self.model.volumes.insert(name)),
            Deed::RemoveVolume(name) => drop(self.model.volumes.remove(&name)),
            Deed::Load(tag) => drop(self.model.images.insert(tag)),
            Deed::RemoveImage(tag) => drop(self.model.images.remove(&tag)),
            _ => {}
        }
    }

    /// What does not agree with the model.
    async fn differences(&self) -> Vec<String> {
        let shelves = self.bench.world.engine.snapshots();
        let mut found = Vec::new();
        let mut differ = |what: &str, is: String, wanted: String| {
            if is != wanted {
                found.push(format!("{what}: is {is}, should be {wanted}"));
            }
        };
        let mut there: Vec<_> = shelves
            .containers()
            .iter()
            .map(|c| (c.name.clone(), c.id, c.phase, c.exit_code, c.dead))
            .collect();
        there.sort_by(|a, b| a.0.cmp(&b.0));
        let kept = self.model.containers.iter();
        let wanted: Vec<_> = kept
            .map(|(n, c)| (n.clone(), c.id, c.phase, c.code, false))
            .collect();
        differ("containers", format!("{there:?}"), format!("{wanted:?}"));
        let wanted: BTreeMap<_, _> = self
            .model
            .containers
            .iter()
            .map(|(name, c)| {
                let on = c.phase == Phase::Running;
                let power = if on { "poweredOn" } else { "poweredOff" };
                (format!("{name}-{}", c.id.short()), power.to_owned())
            })
            .collect();
        differ(
            "VMs",
            format!("{:?}", self.bench.vms().await),
            format!("{wanted:?}"),
        );
        differ(
            "attached",
            format!("{:?}", self.bench.attached().await),
            "[]".into(),
        );
        let named: BTreeSet<_> = shelves
            .volumes()
            .iter()
            .filter(|v| !v.anonymous)
            .map(|v| v.name.clone())
            .collect();
        differ(
            "volumes",
            format!("{named:?}"),
            format!("{:?}", self.model.volumes),
        );
        let anonymous = shelves.volumes().iter().filter(|v| v.anonymous).count();
        let wanted = self.used_anonymous();
        differ(
            "anonymous volumes",
            anonymous.to_string(),
            wanted.to_string(),
        );
        let images: BTreeSet<_> = shelves
            .images()
            .values()
            .flat_map(|i| i.tags.clone())
            .collect();
        differ(
            "images",
            format!("{images:?}"),
            format!("{:?}", self.model.images),
        );
        let files = self.bench.files();
        let count = |head: &str, tail: &str| {
            let matches = |f: &&String| f.starts_with(head) && f.ends_with(tail);
            files.iter().filter(matches).count()
        };
        let layers = self.model.images.len() * 2;
        differ(
            "layers",
            count("vch-images/", "/layer.vmdk").to_string(),
            layers.to_string(),
        );
        differ(
            "markers",
            count("vch-images/", "/layer.json").to_string(),
            layers.to_string(),
        );
        let volumes = self.model.volumes.len() + wanted;
        differ(
            "volumes' disks",
            count("vch-volumes/", ".vmdk").to_string(),
            volumes.to_string(),
        );
        let machines = self.model.containers.len();
        differ(
            "VMX files",
            count("", ".vmx").to_string(),
            machines.to_string(),
        );
        let disks = count("", ".vmdk") - count("vch-", ".vmdk");
        differ("containers' disks", disks.to_string(), machines.to_string());
        let networks = shelves.find_network("bridge").map(|n| n.endpoints.len());
        let running = self
            .model
            .containers
            .values()
            .filter(|c| c.phase == Phase::Running);
        differ(
            "endpoints",
            format!("{networks:?}"),
            format!("{:?}", Ok::<_, Error>(running.count())),
        );
        found
    }

    fn used_anonymous(&self) -> usize {
        self.model
            .containers
            .values()
            .filter(|c| c.volume.is_some())
            .count()
    }

    /// Waits until everything agrees with the model.
    async fn agree(&mut self, about: &str) {
        let begun = Instant::now();
        loop {
            let differences = self.differences().await;
            if differences.is_empty() {
                return;
            }
            let tree = || self.bench.world.tree.print();
            assert!(
                begun.elapsed() < PATIENCE,
                "{about}: {differences:#?}\n{}",
                tree()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks actors something at once after a kill, and notes how long the answer takes.
    async fn answers(&mut self, about: &str) {
        let begun = Instant::now();
        let engine = &self.bench.world.engine;
        let size = actors::streams::ConsoleSize {
            height: 1,
            width: 1,
        };
        for kept in self.model.containers.values().take(2) {
            loop {
                match engine.resize(kept.id, size).await {
                    Ok(()) | Err(Error::NotRunning(_)) => break,
                    Err(why) => assert!(begun.elapsed() < PATIENCE, "{about}: {why}"),
                }
                tokio::task::yield_now().await;
            }
        }
        let took = begun.elapsed();
        if took > SECOND {
            self.slow.push((about.to_owned(), took));
        }
    }

    /// Removes images until there are few.
    async fn tidy(&mut self) {
        while self.model.images.len() > SHELF {
            let used: BTreeSet<_> = self.used(|c| Some(c.image.clone()));
            let free = &self.model.images - &used;
            let Some(image) = self.any(&free) else { return };
            let deed = Deed::RemoveImage(image);
            let made = persist(&self.bench, &deed, &self.model).await;
            self.note(&deed, made);
        }
    }

    /// One round: a kill and a deed. Says whether an actor of this kind was killed, busy or idle.
    async fn round(&mut self, kind: &str, busy: bool) -> bool {
        self.tidy().await;
        let pattern = format!("kind:{kind}");
        let deed = self.deed_for(kind);
        let about = format!("{kind} {} {deed:?}", if busy { "busy" } else { "idle" });
        let tree = self.bench.world.tree.clone();
        let killed;
        let made;
        if busy {
            let arming = tokio::spawn(async move { tree.arm(&pattern, PATIENCE).await });
            // Armed before the request is made.
            tokio::task::yield_now().await;
            made = persist(&self.bench, &deed, &self.model).await;
            killed = match arming.is_finished() {
                true => arming.await.ok().flatten().is_some(),
                false => {
                    arming.abort();
                    matches!(arming.await, Ok(Some(_)))
                }
            };
        } else {
            let idle: Vec<_> = tree
                .entries()
                .into_iter()
                .filter(|e| e.kind == kind && !e.is_busy())
                .collect();
            let victim = idle.choose(&mut self.random).map(|e| e.path.clone());
            killed = match victim {
                Some(path) => tree.kill(&path).await.is_some(),
                None => false,
            };
            if killed {
                self.answers(&about).await;
            }
            made = persist(&self.bench, &deed, &self.model).await;
        }
        self.note(&deed, made);
        self.agree(&about).await;
        if let Deed::Log(name, _) | Deed::Logs(name) | Deed::Start(name) = &deed {
            let kept = self.kept(name).clone();
            let log = loop {
                match read_log(&self.bench, kept.id).await {
                    Ok(log) => break log,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            for line in &kept.said {
                assert!(log.contains(line), "{about}: {line} is not in {log:?}");
            }
        }
        killed
    }
}

/// The number in an environment variable.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_actors_of_every_kind_leave_everything_as_the_model_says() {
    let seed = number("CHAOS_SEED").unwrap_or_else(rand::random);
    let kills = number("CHAOS_KILLS").unwrap_or(200);
    println!("CHAOS_SEED={seed} CHAOS_KILLS={kills}");
    let begun = Instant::now();
    let mut chaos = Chaos {
        bench: Bench::with(options()).await,
        model: Model::default(),
        random: StdRng::seed_from_u64(seed),
        next: 0,
        slow: vec![],
    };
    for image in ["one:latest", "two:latest"] {
        let deed = Deed::Load(image.into());
        let made = persist(&chaos.bench, &deed, &chaos.model).await;
        chaos.note(&deed, made);
    }
    let kinds: Vec<&str> = actors::world::KINDS
        .into_iter()
        .filter(|k| !ELSEWHERE.contains(k))
        .collect();
    let mut table: BTreeMap<&str, [u64; 2]> = kinds.iter().map(|k| (*k, [0, 0])).collect();
    let mut order: Vec<(&str, bool)> = Vec::new();
    let mut done = 0;
    let mut rounds = 0;
    while done < kills {
        if order.is_empty() {
            order = kinds
                .iter()
                .flat_map(|k| [(*k, false), (*k, true)])
                .collect();
            order.shuffle(&mut chaos.random);
        }
        let (kind, busy) = order.pop().unwrap();
        rounds += 1;
        if chaos.round(kind, busy).await {
            table.get_mut(kind).unwrap()[usize::from(busy)] += 1;
            done += 1;
        }
        assert!(rounds < 20 * kills + 1000, "too few kills: {table:?}");
    }
    println!("{:12} {:>6} {:>6}", "kind", "idle", "busy");
    for (kind, [idle, busy]) in &table {
        println!("{kind:12} {idle:>6} {busy:>6}");
    }
    println!(
        "{kills} kills in {rounds} rounds, {:?}; slow: {:?}",
        begun.elapsed(),
        chaos.slow
    );
    let missing: Vec<_> = table.iter().filter(|(_, n)| n[0] + n[1] == 0).collect();
    assert!(missing.is_empty(), "never killed: {missing:?}");
    let few = usize::try_from(kills / 100).unwrap();
    assert!(
        chaos.slow.len() <= few,
        "answers after more than a second: {:?}",
        chaos.slow
    );
    chaos.bench.stop().await;
}
