//! The cgroups of the container's processes: what pause freezes, and what bounds their number.
//!
//! ```text
//! cgroup2 ─┬─ container   every process of the container; frozen by pause; pids.max
//!          └─ tether      this process, only where a limit needs a controller below the root
//! pids (v1) ── container  pids.max, where the controller is in a hierarchy of its own
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use tether_sys::mount::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID};
use tether_sys::process;

use super::top;

/// Cgroups of its own, where the kernel gives them; signals else.
#[derive(Debug)]
pub struct Freezer {
    group: Option<(PathBuf, File)>,
    joined: Vec<OwnedFd>,
    frozen: bool,
}

impl Freezer {
    /// Makes the cgroup below `place`, where the hierarchy is mounted if it is not yet. A container may
    /// have `pids` processes and threads; as many as there is room for when that is not positive.
    pub fn new(place: &Path, pids: i64) -> Self {
        let group = make(place)
            .inspect_err(|error| crate::say!("no cgroup for the container: {error}"))
            .ok();
        let mut freezer = Self {
            group,
            joined: Vec::new(),
            frozen: false,
        };
        if pids > 0
            && let Err(error) = freezer.limit(place, pids)
        {
            crate::say!("limiting the number of processes: {error}");
        }
        freezer
    }

    fn limit(&mut self, place: &Path, pids: i64) -> io::Result<()> {
        if let Some((group, _)) = &self.group
            && let Ok(()) = enable_pids(place)
        {
            return fs::write(group.join("pids.max"), pids.to_string());
        }
        let own = place.with_extension("pids");
        fs::create_dir_all(&own)?;
        mount_cgroup(&own, "cgroup", Some("pids"))?;
        let group = own.join("container");
        fs::create_dir_all(&group)?;
        fs::write(group.join("pids.max"), pids.to_string())?;
        let members = File::options()
            .write(true)
            .open(group.join("cgroup.procs"))?;
        self.joined.push(members.into());
        Ok(())
    }

    /// The cgroup to start processes in.
    pub fn group(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(|(_, dir)| dir.as_fd())
    }

    /// Lists of members of further cgroups, into which every process of the container writes itself.
    pub fn joined(&self) -> &[OwnedFd] {
        &self.joined
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

fn make(place: &Path) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(place)?;
    mount_cgroup(place, "cgroup2", None)?;
    let group = place.join("container");
    fs::create_dir_all(&group)?;
    let dir = File::open(&group)?;
    Ok((group, dir))
}

fn mount_cgroup(place: &Path, kind: &str, options: Option<&str>) -> io::Result<()> {
    let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount::mount(Some(Path::new("cgroup")), place, Some(kind), flags, options)
}

/// Gives the children of the cgroup at `root` the controller. A cgroup whose children have one may
/// have no processes itself, unless it is the kernel's own root.
fn enable_pids(root: &Path) -> io::Result<()> {
    let there = fs::read_to_string(root.join("cgroup.controllers"))?;
    if !there.split_whitespace().any(|name| name == "pids") {
        return Err(io::ErrorKind::NotFound.into());
    }
    let own = root.join("tether");
    fs::create_dir_all(&own)?;
    fs::write(own.join("cgroup.procs"), "0")?;
    fs::write(root.join("cgroup.subtree_control"), "+pids")
}
