//! Runs the fuzz targets under libFuzzer, one after the other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A small input that takes longer than this many seconds is a finding.
const HANG_SECONDS: u64 = 5;

/// So many MiB are more than any target may use.
const MEMORY_MIB: u64 = 2048;

/// Runs one target, or each of them, for so many seconds.
pub(crate) fn run(target: Option<&str>, seconds: u64) -> Result<()> {
    let root = crate::root();
    let corpora = root.join("tests/fuzz/corpus");
    let targets = match target {
        Some(target) if corpora.join(target).is_dir() => vec![target.to_owned()],
        Some(target) => bail!(
            "there is no target {target}: there are {}",
            names(&corpora)?.join(", ")
        ),
        None => names(&corpora)?,
    };
    let there = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !there.context("starting cargo")?.status.success() {
        bail!("cargo-fuzz is missing: cargo install --locked cargo-fuzz");
    }
    for target in &targets {
        // What is found on the way goes there; what is worth keeping is copied into the corpus by hand.
        let found = root.join("target/fuzz").join(target);
        std::fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        println!("{target}");
        crate::run(
            Command::new("cargo")
                .args(["fuzz", "run", "--fuzz-dir", "tests/fuzz/libfuzzer", target])
                .args([&found, &corpora.join(target)])
                .arg("--")
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-timeout={HANG_SECONDS}"))
                .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
                // Sanitizers and coverage are of the nightly toolchain; this lets the stable one have them.
                .env("RUSTC_BOOTSTRAP", "1")
                .current_dir(&root),
        )?;
    }
    Ok(())
}

/// The targets: each has a corpus of its name.
fn names(corpora: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(corpora).context("reading tests/fuzz/corpus")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
