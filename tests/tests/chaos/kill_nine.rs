//! `kill -9` of `vch`: the appliance's tether starts it again, and no container notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::host;
use system_tests::http::Body;
use system_tests::image::Recipe;
use system_tests::installed::{Installed, until};
use system_tests::world::path;

use super::log::{How, Reader, tail};
use super::model::Model;
use super::probe::{self, Strain};
use super::random::Random;
use super::stage::{Ended, Stage};
use super::workload::{self, IMAGE, Op, Outcome, TICKER, Verb, start_ticker};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    (
        "kill_9_of_vch_at_random_points_restarts_no_container",
        at_random_points,
    ),
    ("exec_works_after_vch_was_killed_and_is_back", exec_works),
];

/// Each kill doubles tether's pause before the next start: six of them take six seconds of it.
const KILLS: u32 = 6;
/// The first pause.
const PAUSE: Duration = Duration::from_millis(100);
/// Until the next `vch` answers.
const BACK: Duration = Duration::from_secs(60);
/// What is interrupted.
const VERBS: [Verb; 10] = [
    Verb::Create,
    Verb::Start,
    Verb::Stop,
    Verb::Remove,
    Verb::Exec,
    Verb::VolumeCreate,
    Verb::VolumeRemove,
    Verb::Pull,
    Verb::Load,
    Verb::RemoveImage,
];
/// Runs until it is told to end, and then says so.
const SURVIVOR: &str =
    "echo here > /survivor; until [ -e /go ]; do sleep 0.05; done; echo over > /survivor";

fn at_random_points() -> Result<()> {
    let mut stage = Stage::set(2)?;
    stage
        .vch
        .docker(&["exec", "-d", TICKER, "sh", "-c", SURVIVOR])?
        .ok()?;
    survivor(&stage.vch, "here")?;
    let before = processes(&stage.vch)?;
    ensure!(before.len() == 2, "{before:?}");
    let attach = Reader::start(&stage.vch, How::Attach);
    let logs = Reader::start(&stage.vch, How::Follow);
    let mut kills = 0;
    while kills < KILLS {
        let number = kills;
        let verb = *stage.random.choose(&VERBS).context("verb")?;
        let op = stage.prepare(verb)?;
        stage.settle(&[])?;
        let delay = Duration::from_millis(stage.random.below(60) as u64);
        // Now and then the next one dies too, somewhere in its start.
        let again = stage.random.one_in(3) && kills > 0;
        let again = again.then(|| Duration::from_millis(stage.random.below(150) as u64));
        let context = || {
            format!(
                "kill {number}, {delay:?} into {op:?}; seed {}; vch's log:\n{}",
                Random::seed(),
                stage.vch.log()
            )
        };
        let strain = Strain::begins();
        let (ended, took) = killed_during(&stage.vch, &op, delay, again).with_context(context)?;
        kills += 1 + u32::from(again.is_some());
        crate::report::say(format_args!(
            "kill {number}, {delay:?} into {:?}, again {again:?}: answers after {took:?}",
            op.verb()
        ));
        // Who kills a program again and again makes its start wait.
        let limit = probe::limit(strain) + PAUSE * 2_u32.pow(kills - 1);
        ensure!(took <= limit, "answers after {took:?} of {limit:?}");
        ensure!(!matches!(ended.1, Outcome::Wrong(_)), "{ended:?}");
        // The first answer is right, but for what was just being changed.
        right_at_once(&stage.vch, &stage.model, &op).with_context(context)?;
        // As with docker, an anonymous volume stays when nobody lived to tell that its container was never made, or has
        // just gone.
        let brings = match &ended.0 {
            Op::Create { anonymous, .. } => *anonymous,
            Op::Remove { name } => stage.model.containers[name].anonymous,
            _ => false,
        };
        stage.model.stray = brings && matches!(ended.1, Outcome::Unknown(_));
        stage.settle(&[ended])?;
        stage.model.stray = false;
        ensure!(
            processes(&stage.vch)? == before,
            "a process was started again"
        );
        attach.alive(&stage.vch)?;
        logs.alive(&stage.vch)?;
    }
    crate::report::say(format_args!(
        "{} attaches, {} logs -f",
        attach.sessions(),
        logs.sessions()
    ));
    stage.vch.docker(&["exec", TICKER, "touch", "/go"])?.ok()?;
    survivor(&stage.vch, "over")?;
    let all = stage.vch.docker(&["logs", TICKER])?.ok()?;
    ensure!(
        all.starts_with("1\n"),
        "the log begins with {:?}",
        all.lines().next()
    );
    workload::consecutive(&all)?;
    Ok(())
}

/// Kills `vch` some time into an operation, and the next one so much after its start; gives how the operation ended,
/// and how long after the last kill `vch` answered.
fn killed_during(
    vch: &Installed,
    op: &Op,
    delay: Duration,
    again: Option<Duration>,
) -> Result<(Ended, Duration)> {
    let mut old = vch.vch()?;
    std::thread::scope(|scope| {
        let run = scope.spawn(|| (op.clone(), workload::run(vch, op)));
        std::thread::park_timeout(delay);
        kill(Pid::from_raw(i32::try_from(old)?), Signal::SIGKILL)?;
        if let Some(delay) = again {
            old = until(BACK, || {
                let next = vch.vch()?;
                ensure!(next != old, "the old one runs");
                Ok(next)
            })?;
            std::thread::park_timeout(delay);
            kill(Pid::from_raw(i32::try_from(old)?), Signal::SIGKILL)?;
        }
        let began = Instant::now();
        until(BACK, || {
            let pong = vch.request("GET", "/_ping", &Body::None, BACK)?;
            ensure!(pong.is_success() && vch.vch()? != old, "{pong:?}");
            Ok(())
        })?;
        let took = began.elapsed();
        Ok((run.join().ok().context("panicked")?, took))
    })
}

/// `docker ps -a`, once: every container that nobody was changing is there, in its state.
fn right_at_once(vch: &Installed, model: &Model, op: &Op) -> Result<()> {
    let listed = vch
        .docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])?
        .ok()?;
    let listed: BTreeMap<&str, &str> = listed.lines().filter_map(|l| l.split_once(' ')).collect();
    let changing = match op {
        Op::Create { name, .. }
        | Op::Start { name }
        | Op::Stop { name }
        | Op::Remove { name }
        | Op::Run { name } => Some(name.as_str()),
        _ => None,
    };
    for (name, container) in &model.containers {
        let state = listed.get(name.as_str()).copied();
        ensure!(
            changing == Some(name) || state == Some(container.state.name()),
            "{name} is {state:?} instead of {:?}",
            container.state
        );
    }
    Ok(())
}

/// The container's process and the exec in it, as this host sees them: process id and start time.
fn processes(vch: &Installed) -> Result<BTreeMap<u32, String>> {
    let family = host::descendants(vch.simulator())?;
    let ours = |command: &str| command.contains("i=$((i+1))") || command.contains("/survivor");
    let mut found = BTreeMap::new();
    let matching: Vec<_> = family.iter().filter(|p| ours(&p.command)).collect();
    for process in &matching {
        // A shell that has just forked is there twice for a moment.
        if matching.iter().any(|p| p.pid == process.parent) {
            continue;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
        let fields = stat.rsplit_once(')').context("stat")?.1;
        let began = fields.split_whitespace().nth(19).context("start time")?;
        found.insert(process.pid, began.to_owned());
    }
    Ok(found)
}

fn survivor(vch: &Installed, says: &str) -> Result<()> {
    until(Duration::from_secs(30), || {
        let said = vch.docker(&["exec", TICKER, "cat", "/survivor"])?.ok()?;
        ensure!(said == says, "{said:?}");
        Ok(())
    })
}

fn exec_works() -> Result<()> {
    let vch = Installed::create(0)?;
    let busybox = vch.archive(&Recipe::busybox(IMAGE))?;
    vch.docker(&["load", "-q", "-i", path(&busybox)?])?.ok()?;
    start_ticker(&vch)?;
    vch.docker(&["exec", TICKER, "true"])?.ok()?;
    let old = vch.vch()?;
    kill(Pid::from_raw(i32::try_from(old)?), Signal::SIGKILL)?;
    until(BACK, || {
        ensure!(vch.vch()? != old, "the old one runs");
        vch.docker(&["version"])?.ok()
    })?;
    // The client's first word after that may meet a link that is still being made: it waits for it.
    let out = vch.docker(&["exec", TICKER, "sh", "-c", "echo in; echo err >&2; exit 9"])?;
    ensure!(out.stderr == "err\n", "{out:?}");
    ensure!(out.exits(9)? == "in");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..10_u32)
            .map(|i| {
                let vch = &vch;
                scope.spawn(move || {
                    let text = format!("exec number {i}");
                    let mut command = vch.docker_command();
                    command.args(["exec", "-i", TICKER, "cat"]);
                    let out = system_tests::run::run(&mut command, text.as_bytes())?.ok()?;
                    ensure!(out == text, "{out:?} instead of {text:?}");
                    Ok(())
                })
            })
            .collect();
        runs.into_iter()
            .try_for_each(|r| r.join().ok().context("panicked")?)
    })?;
    tail(&vch, "all").map(drop)
}
