//! The container's processes, read out of `/proc`: what `docker top` shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tether_protocol::session::ProcessRow;

/// Clock ticks in a second, as the kernel reports to user space on every architecture of ours.
const TICKS: u64 = 100;

/// Lists the processes in the PID namespace of `primary`, by their ids there.
pub fn list(primary: i32, passwd: &str) -> Vec<ProcessRow> {
    let Ok(namespace) = namespace_of(primary) else {
        return Vec::new();
    };
    let boot = boot_time();
    let mut inside = BTreeMap::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if namespace_of(pid).ok().as_ref() != Some(&namespace) {
            continue;
        }
        if let Some(seen) = describe(&entry.path(), boot, passwd) {
            inside.insert(pid, seen.row.pid);
            found.push(seen);
        }
    }
    let mut rows: Vec<_> = found
        .into_iter()
        .filter_map(|seen| {
            let ppid = inside.get(&seen.parent).copied().unwrap_or(0);
            // One that has ended and is tether's child is about to be reaped: its end is not told yet,
            // and nobody else could do anything about it.
            let ours = seen.ended && ppid == 0 && seen.row.pid != 1;
            (!ours).then_some(ProcessRow { ppid, ..seen.row })
        })
        .collect();
    rows.sort_by_key(|row| row.pid);
    rows
}

/// The process ids, as tether sees them, in the PID namespace of `primary`.
pub fn pids(primary: i32) -> Vec<i32> {
    let Ok(namespace) = namespace_of(primary) else {
        return Vec::new();
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| namespace_of(*pid).ok().as_ref() == Some(&namespace))
        .collect()
}

/// The process id that `pid` has in its own PID namespace.
pub fn inner_pid(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    field
        .and_then(|list| list.split_whitespace().last()?.parse().ok())
        .unwrap_or(pid)
}

fn namespace_of(pid: i32) -> std::io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

fn boot_time() -> i64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// A process as `/proc` shows it.
struct Seen {
    row: ProcessRow,
    /// Its parent, as tether sees it.
    parent: i32,
    /// It has ended, and waits for its parent to notice.
    ended: bool,
}

fn describe(dir: &Path, boot: i64, passwd: &str) -> Option<Seen> {
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let (_, after) = stat.rsplit_once(')')?;
    let numbers: Vec<&str> = after.split_whitespace().collect();
    let number = |at: usize| {
        numbers
            .get(at)
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let command = fs::read(dir.join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let uid = field("Uid")?.split_whitespace().next()?.to_owned();
    let terminal = number(4);
    let ended = matches!(numbers.first(), Some(&("Z" | "X")));
    let row = ProcessRow {
        user: user_name(passwd, &uid).unwrap_or(uid),
        pid: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
        ppid: 0,
        start: boot + i64::try_from(number(19) / TICKS).unwrap_or(0),
        tty: if terminal == 0 {
            "?".to_owned()
        } else {
            format!("pts/{}", terminal & 0xff)
        },
        cpu_seconds: (number(11) + number(12)) / TICKS,
        command: match field("Name")? {
            name if ended => format!("[{name}] <defunct>"),
            name if command.is_empty() => format!("[{name}]"),
            _ => command,
        },
    };
    Some(Seen {
        row,
        parent: field("PPid")?.parse().ok()?,
        ended,
    })
}

fn user_name(passwd: &str, uid: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
