//! Cgroups of guests: an outer one with limits and BPF programs, an inner one in which the guest's
//! cgroup namespace is rooted, in every hierarchy that is mounted.
//!
//! ```text
//! <hierarchy>/vic-sim.<pid>.<start time>/<guest>   limits, programs: out of the guest's sight
//! <hierarchy>/vic-sim.<pid>.<start time>/<guest>/vm   the guest's processes; its `/`
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Prefix of the directories at the root of each hierarchy.
const PREFIX: &str = "vic-sim.";
/// Name of the inner cgroup.
const INNER: &str = "vm";
/// Bound on a guest's processes: a fork bomb must not take the host's process ids.
const MAX_PIDS: u64 = 16_384;
/// Period of the CPU limit in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    mount: PathBuf,
    /// Controllers of a v1 hierarchy; none for v2.
    v1: Option<Vec<String>>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.v1
            .as_ref()
            .is_some_and(|c| c.iter().any(|c| c == controller))
    }
}

/// The hierarchies, with our directory in each.
#[derive(Debug)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    own: String,
}

/// The cgroups of one guest.
#[derive(Debug)]
pub(super) struct GuestCgroup {
    outer: Vec<PathBuf>,
    v2: Option<PathBuf>,
}

impl Cgroups {
    /// Finds the hierarchies, clears what dead simulators left, and makes our directories.
    pub(super) fn open() -> io::Result<Self> {
        let hierarchies = parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?);
        for hierarchy in &hierarchies {
            clean(&hierarchy.mount);
        }
        let pid = std::process::id();
        let own = format!("{PREFIX}{pid}.{}", start_time(pid).unwrap_or(0));
        let this = Self { hierarchies, own };
        for hierarchy in &this.hierarchies {
            let dir = hierarchy.mount.join(&this.own);
            make(&dir)?;
            match &hierarchy.v1 {
                None => {
                    enable_controllers(&hierarchy.mount);
                    enable_controllers(&dir);
                }
                Some(_) if hierarchy.has("cpuset") => inherit_cpuset(&hierarchy.mount, &dir),
                Some(_) => {}
            }
        }
        Ok(this)
    }

    /// Sets the limits of a guest.
    pub(super) fn limit(&self, guest: &GuestCgroup, cpu: u64, memory_mb: u64) {
        for (hierarchy, outer) in self.hierarchies.iter().zip(&guest.outer) {
            limit(hierarchy, outer, cpu, memory_mb);
        }
    }

    /// Makes the cgroups of a guest.
    pub(super) fn make(&self, name: &str) -> io::Result<GuestCgroup> {
        let mut guest = GuestCgroup {
            outer: Vec::new(),
            v2: None,
        };
        for hierarchy in &self.hierarchies {
            let own = hierarchy.mount.join(&self.own);
            let outer = own.join(name);
            guest.outer.push(outer.clone());
            make(&outer)?;
            let inner = outer.join(INNER);
            let cpuset = hierarchy.has("cpuset");
            if cpuset {
                inherit_cpuset(&own, &outer);
            }
            make(&inner)?;
            if cpuset {
                inherit_cpuset(&outer, &inner);
            }
            if hierarchy.v1.is_none() {
                enable_controllers(&outer);
                guest.v2 = Some(outer);
            }
        }
        Ok(guest)
    }

    /// Removes our directories; the guests' must be gone.
    pub(super) fn close(&self) {
        for hierarchy in &self.hierarchies {
            remove_tree(&hierarchy.mount.join(&self.own));
        }
    }
}

impl GuestCgroup {
    /// The outer cgroup v2 directory, to which programs are attached.
    pub(super) fn v2(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// Moves the calling process into the inner cgroup of every hierarchy.
    pub(super) fn join(&self, inner: bool) -> io::Result<()> {
        for outer in &self.outer {
            let dir = if inner {
                outer.join(INNER)
            } else {
                outer.clone()
            };
            fs::write(dir.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) {
        if let Some(v2) = &self.v2 {
            // Kernels before 5.14 have no such file; the PID namespace dies all the same.
            let _ = fs::write(v2.join("cgroup.kill"), "1");
        }
    }

    /// Removes the directories; false when the kernel still counts something in them.
    pub(super) fn remove(&self) -> bool {
        let mut gone = true;
        for outer in &self.outer {
            gone &= remove_tree(outer);
        }
        gone
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn limit(hierarchy: &Hierarchy, outer: &Path, cpu: u64, memory_mb: u64) {
    let bytes = (memory_mb << 20).to_string();
    let quota = (CPU_PERIOD * cpu / 1000).max(1000);
    let mut settings: Vec<(&str, String)> = Vec::new();
    if hierarchy.v1.is_none() {
        settings.push(("memory.max", bytes));
        settings.push(("cpu.max", format!("{quota} {CPU_PERIOD}")));
        settings.push(("pids.max", MAX_PIDS.to_string()));
    } else if hierarchy.has("memory") {
        settings.push(("memory.limit_in_bytes", bytes));
    } else if hierarchy.has("cpu") {
        settings.push(("cpu.cfs_period_us", CPU_PERIOD.to_string()));
        settings.push(("cpu.cfs_quota_us", quota.to_string()));
    } else if hierarchy.has("pids") {
        settings.push(("pids.max", MAX_PIDS.to_string()));
    }
    for (file, value) in settings {
        if (file.starts_with("cpu") && cpu == 0) || (file.starts_with("mem") && memory_mb == 0) {
            continue;
        }
        // A controller that is not enabled here has no file: that limit cannot be had.
        let _ = fs::write(outer.join(file), value);
    }
}

fn enable_controllers(dir: &Path) {
    for controller in ["cpu", "memory", "pids"] {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn inherit_cpuset(from: &Path, to: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(from.join(file)) {
            let _ = fs::write(to.join(file), value);
        }
    }
}

/// Removes a cgroup and everything below it.
fn remove_tree(dir: &Path) -> bool {
    if fs::remove_dir(dir).is_ok() {
        return true;
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return !dir.exists();
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// Removes what simulators left that no longer run.
fn clean(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some((pid, started)) = rest.split_once('.') else {
            continue;
        };
        let (Ok(pid), Ok(started)) = (pid.parse(), started.parse::<u64>()) else {
            continue;
        };
        if start_time(pid) != Some(started) {
            remove_tree(&entry.path());
        }
    }
}

/// Returns when a process started, in ticks since boot: tells a process from one that got its
/// number later. A process that only waits to be reaped counts as gone.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    if rest.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<_> = left.split(' ').collect();
        let right: Vec<_> = right.split(' ').collect();
        let (Some(root), Some(mount)) = (left.get(3), left.get(4)) else {
            continue;
        };
        if *root != "/" {
            continue;
        }
        let v1 = match right.first() {
            Some(&"cgroup2") => None,
            Some(&"cgroup") => Some(
                right
                    .get(2)
                    .map_or(Vec::new(), |o| o.split(',').map(str::to_owned).collect()),
            ),
            _ => continue,
        };
        // A hierarchy that is mounted twice counts once.
        if !found.iter().any(|h| h.v1 == v1) {
            found.push(Hierarchy {
                mount: PathBuf::from(mount),
                v1,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_hierarchies_are_found_once_each() {
        let hybrid = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n";
        let found = parse_mounts(hybrid);
        assert_eq!(found.len(), 2);
        assert!(found[0].has("cpu") && !found[0].has("memory"));
        assert_eq!(found[1].v1, None);
    }

    #[test]
    fn a_process_keeps_its_start_time() {
        let pid = std::process::id();
        assert!(start_time(pid).is_some());
        assert_eq!(start_time(pid), start_time(pid));
    }
}
