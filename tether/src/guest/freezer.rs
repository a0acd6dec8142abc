//! The cgroup of the container's processes: what pause freezes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use tether_sys::mount::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID};
use tether_sys::process;

use super::top;

/// A cgroup of its own, where the kernel gives one; signals else.
#[derive(Debug)]
pub struct Freezer {
    group: Option<(PathBuf, File)>,
    frozen: bool,
}

impl Freezer {
    /// Makes the cgroup below `place`, where the hierarchy is mounted if it is not yet.
    pub fn new(place: &Path) -> Self {
        let group = Self::make(place)
            .inspect_err(|error| crate::say!("no cgroup for the container: {error}"))
            .ok();
        Self {
            group,
            frozen: false,
        }
    }

    fn make(place: &Path) -> io::Result<(PathBuf, File)> {
        fs::create_dir_all(place)?;
        let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        mount::mount(
            Some(Path::new("cgroup")),
            place,
            Some("cgroup2"),
            flags,
            None,
        )?;
        let group = place.join("container");
        fs::create_dir_all(&group)?;
        let dir = File::open(&group)?;
        Ok((group, dir))
    }

    /// The cgroup to start processes in.
    pub fn group(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(|(_, dir)| dir.as_fd())
    }

    /// Whether the processes are frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Freezes or thaws all processes of the container whose first is `primary`.
    pub fn set(&mut self, frozen: bool, primary: i32) {
        self.frozen = frozen;
        if let Some((group, _)) = &self.group {
            let value = if frozen { "1" } else { "0" };
            match fs::write(group.join("cgroup.freeze"), value) {
                Ok(()) => return,
                Err(error) => crate::say!("freezing: {error}"),
            }
        }
        let signal = if frozen {
            nix::libc::SIGSTOP
        } else {
            nix::libc::SIGCONT
        };
        for pid in top::pids(primary) {
            // One that has just ended needs neither.
            let _ = process::kill(pid, signal);
        }
    }
}
