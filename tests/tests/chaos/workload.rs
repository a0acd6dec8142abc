//! What clients do while actors are killed: one operation at a time, each on things that nobody else touches.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use system_tests::http::{Answer, Body};
use system_tests::image::Recipe;
use system_tests::installed::Installed;

use super::model::{Image, Model, State};
use super::random::Random;

/// The image of all containers, always there.
pub const IMAGE: &str = "busybox:test";
/// A container that counts aloud from one on, always there.
pub const TICKER: &str = "ticker";
/// An operation that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

const CONTAINERS: [&str; 5] = ["c0", "c1", "c2", "c3", "c4"];
const VOLUMES: [&str; 3] = ["v0", "v1", "v2"];

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        name: String,
        volume: Option<String>,
        anonymous: bool,
    },
    Start {
        name: String,
    },
    Stop {
        name: String,
    },
    /// By force, and its anonymous volumes with it.
    Remove {
        name: String,
    },
    Exec {
        name: String,
        token: usize,
    },
    /// `docker run --rm`, by the real client.
    Run {
        name: String,
    },
    VolumeCreate {
        name: String,
    },
    VolumeRemove {
        name: String,
    },
    Pull(Image),
    Load(Image),
    RemoveImage(Image),
    Events,
    Logs {
        name: String,
    },
}

impl Op {
    /// The names of the things that it changes.
    pub fn things(&self) -> Vec<String> {
        match self {
            Self::Create { name, volume, .. } => {
                let mut things = vec![name.clone()];
                things.extend(volume.clone());
                things
            }
            Self::Start { name }
            | Self::Stop { name }
            | Self::Remove { name }
            | Self::Run { name }
            | Self::VolumeCreate { name }
            | Self::VolumeRemove { name } => vec![name.clone()],
            Self::Pull(image) | Self::Load(image) | Self::RemoveImage(image) => {
                vec![image.tag.clone()]
            }
            Self::Exec { .. } | Self::Events | Self::Logs { .. } => Vec::new(),
        }
    }

    /// What it does, without what it does it to.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Start { .. } => Verb::Start,
            Self::Stop { .. } => Verb::Stop,
            Self::Remove { .. } => Verb::Remove,
            Self::Exec { .. } => Verb::Exec,
            Self::Run { .. } => Verb::Run,
            Self::VolumeCreate { .. } => Verb::VolumeCreate,
            Self::VolumeRemove { .. } => Verb::VolumeRemove,
            Self::Pull(_) => Verb::Pull,
            Self::Load(_) => Verb::Load,
            Self::RemoveImage(_) => Verb::RemoveImage,
            Self::Events => Verb::Events,
            Self::Logs { .. } => Verb::Logs,
        }
    }
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// The server broke off or said that it failed: it may have been carried out or not.
    Unknown(String),
    /// The server called a right request wrong.
    Wrong(String),
}

impl Outcome {
    /// In a word, and why.
    pub fn say(&self) -> (&str, &str) {
        match self {
            Self::Done => ("done", ""),
            Self::Unknown(why) => ("interrupted", why),
            Self::Wrong(why) => ("refused", why),
        }
    }
}

/// What operations there are, without what they are done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Start,
    Stop,
    Remove,
    Exec,
    Run,
    VolumeCreate,
    VolumeRemove,
    Pull,
    Load,
    RemoveImage,
    Events,
    Logs,
}

/// The operations that ask something of an actor of this kind.
pub fn verbs(kind: &str) -> &'static [Verb] {
    use Verb::*;
    match kind {
        "vsphere" => &[Create, Start, Stop, Remove, VolumeCreate],
        "watch" => &[Create, Start, Stop, VolumeCreate],
        "appliance" | "layer" | "images" => &[Pull, Load],
        "events" => &[Events],
        "repository" => &[Load, Pull, RemoveImage],
        "pull" => &[Pull],
        "volumes" => &[VolumeCreate, VolumeRemove],
        "volume" => &[VolumeRemove, Create],
        "networks" | "network" => &[Create, Remove],
        "containers" => &[Create, Run],
        "container" => &[Start, Stop, Remove, Exec],
        "link" | "exec" => &[Exec],
        "serial" => &[Start],
        _ => &[Create, Start, Stop, Remove, Exec, Run, VolumeCreate, Logs],
    }
}

/// An operation of this kind that the model allows now; `None` when there is none.
pub fn plan(verb: Verb, model: &Model, images: &[Image], random: &mut Random) -> Option<Op> {
    let some = |names: Vec<String>, random: &mut Random| random.choose(&names).cloned();
    let there = |name: &&&str| model.containers.contains_key(**name);
    let free: Vec<String> = CONTAINERS
        .iter()
        .filter(|n| !there(n) && !model.touched.contains(**n))
        .map(|n| (*n).to_owned())
        .collect();
    let of = |states: &[State]| {
        let mut names = model.in_state(states);
        names.retain(|name| name != TICKER);
        names
    };
    let name = match verb {
        Verb::Create => {
            let unused: Vec<String> = model.unused_volumes();
            return Some(Op::Create {
                name: some(free, random)?,
                volume: random.choose(&unused).cloned(),
                anonymous: random.one_in(3),
            });
        }
        Verb::Pull | Verb::Load | Verb::RemoveImage => {
            let kept = verb == Verb::RemoveImage;
            let pulled = |image: &&Image| match verb {
                Verb::Pull => image.tag.contains('/'),
                Verb::Load => !image.tag.contains('/'),
                _ => true,
            };
            let fit: Vec<&Image> = images
                .iter()
                .filter(|i| model.images.contains_key(&i.tag) == kept && pulled(i))
                .filter(|i| !model.touched.contains(&i.tag))
                .collect();
            let image = (*random.choose(&fit)?).clone();
            return Some(match verb {
                Verb::Pull => Op::Pull(image),
                Verb::Load => Op::Load(image),
                _ => Op::RemoveImage(image),
            });
        }
        Verb::Events => return Some(Op::Events),
        Verb::Run => some(free, random)?,
        Verb::Start => {
            let mut names = of(&[State::Created, State::Exited]);
            names.retain(|name| !model.containers[name].once);
            some(names, random)?
        }
        Verb::Stop => some(of(&[State::Running]), random)?,
        Verb::Remove => some(of(&[State::Created, State::Running, State::Exited]), random)?,
        Verb::Exec => some(model.in_state(&[State::Running]), random)?,
        Verb::Logs => TICKER.to_owned(),
        Verb::VolumeCreate => {
            let absent = VOLUMES
                .iter()
                .filter(|v| !model.volumes.contains(**v) && !model.touched.contains(**v));
            some(absent.map(|v| (*v).to_owned()).collect(), random)?
        }
        Verb::VolumeRemove => some(model.unused_volumes(), random)?,
    };
    Some(match verb {
        Verb::Run => Op::Run { name },
        Verb::Start => Op::Start { name },
        Verb::Stop => Op::Stop { name },
        Verb::Remove => Op::Remove { name },
        Verb::VolumeCreate => Op::VolumeCreate { name },
        Verb::VolumeRemove => Op::VolumeRemove { name },
        Verb::Logs => Op::Logs { name },
        _ => Op::Exec {
            name,
            token: random.below(1_000_000),
        },
    })
}

/// What makes a `verb` possible when the model has nothing to do it to.
pub fn before(verb: Verb) -> &'static [Verb] {
    use Verb::*;
    match verb {
        Create | Run => &[Remove],
        Start => &[Create, Remove, Create],
        Stop | Exec => &[Create, Start, Remove, Create, Start],
        Remove => &[Create],
        VolumeCreate => &[
            VolumeRemove,
            Remove,
            VolumeRemove,
            Remove,
            VolumeRemove,
            Remove,
            VolumeRemove,
        ],
        VolumeRemove => &[VolumeCreate, Remove, Remove, Remove, Remove, Remove],
        // Which image goes is chance: at last one of the right sort has.
        Pull | Load => &[RemoveImage; 8],
        RemoveImage => &[Load],
        Events | Logs => &[],
    }
}

/// Carries an operation out.
pub fn run(vch: &Installed, op: &Op) -> Outcome {
    match attempt(vch, op) {
        Ok(outcome) => outcome,
        Err(why) => Outcome::Unknown(format!("{why:#}")),
    }
}

fn attempt(vch: &Installed, op: &Op) -> Result<Outcome> {
    let send = |method: &str, path: &str, body: &Body<'_>| vch.request(method, path, body, LIMIT);
    let post = |path: &str, body: &Body<'_>| send("POST", path, body);
    let delete = |path: &str| send("DELETE", path, &Body::None);
    let answer = match op {
        Op::Create {
            name,
            volume,
            anonymous,
        } => {
            let body = create(volume.as_deref(), *anonymous);
            post(&format!("/containers/create?name={name}"), &body)?
        }
        Op::Start { name } => post(&format!("/containers/{name}/start"), &Body::None)?,
        Op::Stop { name } => post(&format!("/containers/{name}/stop?t=5"), &Body::None)?,
        Op::Remove { name } => delete(&format!("/containers/{name}?force=1&v=1"))?,
        Op::Exec { name, token } => return exec(vch, name, *token, LIMIT),
        Op::Run { name } => {
            let ran = vch.docker(&["run", "--rm", "--name", name, IMAGE, "echo", "ran"])?;
            return Ok(match (ran.code(), ran.stdout.trim_end()) {
                (0, "ran") => Outcome::Done,
                // Output that was cut off is never a success.
                (0, _) => Outcome::Wrong(format!("{ran:?}")),
                _ => Outcome::Unknown(format!("{}: {}", ran.status, ran.stderr)),
            });
        }
        Op::VolumeCreate { name } => post("/volumes/create", &Body::Json(json!({"Name": name})))?,
        Op::VolumeRemove { name } => delete(&format!("/volumes/{name}"))?,
        Op::Pull(image) => {
            let (name, tag) = image.tag.rsplit_once(':').context("a tag")?;
            post(
                &format!("/images/create?fromImage={name}&tag={tag}"),
                &Body::None,
            )?
        }
        Op::Load(image) => {
            let archive = std::fs::read(&image.archive)?;
            post("/images/load?quiet=1", &Body::Tar(&archive))?
        }
        Op::RemoveImage(image) => delete(&format!("/images/{}", image.tag))?,
        Op::Events => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            send(
                "GET",
                &format!("/events?since={}&until={now}", now - 5),
                &Body::None,
            )?
        }
        Op::Logs { name } => {
            let path = format!("/containers/{name}/logs?stdout=1&tail=20");
            let answer = send("GET", &path, &Body::None)?;
            if answer.is_success() {
                consecutive(&stdout(&answer.body)?)?;
            }
            answer
        }
    };
    Ok(match (op, judge(&answer)) {
        // A transfer is over when it says so.
        (Op::Pull(_), Outcome::Done) if !answer.text().contains("Status: ") => {
            Outcome::Unknown("the pull's stream ended early".to_owned())
        }
        (Op::Load(_), Outcome::Done) if !answer.text().contains("Loaded image") => {
            Outcome::Unknown("the load's stream ended early".to_owned())
        }
        (_, outcome) => outcome,
    })
}

fn create(volume: Option<&str>, anonymous: bool) -> Body<'static> {
    let binds: Vec<String> = volume.iter().map(|v| format!("{v}:/v")).collect();
    let mut volumes = serde_json::Map::new();
    if anonymous {
        volumes.insert("/own".into(), json!({}));
    }
    Body::Json(json!({
        "Image": IMAGE, "Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL",
        "Volumes": volumes, "HostConfig": {"Binds": binds},
    }))
}

/// Runs a program beside a container's own and reads what it prints.
pub fn exec(vch: &Installed, name: &str, token: usize, limit: Duration) -> Result<Outcome> {
    let script = format!("echo {token}; echo end");
    let body = json!({"AttachStdout": true, "Cmd": ["sh", "-c", script]});
    let path = format!("/containers/{name}/exec");
    let made = vch.request("POST", &path, &Body::Json(body), limit)?;
    if !made.is_success() {
        return Ok(judge(&made));
    }
    let id = made.json()?["Id"].as_str().context("Id")?.to_owned();
    let body = json!({"Detach": false, "Tty": false});
    let path = format!("/exec/{id}/start");
    let ran = vch.request("POST", &path, &Body::Json(body), limit)?;
    let printed = stdout(&ran.body).unwrap_or_default();
    if ran.is_success() && printed != format!("{token}\nend\n") {
        // An exec that was cut off ends its stream, as docker's does when its daemon dies.
        return Ok(Outcome::Unknown(format!("exec printed {printed:?}")));
    }
    Ok(judge(&ran))
}

fn judge(answer: &Answer) -> Outcome {
    let text = format!("{}: {}", answer.status, answer.text().trim_end());
    // A transfer that fails after its first line can only say so in the stream.
    let late = answer.body.starts_with(b"{") && answer.text().contains("\"errorDetail\"");
    match answer.status {
        200..400 if late => Outcome::Unknown(text),
        200..400 => Outcome::Done,
        500.. => Outcome::Unknown(text),
        _ => Outcome::Wrong(text),
    }
}

/// The standard output in a stream of frames.
pub fn stdout(mut frames: &[u8]) -> Result<String> {
    let mut text = Vec::new();
    while let Some((head, rest)) = frames.split_at_checked(8) {
        let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (content, rest) = rest.split_at_checked(size).context("a frame broke off")?;
        if head[0] == 1 {
            text.extend_from_slice(content);
        }
        frames = rest;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Checks that numbers, one a line, follow each other without gap or double; gives the last.
pub fn consecutive(lines: &str) -> Result<u64> {
    let mut last = None;
    for line in lines.lines() {
        let number: u64 = line.parse().with_context(|| format!("{line:?}"))?;
        match last {
            Some(before) if number != before + 1 => bail!("{number} follows {before}"),
            _ => last = Some(number),
        }
    }
    last.context("nothing was logged")
}

/// Starts the container that counts.
pub fn start_ticker(vch: &Installed) -> Result<()> {
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";
    let run = ["run", "-d", "--name", TICKER, IMAGE, "sh", "-c", script];
    vch.docker(&run)?.ok()?;
    Ok(())
}

/// The images of the workload: some in the registry, some as archives, each with a layer of its own.
pub fn images(vch: &Installed) -> Result<Vec<Image>> {
    let registry = format!("host.docker.internal:{}", vch.registry.port);
    let mut images = Vec::new();
    for number in 0..8_u8 {
        // Enough of either sort: what an interrupted transfer may still do rests for a while.
        let loaded = number >= 4;
        let mut recipe = Recipe::busybox(&format!("i{number}:1"));
        // What does not compress takes its time.
        let mut random = Random::new(number.into());
        let noise = (0..1_000_000).map(|_| u8::try_from(random.below(256)).unwrap_or_default());
        recipe
            .layers
            .push(vec![(format!("noise{number}"), noise.collect())]);
        let archive = vch.archive(&recipe)?;
        let tag = if loaded {
            recipe.tag.clone()
        } else {
            vch.registry.push(&archive, &format!("test/i{number}:1"))?;
            format!("{registry}/test/i{number}:1")
        };
        let chain = chain(&archive)?;
        images.push(Image {
            tag,
            archive,
            chain,
        });
    }
    Ok(images)
}

/// The chain ids of an archive's layers, lowest first.
pub fn chain(archive: &std::path::Path) -> Result<Vec<String>> {
    use sha2::{Digest as _, Sha256};
    let mut tar = tar::Archive::new(std::fs::File::open(archive)?);
    let mut config: Option<Value> = None;
    for entry in tar.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.to_string_lossy();
        if name.ends_with(".json") && name != "manifest.json" {
            config = Some(serde_json::from_reader(entry)?);
        }
    }
    let config = config.context("no configuration in the archive")?;
    let layers = config["rootfs"]["diff_ids"].as_array().context("layers")?;
    let mut chain: Vec<String> = Vec::new();
    for layer in layers {
        let own = layer.as_str().context("diff id")?.to_owned();
        let id = match chain.last() {
            None => own,
            Some(below) => {
                let pair = format!("sha256:{below} {own}");
                hex::encode(Sha256::digest(pair.as_bytes()))
            }
        };
        chain.push(id.trim_start_matches("sha256:").to_owned());
    }
    Ok(chain)
}
