//! Ctrl-C at a foreground `up`, while it starts and when it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::host::{self, Leftovers};
use system_tests::image::{Recipe, archive};
use system_tests::registry::free_port;
use system_tests::run::{Ran, run, run_within};
use system_tests::world::path;

use super::terminal::{CTRL_C, Terminal};

/// What this part shows.
pub const TESTS: &[super::Test] = &[
    ("ctrl_c_of_a_foreground_up_is_a_clean_down", running),
    (
        "ctrl_c_while_up_starts_leaves_a_state_that_up_can_use",
        starting,
    ),
    (
        "an_up_that_was_killed_is_stopped_by_down_and_begun_anew",
        killed,
    ),
];

/// Time for `up`: two ISOs are uploaded and two VMs boot.
const UP: Duration = Duration::from_secs(120);
const IMAGE: &str = "busybox:test";

/// A state directory, and what is done with it.
struct Place {
    dir: tempfile::TempDir,
    state: PathBuf,
    port: u16,
}

impl Place {
    fn new() -> Result<Self> {
        system_tests::need_root()?;
        let dir = tempfile::tempdir()?;
        Ok(Self {
            state: dir.path().join("state"),
            port: free_port()?,
            dir,
        })
    }

    fn vic_machine(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(system_tests::program("vic-machine")?);
        command
            .args(args)
            .env("VIC_STATE", &self.state)
            .env("VIC_PORT", self.port.to_string())
            .current_dir(self.dir.path());
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<Ran> {
        run_within(&mut self.vic_machine(args)?, b"", UP)
    }

    /// `up` in the foreground of a terminal.
    fn up(&self) -> Result<Terminal> {
        let program = system_tests::program("vic-machine")?.canonicalize()?;
        Terminal::start(&format!("exec {} up", path(&program)?), |command| {
            command
                .env("VIC_STATE", &self.state)
                .env("VIC_PORT", self.port.to_string())
                .env("VIC_SIM_LOG", "info,simulator=debug")
                .current_dir(self.dir.path());
        })
    }

    fn docker(&self, args: &[&str]) -> Result<Ran> {
        let exports = self.run(&["env"])?.ok()?;
        let env: BTreeMap<&str, &str> = exports
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .collect();
        run(Command::new("docker").envs(env).args(args), b"")
    }
}

/// Fails unless the processes end and the host has what it had before.
fn nothing_left(before: &Leftovers, pids: &[u32]) -> Result<()> {
    host::wait_gone(pids, Duration::from_secs(30))?;
    Leftovers::wait_none(before, Duration::from_secs(30))
}

fn family(state: &Path) -> Result<Vec<u32>> {
    let simulator = host::simulator(state)?.pid;
    let below = host::descendants(simulator)?;
    Ok(below.iter().map(|p| p.pid).chain([simulator]).collect())
}

fn running() -> Result<()> {
    let before = Leftovers::now()?;
    let place = Place::new()?;
    let mut up = place.up()?;
    up.until("Ctrl-C stops the containers and everything else", UP)?;
    let image = archive(place.dir.path(), &Recipe::busybox(IMAGE))?;
    place.docker(&["load", "-q", "-i", path(&image)?])?.ok()?;
    let script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "told", IMAGE, "sh", "-c", script];
    place.docker(&run)?.ok()?;
    // It has to be at its loop, or the signal comes before its trap.
    let looping = "until grep -q sleep /proc/[0-9]*/comm; do :; done";
    place.docker(&["exec", "told", "sh", "-c", looping])?.ok()?;
    let family = family(&place.state)?;
    up.types(CTRL_C)?;
    let (code, text) = up.end(UP)?;
    ensure!(
        code == 0
            && text.contains("Stopping containers")
            && text.contains("Completed successfully"),
        "{code}: {text}"
    );
    nothing_left(&before, &family)?;
    let env = place.run(&["env"])?;
    ensure!(
        env.code() == 1 && env.stdout.is_empty() && env.stderr.contains("nothing runs"),
        "{env:?}"
    );

    // It was told to stop, not cut off.
    place.run(&["up", "--detach"])?.ok()?;
    let state = [
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}}",
        "told",
    ];
    let state = place.docker(&state)?.ok()?;
    place.run(&["down"])?.ok()?;
    let log = std::fs::read_to_string(place.state.join("vic-sim.log"))?;
    ensure!(state == "exited 6", "{state}: {text}\n{log}");
    Ok(())
}

fn starting() -> Result<()> {
    let before = Leftovers::now()?;
    let mut cut_off = 0;
    for moment in [
        "Starting the vSphere simulator",
        "Creating appliance on target",
    ] {
        let place = Place::new()?;
        let mut up = place.up()?;
        up.until(moment, UP)?;
        up.types(CTRL_C)?;
        let (code, text) = up.end(UP)?;
        // It may have come to its end just before: then this is a down.
        match code {
            1 if text.contains("up failed: interrupted") => cut_off += 1,
            0 if text.contains("Completed successfully") => {}
            _ => bail!("{code}: {text}"),
        }
        ensure!(host::simulator(&place.state).is_err(), "{text}");
        Leftovers::wait_none(&before, Duration::from_secs(30))?;
        place.run(&["up", "--detach"])?.ok()?;
        let answer = place
            .docker(&["version", "--format", "{{.Server.Os}}"])?
            .ok();
        place.run(&["down"])?.ok()?;
        ensure!(answer? == "linux");
    }
    ensure!(cut_off > 0, "'up' was always quicker than Ctrl-C");
    Ok(())
}

fn killed() -> Result<()> {
    let before = Leftovers::now()?;
    let (place, family) = cut_off()?;
    let simulator = host::simulator(&place.state)?;
    let again = place.run(&["up", "--detach"])?;
    ensure!(
        again.code() == 1 && again.stdout.contains(&format!("process {}", simulator.pid)),
        "{again:?}"
    );
    place.run(&["down"])?.ok()?;
    nothing_left(&before, &family)?;
    let printed = place.run(&["up", "--detach"])?.ok()?;
    let answer = place
        .docker(&["version", "--format", "{{.Server.Os}}"])?
        .ok();
    place.run(&["down"])?.ok()?;
    ensure!(printed.contains("Starting anew"), "{printed}");
    ensure!(answer? == "linux");
    Ok(())
}

/// A first `up` that was killed before its VCH was there, and what runs of it.
fn cut_off() -> Result<(Place, Vec<u32>)> {
    for _ in 0..5 {
        let place = Place::new()?;
        let mut child = place
            .vic_machine(&["up", "--detach"])?
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("stdout")?;
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        let seen = lines.find(|line| {
            line.as_ref()
                .is_ok_and(|line| line.contains("Creating Resource Pool"))
        });
        ensure!(seen.is_some(), "it never came so far");
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
        child.wait()?;
        if !place.state.join("up.json").exists() {
            let family = family(&place.state)?;
            return Ok((place, family));
        }
        // It was quicker than the signal.
        place.run(&["down"])?.ok()?;
    }
    bail!("'up' was always quicker than the signal")
}
