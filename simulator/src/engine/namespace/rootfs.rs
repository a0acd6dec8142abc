//! Guests' root file systems: each initramfs unpacked once, into memory, read-only for all.
//!
//! The whole file system is made read-only, not just the mount: a guest's PID 1 may remount what
//! it sees, but reconfiguring a file system is behind a wall.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tether_sys::mount::{self, FsContext};
use tokio::sync::{Mutex, OnceCell};

use super::client::Client;
use super::protocol::Request;
use crate::engine::EngineError;

/// The roots that the helper has, by what they were unpacked from.
#[derive(Debug, Default)]
pub(super) struct Roots(Mutex<HashMap<Key, Arc<OnceCell<String>>>>);

/// What tells one file's content from another's without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Key {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

impl Roots {
    /// Returns the name by which the helper knows the root unpacked from `source`.
    pub(super) async fn get(&self, source: &Path, client: &Client) -> Result<String, EngineError> {
        let key = Key::of(source).map_err(EngineError::step(format!(
            "open the CD-ROM {}",
            source.display()
        )))?;
        let cell = {
            let mut roots = self.0.lock().await;
            let number = roots.len();
            let cell = roots
                .entry(key)
                .or_insert_with(|| Arc::new(OnceCell::new()))
                .clone();
            (cell, number)
        };
        let (cell, number) = cell;
        cell.get_or_try_init(|| async {
            let path = source.to_owned();
            let unpacked = tokio::task::spawn_blocking(move || unpack(&path)).await;
            let root = unpacked.map_err(|e| EngineError::NotBootable(e.to_string()))??;
            let name = number.to_string();
            client
                .call(Request::AddRoot { root: name.clone() }, vec![root])
                .await?;
            Ok(name)
        })
        .await
        .cloned()
    }
}

fn unpack(source: &Path) -> Result<OwnedFd, EngineError> {
    let make = || -> io::Result<OwnedFd> {
        let context = FsContext::open("tmpfs")?;
        context.set("source", "initramfs")?;
        context.set("mode", "0755")?;
        context.mount(mount::ATTR_NODEV | mount::ATTR_NOSUID)
    };
    let root = make().map_err(EngineError::step("make a file system in memory"))?;
    let target = PathBuf::from(format!("/proc/self/fd/{}/.", root.as_raw_fd()));
    let what = || format!("unpack {}", source.display());
    if source.is_dir() {
        copy_tree(source, &target).map_err(EngineError::step(what()))?;
    } else {
        fill(source, &target)?;
    }
    for dir in ["proc", "sys", "dev", "run", "tmp", "mnt", "etc"] {
        match fs::create_dir(target.join(dir)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(EngineError::step(what())(e));
            }
            _ => {}
        }
    }
    if !target.join("init").exists() {
        return Err(EngineError::NotBootable(format!(
            "{} has no /init",
            source.display()
        )));
    }
    read_only(&root).map_err(EngineError::step("make the guests' root read-only"))?;
    Ok(root)
}

/// How long a program that another thread starts may hold our files.
const STRANGERS: Duration = Duration::from_secs(10);

/// Nobody writes there any more, but a process that another thread has just forked has copies of the files that were
/// open for writing at that moment, until it executes its program. No event tells of that.
fn read_only(root: &OwnedFd) -> io::Result<()> {
    let end = Instant::now() + STRANGERS;
    loop {
        match mount::make_read_only(root.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn fill(source: &Path, target: &Path) -> Result<(), EngineError> {
    let what = || format!("unpack {}", source.display());
    let mut head = [0; 6];
    let read = |head: &mut [u8]| -> io::Result<usize> { File::open(source)?.read(head) };
    let length = read(&mut head).map_err(EngineError::step(what()))?;
    let broken =
        |e: &dyn std::fmt::Display| EngineError::NotBootable(format!("{}: {e}", source.display()));
    // A bare initramfs, for tests: anything else is an ISO.
    if head[..length].starts_with(b"070701") {
        let file = File::open(source).map_err(EngineError::step(what()))?;
        let mut archive = iso::cpio::Reader::new(BufReader::new(file));
        return iso::cpio::unpack(&mut archive, target).map_err(|e| broken(&e));
    }
    iso::initramfs::unpack(source, target).map_err(|e| broken(&e))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
