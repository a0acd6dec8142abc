//! Runs every test of the workspace and keeps the names of those that ran.

mod outcome;
mod whole;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) use self::outcome::Outcome;
use self::whole::Clock;

/// How many of its last lines are shown again of a `cargo test` that failed without naming a test.
const LAST_LINES: usize = 40;

/// Builds what the system tests run, runs all tests, checks the features table.
pub(crate) fn run(packages: &[String]) -> Result<()> {
    let clock = Clock::start();
    crate::setup::install(true)?;
    if packages.is_empty() || packages.iter().any(|p| p == "system-tests") {
        crate::build()?;
    }
    let mut outcome = Outcome::default();
    let mut problems = Vec::new();
    for arguments in invocations(packages) {
        if let Err(error) = cargo_test(&arguments, &mut outcome) {
            problems.push(format!("{error:#}"));
        }
    }
    if packages.is_empty() {
        whole::check(&mut outcome, &whole::programs()?, clock.elapsed());
    }
    print!("{}", outcome.summary());
    if packages.is_empty()
        && let Err(error) = crate::features::check_ran(&outcome)
    {
        problems.push(format!("{error:#}"));
    }
    if problems.is_empty() && outcome.failed.is_empty() {
        return Ok(());
    }
    problems.extend(outcome.failed.keys().map(|name| format!("failed: {name}")));
    bail!("{}", problems.join("\n"))
}

/// The runs of `cargo test` that make up the whole, as arguments.
fn invocations(packages: &[String]) -> Vec<Vec<String>> {
    let named = packages
        .iter()
        .flat_map(|p| ["--package".to_owned(), p.clone()]);
    if !packages.is_empty() {
        return vec![named.collect()];
    }
    // The walls' matrix takes walls away, which only a build with this feature can do.
    let walls = "--package simulator --features break-walls --test engine_walls -- --show-output --test-threads=1";
    vec![
        vec!["--workspace".to_owned()],
        walls.split(' ').map(str::to_owned).collect(),
    ]
}

/// Runs `cargo test` once, shows what it prints and notes the verdicts.
fn cargo_test(arguments: &[String], outcome: &mut Outcome) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--no-fail-fast"])
        .args(arguments)
        .current_dir(crate::root());
    // The tests of tether as PID 1 would build the static program once more, with other features, to the same end.
    let tether = crate::image::program("tether");
    if tether.exists() && std::env::var_os("TETHER_PROGRAM").is_none() {
        command.env("TETHER_PROGRAM", tether);
    }
    // One stream, so that the `Running` lines (stderr) stand before the tests (stdout) of their program.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .context("starting cargo test")?;
    drop(command);
    let mut last = VecDeque::new();
    let mut since = Instant::now();
    // Tests may print what is no UTF-8: that must not end the run.
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if outcome.take(&line, since.elapsed()) {
            since = Instant::now();
        }
        last.push_back(line);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    outcome.end_of_run(since.elapsed());
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let what = format!("cargo test {} failed: {status}", arguments.join(" "));
    if outcome.failed.is_empty() {
        let last: Vec<String> = last.into();
        bail!("{what}\nits last lines:\n{}", last.join("\n"));
    }
    bail!("{what}")
}

/// Seconds, for people.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
