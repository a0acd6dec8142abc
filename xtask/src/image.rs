//! Builds `bootstrap.iso` and `appliance.iso` into `target/iso`.
//!
//! ```text
//! bootstrap.iso   tether as /init
//! appliance.iso   tether as /init, /sbin/vch, and from Debian's packages (see iso/appliance.lock): mke2fs, e2fsck,
//!                 resize2fs, nft, their libraries, a CA bundle. No shell.
//! ```
//! An image is made again only when something that goes into it has changed.

mod debian;
mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use self::root::Root;

/// What the guests' programs are built for.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// The time of every file when `SOURCE_DATE_EPOCH` says nothing else: the first day that all formats can hold.
const EPOCH: u32 = 315_532_800;
/// Part of the key that tells whether an image is up to date: raise it when this module makes something else.
const REVISION: &str = "1";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds bootstrap.iso and appliance.iso.
pub(crate) fn build_isos() -> Result<()> {
    build_programs()?;
    let (tether, vch) = (program("tether"), program("vch"));
    make("bootstrap", &[&tether], || {
        Root::new(epoch()?).bootstrap(&tether)
    })?;
    let lock = debian::lock_path();
    if std::env::var_os("VIC_APPLIANCE_RELOCK").is_some() {
        self::lock()?;
    }
    make("appliance", &[&tether, &vch, &lock], || {
        let packages = debian::fetch()?;
        Root::new(epoch()?).appliance(&tether, &vch, &packages)
    })
}

/// Refreshes the lock of the appliance's packages.
pub(crate) fn lock() -> Result<()> {
    debian::lock()
}

/// Where images and their parts lie.
fn output() -> PathBuf {
    crate::root().join("target/iso")
}

/// A static program of the guests.
pub(crate) fn program(name: &str) -> PathBuf {
    crate::root()
        .join("target")
        .join(TARGET)
        .join("release")
        .join(name)
}

fn build_programs() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--release",
            "--target",
            TARGET,
            "--package",
            "tether",
            "--package",
            "vch",
        ])
        .current_dir(crate::root());
    // The C compiler for musl, where it has another name than the build scripts expect.
    let variable = format!("CC_{}", TARGET.replace('-', "_"));
    if std::env::var_os(&variable).is_none() && !Path::new("/usr/bin/musl-gcc").exists() {
        cargo.env(variable, "gcc");
    }
    crate::run(&mut cargo)
}

fn epoch() -> Result<u32> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds
            .trim()
            .parse()
            .context("SOURCE_DATE_EPOCH is not a number of seconds"),
        Err(_) => Ok(EPOCH),
    }
}

/// Makes one image, unless it is there and made from the same parts.
fn make(name: &str, parts: &[&Path], archive: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    let (image, key_file) = (
        output().join(format!("{name}.iso")),
        output().join(format!("{name}.key")),
    );
    let key = key(parts)?;
    if image.exists() && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    fs::create_dir_all(output())?;
    let initrd = iso::initramfs::compress(&archive()?)?;
    let version = serde_json::json!({
        "name": name, "version": VERSION, "initrdSha256": hex::encode(Sha256::digest(&initrd)),
    });
    let mut builder = iso::Builder::new(&name.to_ascii_uppercase());
    builder
        .publisher(&format!("vSphere container hosts {VERSION}"))
        .time(epoch()?);
    builder.file(iso::INITRD_PATH, initrd)?;
    builder.file(iso::VERSION_PATH, version.to_string().into_bytes())?;
    // Two builds at once each write a file of their own; the last one stays.
    let new = image.with_extension(format!("new.{}", std::process::id()));
    let mut file = std::io::BufWriter::new(fs::File::create(&new)?);
    builder.write(&mut file)?;
    drop(file);
    fs::rename(&new, &image)
        .with_context(|| format!("putting {} in its place", image.display()))?;
    fs::write(&key_file, key)?;
    println!(
        "{} ({} KiB)",
        image.display(),
        fs::metadata(&image)?.len() / 1024
    );
    Ok(())
}

fn key(parts: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{REVISION} {VERSION} {}", epoch()?));
    for part in parts {
        let bytes = fs::read(part).with_context(|| format!("reading {}", part.display()))?;
        hash.update(Sha256::digest(bytes));
    }
    Ok(hex::encode(hash.finalize()))
}
