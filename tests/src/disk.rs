//! Virtual disks as other people's programs see them: their content out of a chain of VMDKs, and its file system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::run::run_within;

/// A disk of some gigabytes, of which little is in use, on a loaded machine.
const LONG: Duration = Duration::from_secs(180);

/// Writes the content of the disk whose topmost file is `vmdk` to `raw`, holes left out.
///
/// # Errors
/// When qemu-img does not accept the chain.
pub fn content(vmdk: &Path, raw: &Path) -> Result<()> {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "raw"]).arg(vmdk).arg(raw);
    run_within(&mut convert, b"", LONG)?.ok()?;
    Ok(())
}

/// Fails unless the ext4 in `raw` is sound: its journal is played back, as every mount does, and then a full check
/// finds nothing to repair.
///
/// # Errors
/// With what `e2fsck` found.
pub fn needs_no_repair(raw: &Path) -> Result<()> {
    // 1: what was left in the journal was brought in, or a clean file system was touched up; 4 would be damage.
    let replayed = e2fsck("-p", raw)?;
    ensure!([0, 1].contains(&replayed.code()), "{replayed:?}");
    let checked = e2fsck("-fn", raw)?;
    ensure!(checked.code() == 0, "{checked:?}");
    Ok(())
}

fn e2fsck(how: &str, raw: &Path) -> Result<crate::run::Ran> {
    let program = ["/usr/sbin/e2fsck", "/sbin/e2fsck"]
        .iter()
        .find(|p| Path::new(p).exists())
        .context("e2fsck (Debian package e2fsprogs) is missing")?;
    run_within(Command::new(program).arg(how).arg(raw), b"", LONG)
}

/// The topmost files of all disks that containers and volumes of a datastore have: those of images, which nobody
/// writes, and the parts of other files are left out.
///
/// # Errors
/// When the datastore cannot be read.
pub fn written_disks(datastore: &Path) -> Result<Vec<PathBuf>> {
    let mut disks = Vec::new();
    let mut left = vec![datastore.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !name.ends_with("-images") {
                left.push(path);
            } else if name.ends_with(".vmdk") && !name.ends_with("-flat.vmdk") {
                disks.push(path);
            }
        }
    }
    Ok(disks)
}
