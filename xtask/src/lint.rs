//! Rules that the compiler does not know: which crate may use which, headers, module style.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which of our crates may depend on which (ARCHITECTURE.md draws the same).
const ALLOWED: &[(&str, &[&str])] = &[
    ("strategy", &[]),
    ("tether-protocol", &[]),
    ("tether-sys", &[]),
    ("vmomi", &[]),
    ("imagec", &[]),
    ("iso", &[]),
    (
        "actors",
        &["strategy", "vmomi", "imagec", "tether-protocol"],
    ),
    ("api", &["actors", "strategy"]),
    (
        "vch",
        &[
            "api",
            "actors",
            "strategy",
            "vmomi",
            "imagec",
            "tether-protocol",
        ],
    ),
    (
        "simulator",
        &["strategy", "vmomi", "tether-protocol", "tether-sys", "iso"],
    ),
    ("tether", &["tether-protocol", "tether-sys"]),
    ("vic-machine", &["vmomi", "iso", "tether-protocol"]),
    ("xtask", &["iso", "vmomi"]),
    (
        "fuzz",
        &["imagec", "iso", "simulator", "tether-protocol", "vmomi"],
    ),
    ("system-tests", &["vmomi", "simulator", "tether-protocol"]),
];

/// Runs all rules and fails with every breach.
pub(crate) fn run() -> Result<()> {
    let mut breaches = directions()?;
    for file in rust_files()? {
        let text = std::fs::read_to_string(&file)?;
        let name = file.display();
        if file.ends_with("mod.rs") {
            breaches.push(format!("{name}: name.rs + name/, never mod.rs"));
        }
        if !text.starts_with("//!") && !text.starts_with("// @generated") {
            breaches.push(format!(
                "{name}: starts with a //! header that says what the file is for"
            ));
        }
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
}

fn directions() -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(crate::root())
        .output()
        .context("starting cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            breaches.push(format!("{name}: a crate that xtask lint does not know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let normal = dependency["kind"].is_null();
            if normal && allowed.contains_key(other) && !may.contains(&other) {
                breaches.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    Ok(breaches)
}

fn rust_files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(crate::root())
        .output()
        .context("starting git ls-files")?;
    let list = String::from_utf8(output.stdout)?;
    Ok(list
        .lines()
        .map(|l| crate::root().join(Path::new(l)))
        .filter(|p| p.exists())
        .collect())
}
