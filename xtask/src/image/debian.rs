//! The distribution's packages inside the appliance, pinned by `iso/appliance.lock`.
//!
//! The lock names packages, versions and hashes; apt brings the files. A version that the distribution has replaced
//! is not fetched in another version behind one's back: that is an error which says how to lock the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::output;

/// Programs of the appliance and the package of each.
pub(super) const PROGRAMS: [(&str, &str); 4] = [
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("nft", "nftables"),
];
/// The package that the CA bundle is joined from.
pub(super) const CERTIFICATES: &str = "ca-certificates";
/// The folder of shared libraries, and the loader.
pub(super) const LIBRARIES: &str = "lib/x86_64-linux-gnu";
pub(super) const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

const HEADER: &str =
    "# The Debian packages inside appliance.iso. Written by `cargo xtask lock-appliance`.\n\n";

#[derive(Debug, Default, Deserialize, Serialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Package {
    name: String,
    version: String,
    sha256: String,
}

/// Unpacked packages, by name.
pub(super) type Unpacked = BTreeMap<String, PathBuf>;

/// The lock file.
pub(super) fn lock_path() -> PathBuf {
    crate::root().join("iso/appliance.lock")
}

/// Fetches and unpacks what the lock names.
pub(super) fn fetch() -> Result<Unpacked> {
    let text = fs::read_to_string(lock_path())
        .context("iso/appliance.lock is missing: make it with `cargo xtask lock-appliance`")?;
    let lock: Lock = toml::from_str(&text).context("iso/appliance.lock is damaged")?;
    let missing: Vec<&Package> = lock
        .package
        .iter()
        .filter(|package| cached(package).is_none())
        .collect();
    if !missing.is_empty() {
        download_locked(&missing)?;
    }
    lock.package
        .iter()
        .map(|package| {
            let file = cached(package).with_context(|| {
                format!(
                    "{} {} came with another hash than iso/appliance.lock has; if that is right, \
                     lock it with `cargo xtask lock-appliance`",
                    package.name, package.version
                )
            })?;
            Ok((package.name.clone(), unpack(&file)?))
        })
        .collect()
}

/// Writes the lock anew from what apt offers now.
pub(super) fn lock() -> Result<()> {
    apt_update()?;
    let roots: BTreeSet<&str> = PROGRAMS
        .iter()
        .map(|(_, package)| *package)
        .chain([CERTIFICATES])
        .collect();
    let names: BTreeSet<String> = dependencies(&roots)?
        .into_iter()
        .filter(|name| roots.contains(name.as_str()) || name.starts_with("lib"))
        .collect();
    download(&names.iter().cloned().collect::<Vec<_>>())?;
    let mut packages = BTreeMap::new();
    let mut unpacked = Unpacked::new();
    for name in &names {
        let version = candidate(name)?;
        let file = downloaded(name, &version)?;
        unpacked.insert(name.clone(), unpack(&file)?);
        let package = Package {
            name: name.clone(),
            version,
            sha256: sha256(&file)?,
        };
        packages.insert(name.clone(), package);
    }
    let mut used = super::root::used_packages(&unpacked)?;
    used.insert(CERTIFICATES.to_owned());
    let package = packages
        .into_values()
        .filter(|package| used.contains(&package.name))
        .collect();
    let text = format!("{HEADER}{}", toml::to_string(&Lock { package })?);
    fs::write(lock_path(), text).context("writing iso/appliance.lock")
}

fn downloads() -> PathBuf {
    output().join("debs")
}

/// The downloaded file of a package, if it is there with the right hash.
fn cached(package: &Package) -> Option<PathBuf> {
    let file = downloaded(&package.name, &package.version).ok()?;
    (sha256(&file).ok()? == package.sha256).then_some(file)
}

fn downloaded(name: &str, version: &str) -> Result<PathBuf> {
    let version = version.replace(':', "%3a");
    for architecture in ["amd64", "all"] {
        let file = downloads().join(format!("{name}_{version}_{architecture}.deb"));
        if file.exists() {
            return Ok(file);
        }
    }
    bail!("apt did not bring {name} {version}")
}

fn download_locked(missing: &[&Package]) -> Result<()> {
    let wanted: Vec<String> = missing
        .iter()
        .map(|package| format!("{}={}", package.name, package.version))
        .collect();
    if download(&wanted).is_ok() {
        return Ok(());
    }
    // Without lists (a fresh machine), or with old ones, apt knows no such version.
    apt_update()?;
    if download(&wanted).is_ok() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for package in missing {
        let offered = candidate(&package.name).unwrap_or_else(|_| "nothing".into());
        if offered != package.version {
            lines.push(format!(
                "  {}: locked {}, apt offers {offered}",
                package.name, package.version
            ));
        }
    }
    bail!(
        "packages that iso/appliance.lock names cannot be had from apt:\n{}\n\
         Newer versions of the distribution are taken by `cargo xtask lock-appliance` \
         (or VIC_APPLIANCE_RELOCK=1 with any build); commit the changed lock.",
        lines.join("\n")
    )
}

fn download(packages: &[String]) -> Result<()> {
    fs::create_dir_all(downloads())?;
    let output = apt("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root"])
        .args(packages)
        .current_dir(downloads())
        .output()
        .context("starting apt-get: the appliance is made from Debian packages")?;
    if !output.status.success() {
        bail!(
            "apt-get download: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn apt_update() -> Result<()> {
    crate::run(apt("apt-get").args(["update", "-qq"]).stdout(Stdio::null()))
}

fn apt(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn candidate(name: &str) -> Result<String> {
    let output = apt("apt-cache")
        .args(["policy", name])
        .output()
        .context("starting apt-cache")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
        .with_context(|| format!("apt does not know the package {name}"))
}

/// Everything that the packages depend on, themselves included.
fn dependencies(roots: &BTreeSet<&str>) -> Result<BTreeSet<String>> {
    let output = apt("apt-cache")
        .args([
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-enhances",
        ])
        .args(["--no-breaks", "--no-conflicts", "--no-replaces"])
        .args(roots)
        .output()
        .context("starting apt-cache")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']) && !line.contains(':'))
        .map(str::to_owned)
        .filter(|name| candidate(name).is_ok())
        .collect())
}

fn unpack(file: &Path) -> Result<PathBuf> {
    let name = file.file_stem().context("a package without a name")?;
    let target = output().join("unpacked").join(name);
    if target.exists() {
        return Ok(target);
    }
    let new = target.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    crate::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(file)
            .arg(&new),
    )?;
    fs::rename(&new, &target)?;
    Ok(target)
}

fn sha256(file: &Path) -> Result<String> {
    Ok(hex::encode(Sha256::digest(fs::read(file)?)))
}
