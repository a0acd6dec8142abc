//! The disks of containers are real VMDKs: other programs read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use system_tests::pyvmomi::{NEWEST, Pyvmomi};
use system_tests::run::run;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    (
        "qemu_img_accepts_the_chain_of_a_container",
        qemu_img_accepts_the_chain,
    ),
    (
        "a_file_that_the_container_wrote_is_read_out_of_its_vmdk",
        a_file_is_read_out,
    ),
];

const IMAGE: &str = "busybox:test";

/// Writes 3 MB of noise and a line, and prints the noise's digest.
const WRITE: &str = "mkdir /made && echo 'written in the guest' > /made/line && \
    dd if=/dev/urandom of=/made/noise bs=64k count=48 2>/dev/null && \
    ln -s line /made/link && sha256sum /made/noise | cut -d' ' -f1";

/// Where the file `[datastore] path` lies on the host.
fn on_the_host(world: &World, name: &str) -> Result<PathBuf> {
    let (_, below) = name.split_once("] ").context("a datastore path")?;
    let mut dirs = vec![world.state().to_owned()];
    while let Some(dir) = dirs.pop() {
        if dir.join(below).is_file() {
            return Ok(dir.join(below));
        }
        for entry in std::fs::read_dir(&dir)?.flatten() {
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    anyhow::bail!("{name} is nowhere below {}", world.state().display())
}

/// The disk of a container that does not run, as vSphere names it.
fn disk_of(world: &World, container: &str) -> Result<PathBuf> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let props = vsphere.vm(world, "props", container, None)?;
    let name = props["disks"][0].as_str().context("a disk")?.to_owned();
    on_the_host(world, &name)
}

fn qemu_img(args: &[&str]) -> Result<String> {
    run(Command::new("qemu-img").args(args), b"")?.ok()
}

fn qemu_img_accepts_the_chain(world: &World) -> Result<()> {
    world
        .docker(&["run", "--name", "disk-chain", IMAGE, "sh", "-c", WRITE])?
        .ok()?;
    let disk = disk_of(world, "disk-chain")?;
    let args = ["info", "--backing-chain", "--output=json", path(&disk)?];
    let chain: Value = serde_json::from_str(&qemu_img(&args)?)?;
    let chain = chain.as_array().context("a chain")?;
    // The container's own disk, the image's layer, and the blank disk below all images.
    ensure!(chain.len() >= 3, "{chain:?}");
    let capacity = chain[0]["virtual-size"].as_u64().context("a capacity")?;
    for (at, disk) in chain.iter().enumerate() {
        let file = Path::new(disk["filename"].as_str().context("a file")?);
        ensure!(disk["format"] == "vmdk", "{disk}");
        ensure!(disk["virtual-size"].as_u64() == Some(capacity), "{disk}");
        ensure!(disk["backing-filename"].is_string() == (at + 1 < chain.len()));
        ensure!(file.is_file(), "{}", file.display());
    }
    // A check of the container's own disk, which is a sparse one, finds nothing to say either.
    qemu_img(&["check", path(&disk)?])?;
    world.docker(&["rm", "disk-chain"])?.ok()?;
    Ok(())
}

fn a_file_is_read_out(world: &World) -> Result<()> {
    let digest = world
        .docker(&["run", "--name", "disk-file", IMAGE, "sh", "-c", WRITE])?
        .ok()?;
    let disk = disk_of(world, "disk-file")?;
    let raw = world.scratch().join("disk-file.raw");
    qemu_img(&["convert", "-O", "raw", path(&disk)?, path(&raw)?])?;
    let checked = run(Command::new("e2fsck").args(["-f", "-n"]).arg(&raw), b"")?;
    ensure!(checked.code() == 0, "{checked:?}");
    let debugfs = |request: &str| run(Command::new("debugfs").args(["-R", request]).arg(&raw), b"");
    let line = debugfs("cat /made/line")?.ok()?;
    ensure!(line == "written in the guest", "{line:?}");
    let noise = world.scratch().join("disk-file.noise");
    debugfs(&format!("dump /made/noise {}", path(&noise)?))?.ok()?;
    let bytes = std::fs::read(&noise).context("debugfs dumped nothing")?;
    ensure!(bytes.len() == 48 << 16, "{} bytes", bytes.len());
    ensure!(hex::encode(Sha256::digest(&bytes)) == digest, "other bytes");
    let link = debugfs("stat /made/link")?.ok()?;
    ensure!(link.contains("Fast link dest: \"line\""), "{link}");
    // What the image brought is in the same file system.
    let shell = debugfs("stat /bin/busybox")?;
    ensure!(shell.stdout.contains("Inode:"), "{shell:?}");
    std::fs::remove_file(&raw)?;
    world.docker(&["rm", "disk-file"])?.ok()?;
    Ok(())
}
