//! Runs every test of the workspace and keeps the names of those that ran.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What the runner saw.
#[derive(Default)]
pub(crate) struct Outcome {
    /// `<binary>::<test>` of each test that passed.
    pub(crate) passed: BTreeSet<String>,
    /// The same of each that failed.
    pub(crate) failed: BTreeSet<String>,
    /// The same of each that was left out.
    pub(crate) ignored: BTreeSet<String>,
}

impl Outcome {
    /// Takes one line of `cargo test`'s output, `binary` being the test program that printed it.
    fn take(&mut self, binary: &str, line: &str) {
        let Some(rest) = line.strip_prefix("test ") else {
            return;
        };
        let Some((name, verdict)) = rest.rsplit_once(" ... ") else {
            return;
        };
        let name = format!("{binary}::{}", name.trim());
        match verdict.trim() {
            v if v == "ok" || v.starts_with("ok ") => self.passed.insert(name),
            v if v.starts_with("ignored") => self.ignored.insert(name),
            v if v.starts_with("FAILED") => self.failed.insert(name),
            _ => false,
        };
    }
}

/// The name of the test program in a `Running …` line: the file stem of `target/debug/deps/<name>-<hash>`.
fn binary_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc-{name}"));
    }
    let path = line
        .strip_prefix("Running ")?
        .rsplit_once('(')?
        .1
        .trim_end_matches(')');
    let stem = path.rsplit('/').next()?;
    Some(stem.rsplit_once('-')?.0.to_owned())
}

/// Builds what the system tests run, runs all tests, checks the features table.
pub(crate) fn run(packages: &[String]) -> Result<()> {
    crate::setup::install(true)?;
    if packages.is_empty() || packages.iter().any(|p| p == "system-tests") {
        crate::build()?;
    }
    let mut outcome = Outcome::default();
    let mut failed = Vec::new();
    for arguments in invocations(packages) {
        if let Err(error) = cargo_test(&arguments, &mut outcome) {
            failed.push(format!("{error:#}"));
        }
    }
    println!(
        "{} passed, {} failed, {} skipped",
        outcome.passed.len(),
        outcome.failed.len(),
        outcome.ignored.len()
    );
    for name in &outcome.failed {
        println!("failed: {name}");
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    if packages.is_empty() {
        crate::features::check_ran(&outcome)
    } else {
        Ok(())
    }
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
    // One stream, so that the `Running` lines (stderr) stand before the tests (stdout) of their program.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .context("starting cargo test")?;
    drop(command);
    let mut binary = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        println!("{line}");
        if let Some(name) = binary_name(&line) {
            binary = name;
        }
        outcome.take(&binary, &line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_named_by_its_running_line() {
        let line = "     Running tests/docker.rs (target/debug/deps/docker-0a1b2c3d)";
        assert_eq!(binary_name(line).as_deref(), Some("docker"));
        assert_eq!(
            binary_name("   Doc-tests vmomi").as_deref(),
            Some("doc-vmomi")
        );
        assert_eq!(binary_name("test a ... ok"), None);
    }

    #[test]
    fn verdicts_are_told_apart() {
        let mut outcome = Outcome::default();
        outcome.take("b", "test a::works ... ok");
        outcome.take("b", "test a::is_broken ... FAILED");
        outcome.take("b", "test a::is_slow ... ignored, needs an hour");
        outcome.take("b", "test result: ok. 1 passed; 0 failed");
        assert_eq!(outcome.passed.iter().collect::<Vec<_>>(), ["b::a::works"]);
        assert_eq!(
            outcome.failed.iter().collect::<Vec<_>>(),
            ["b::a::is_broken"]
        );
        assert_eq!(
            outcome.ignored.iter().collect::<Vec<_>>(),
            ["b::a::is_slow"]
        );
    }
}
