//! What the host shows of us: processes, links, rules, mounts, loop devices, cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The network settings of the host, as text to compare.
///
/// # Errors
/// When `ip` or `nft` cannot be run.
pub fn network_settings() -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for line in [
        "ip -o link",
        "ip -o address",
        "ip rule",
        "ip route show table all",
        "nft list ruleset",
    ] {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().context("program")?);
        let output = crate::run::run(command.args(words), b"")?.ok()?;
        // Packet counters and remaining lifetimes change by themselves.
        let stable = output
            .lines()
            .filter(|l| !l.contains("valid_lft"))
            .collect::<Vec<_>>()
            .join("\n");
        all.insert(line.to_owned(), stable);
    }
    sysctls(Path::new("/proc/sys/net"), &mut all)?;
    Ok(all)
}

/// Settings that the kernel itself counts up or that show a moment's state.
const VOLATILE: &[&str] = &[
    "/nf_conntrack_count",
    "/if_addr_gen",
    "/netfilter/nf_conntrack_buckets",
    "/fs/",
    "/unix/",
];

fn sysctls(dir: &Path, all: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sysctls(&path, all)?;
        } else if let (Ok(value), Some(name)) = (std::fs::read_to_string(&path), path.to_str())
            && !VOLATILE.iter().any(|v| name.contains(v))
        {
            all.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

/// The differences of two settings, for a message.
#[must_use]
pub fn differences(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<String> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|n| before.get(*n) != after.get(*n))
        .map(|n| format!("{n}: {:?} became {:?}", before.get(n), after.get(n)))
        .collect()
}

/// One process of the host.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its command line, arguments joined by blanks.
    pub command: String,
}

/// All processes of the host.
///
/// # Errors
/// When /proc cannot be read.
pub fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process may end between the listing and the reading.
        let (Ok(stat), Ok(command)) = (
            std::fs::read_to_string(entry.path().join("stat")),
            std::fs::read(entry.path().join("cmdline")),
        ) else {
            continue;
        };
        let mut fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace())
            .into_iter()
            .flatten();
        let zombie = fields.next() == Some("Z");
        let parent = fields.next().and_then(|p| p.parse().ok()).unwrap_or(0);
        if !zombie {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            all.push(Process {
                pid,
                parent,
                command,
            });
        }
    }
    Ok(all)
}

/// The simulator that works on `state`.
///
/// # Errors
/// When there is none.
pub fn simulator(state: &Path) -> Result<Process> {
    let state = state.to_str().context("state directory")?;
    let all = processes()?;
    let is_ours = |p: &&Process| p.command.contains("vic-sim") && p.command.contains(state);
    let ours: Vec<&Process> = all.iter().filter(is_ours).collect();
    // The helper is a child of the simulator and carries the same command line.
    let first = ours
        .iter()
        .find(|p| !ours.iter().any(|o| o.pid == p.parent));
    Ok((*first.context("no vic-sim runs on this state directory")?).clone())
}

/// All processes below `root`, itself left out.
///
/// # Errors
/// When /proc cannot be read.
pub fn descendants(root: u32) -> Result<Vec<Process>> {
    let all = processes()?;
    let mut family = BTreeSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            all.iter()
                .filter(|p| family.contains(&p.parent))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    Ok(all
        .into_iter()
        .filter(|p| p.pid != root && family.contains(&p.pid))
        .collect())
}

/// Waits until none of `pids` is alive.
///
/// # Errors
/// With those that are when the deadline passes.
pub fn wait_gone(pids: &[u32], deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let alive: Vec<Process> = processes()?
            .into_iter()
            .filter(|p| pids.contains(&p.pid))
            .collect();
        if alive.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "still there after {deadline:?}: {alive:?}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What a world may leave behind: mounts, loop devices in use, simulators' cgroups.
#[derive(Debug)]
pub struct Leftovers {
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Takes stock.
    ///
    /// # Errors
    /// When /proc or /sys cannot be read.
    pub fn now() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?
            .lines()
            .map(str::to_owned)
            .collect();
        let mut loops = BTreeSet::new();
        for entry in std::fs::read_dir("/sys/block")? {
            let path = entry?.path();
            if let Ok(file) = std::fs::read_to_string(path.join("loop/backing_file")) {
                loops.insert(format!("{} {}", path.display(), file.trim()));
            }
        }
        let mut cgroups = BTreeSet::new();
        directories(Path::new("/sys/fs/cgroup"), 0, &mut cgroups);
        // Whoever else lives on this host has cgroups that come and go.
        cgroups.retain(|path| owner(path).is_some());
        Ok(Self {
            mounts,
            loops,
            cgroups,
        })
    }

    /// What is there now and was not there `before`, when our own simulators have ended. What an engine has that
    /// still runs is not ours (somebody works on this host); its loop devices cannot be told from ours, so none are
    /// looked at while there is one.
    ///
    /// # Errors
    /// When /proc or /sys cannot be read.
    pub fn since(before: &Self) -> Result<Vec<String>> {
        let now = Self::now()?;
        let alive: BTreeSet<u32> = processes()?.into_iter().map(|p| p.pid).collect();
        let foreign: BTreeSet<u32> = now
            .cgroups
            .iter()
            .filter_map(|path| owner(path))
            .filter(|pid| alive.contains(pid))
            .collect();
        let mounts = now.mounts.difference(&before.mounts).cloned();
        let loops = now
            .loops
            .difference(&before.loops)
            .filter(|_| foreign.is_empty())
            .cloned();
        let cgroups = now
            .cgroups
            .difference(&before.cgroups)
            .filter(|path| owner(path).is_none_or(|pid| !foreign.contains(&pid)))
            .map(|path| path.display().to_string());
        Ok(mounts.chain(loops).chain(cgroups).collect())
    }

    /// Waits until nothing is left of what came after `before`.
    ///
    /// # Errors
    /// With what still is when the deadline passes.
    pub fn wait_none(before: &Self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let left = Self::since(before)?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "left behind: {left:#?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// The simulator that a cgroup belongs to: `…/vic-sim.<pid>.<number>/…`.
fn owner(cgroup: &Path) -> Option<u32> {
    let name = cgroup
        .iter()
        .find_map(|part| part.to_str()?.strip_prefix("vic-sim."))?;
    name.split('.').next()?.parse().ok()
}

fn directories(dir: &Path, depth: usize, all: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir() && !p.is_symlink())
    {
        if depth < 4 {
            directories(&path, depth + 1, all);
        }
        all.insert(path);
    }
}
