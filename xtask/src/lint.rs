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
        &[
            "actors",
            "api",
            "imagec",
            "iso",
            "simulator",
            "tether",
            "tether-protocol",
            "vmomi",
        ],
    ),
    ("system-tests", &["vmomi", "simulator", "tether-protocol"]),
];

/// Runs all rules and fails with every breach.
pub(crate) fn run() -> Result<()> {
    let mut breaches = directions(&metadata()?);
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

/// What cargo knows of the workspace.
fn metadata() -> Result<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(crate::root())
        .output()
        .context("starting cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

/// Crates that nobody knows, and dependencies that go another way than [`ALLOWED`] says. What only tests need may
/// come from anywhere.
fn directions(metadata: &Value) -> Vec<String> {
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
    breaches
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace as cargo would tell of it, from real manifests.
    fn metadata_of(manifests: &[(&str, &str)]) -> Value {
        let dir = tempfile::tempdir().expect("a directory");
        let members: Vec<&str> = manifests.iter().map(|(name, _)| *name).collect();
        let workspace = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n");
        std::fs::write(dir.path().join("Cargo.toml"), workspace).expect("workspace");
        for (name, dependencies) in manifests {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(folder.join("src")).expect("folder");
            std::fs::write(folder.join("src/lib.rs"), "").expect("lib.rs");
            let manifest = format!(
                "[package]\nname = {name:?}\nversion = \"0.0.0\"\nedition = \"2024\"\n{dependencies}"
            );
            std::fs::write(folder.join("Cargo.toml"), manifest).expect("manifest");
        }
        let output = Command::new("cargo")
            .args([
                "metadata",
                "--format-version",
                "1",
                "--no-deps",
                "--offline",
            ])
            .current_dir(dir.path())
            .output()
            .expect("cargo metadata");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("metadata")
    }

    #[test]
    fn the_crates_of_the_workspace_depend_one_way() {
        let metadata = metadata().expect("cargo metadata");
        assert_eq!(directions(&metadata), Vec::<String>::new());
        let known = metadata["packages"].as_array().map_or(0, Vec::len);
        assert_eq!(known, ALLOWED.len(), "a rule for a crate that is not there");
    }

    #[test]
    fn a_manifest_that_depends_the_wrong_way_is_refused() {
        let metadata = metadata_of(&[
            (
                "vmomi",
                "[dependencies]\nactors = { path = \"../actors\" }\n",
            ),
            ("actors", ""),
        ]);
        assert_eq!(directions(&metadata), ["vmomi must not depend on actors"]);
    }

    #[test]
    fn the_right_way_and_what_tests_need_are_allowed() {
        let metadata = metadata_of(&[
            (
                "vmomi",
                "[dev-dependencies]\nsimulator = { path = \"../simulator\" }\n",
            ),
            (
                "simulator",
                "[dependencies]\nvmomi = { path = \"../vmomi\" }\n",
            ),
        ]);
        assert_eq!(directions(&metadata), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_rule_is_refused() {
        let metadata = metadata_of(&[("newcomer", "")]);
        assert_eq!(
            directions(&metadata),
            ["newcomer: a crate that xtask lint does not know"]
        );
    }

    #[test]
    fn no_crate_may_reach_itself_by_the_rules() {
        let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
        for (name, _) in ALLOWED {
            let mut reached: Vec<&str> = allowed[name].to_vec();
            let mut next = 0;
            while let Some(other) = reached.get(next).copied() {
                assert_ne!(other, *name, "{name} depends on itself");
                let more = allowed[other].iter().filter(|far| !reached.contains(far));
                let more: Vec<&str> = more.copied().collect();
                reached.extend(more);
                next += 1;
            }
        }
    }
}
