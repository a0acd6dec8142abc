//! What the end-to-end suites share: a world (simulator, VCH, registry) and the real clients in it.

pub mod bench;
pub mod disk;
pub mod dockerd;
pub mod host;
pub mod http;
pub mod image;
pub mod installed;
pub mod pyvmomi;
pub mod recorder;
pub mod registry;
pub mod run;
pub mod timeline;
pub mod world;

use std::path::PathBuf;

/// The root of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program that `cargo xtask build` made.
///
/// # Errors
/// When it is not there: the system tests run what a user runs, so it has to be built before.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = root().join("target/release").join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: run `cargo xtask build` first",
        path.display()
    );
    Ok(path)
}

/// Fails unless the tests run as root, which the namespace engine needs.
///
/// # Errors
/// Says so, when they do not.
pub fn need_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "these tests need root: the namespace engine makes namespaces"
    );
    Ok(())
}
