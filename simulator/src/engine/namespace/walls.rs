//! What stands between a guest and the host, each wall by name.
//!
//! | wall | without it a guest could |
//! |---|---|
//! | `devices` | open the host's block devices by mknod or a devtmpfs of its own |
//! | `sysctls` | write `core_pattern` and the like through a fresh proc |
//! | `cgroup-root` | find `release_agent` and other VMs' limits in a cgroup mount of its own |
//! | `capabilities` | load modules, reach I/O ports, open files by handle |
//! | `calls` | load BPF programs and kernels, remount the shared root for writing |
//! | `pids` | see and signal the host's and other guests' processes |
//! | `network` | reach the host's loopback and abstract unix sockets |
//! | `root` | see the host's files |
//!
//! In builds with the test-only feature `break-walls`, the environment variable `VIC_BREAK_WALLS`
//! (names joined by commas) takes walls away, so that a test can show what each is for.

use std::collections::BTreeSet;

use nix::libc;
use serde::{Deserialize, Serialize};
use tether_protocol::config::capability_number;
use tether_sys::caps::CapSet;
use tether_sys::seccomp::DenyList;

/// One wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// BPF device program on the outer cgroup: only the VM's own nodes can be opened.
    Devices,
    /// BPF sysctl program on the outer cgroup: only `net/` can be written.
    Sysctls,
    /// An inner cgroup of every hierarchy as the root of the cgroup namespace.
    CgroupRoot,
    /// Capabilities that reach beyond namespaces are dropped for good.
    Capabilities,
    /// A seccomp filter against calls that reach beyond namespaces.
    Calls,
    /// A PID namespace.
    Pids,
    /// A network namespace.
    Network,
    /// A mount namespace with another root.
    Root,
}

impl Wall {
    /// Every wall.
    pub const ALL: [Self; 8] = [
        Self::Devices,
        Self::Sysctls,
        Self::CgroupRoot,
        Self::Capabilities,
        Self::Calls,
        Self::Pids,
        Self::Network,
        Self::Root,
    ];

    /// Returns the wall's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Sysctls => "sysctls",
            Self::CgroupRoot => "cgroup-root",
            Self::Capabilities => "capabilities",
            Self::Calls => "calls",
            Self::Pids => "pids",
            Self::Network => "network",
            Self::Root => "root",
        }
    }
}

/// The walls that stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls(BTreeSet<Wall>);

impl Default for Walls {
    fn default() -> Self {
        Self(Wall::ALL.into_iter().collect())
    }
}

impl Walls {
    /// All walls, but for those that a test build was told to leave out.
    #[must_use]
    pub fn from_environment() -> Self {
        #[cfg(feature = "break-walls")]
        if let Ok(names) = std::env::var("VIC_BREAK_WALLS") {
            let broken: BTreeSet<&str> = names.split(',').map(str::trim).collect();
            return Self(
                Wall::ALL
                    .into_iter()
                    .filter(|w| !broken.contains(w.name()))
                    .collect(),
            );
        }
        Self::default()
    }

    /// Tells whether a wall stands.
    #[must_use]
    pub fn has(&self, wall: Wall) -> bool {
        self.0.contains(&wall)
    }

    /// Returns the same walls but for one; only test builds can do that.
    #[cfg(feature = "break-walls")]
    #[must_use]
    pub fn without(mut self, wall: Wall) -> Self {
        self.0.remove(&wall);
        self
    }
}

/// Capabilities that a guest's PID 1 keeps: what a kernel of its own would let it do to itself.
///
/// Not among them: modules, raw I/O, the clock, the kernel's log, accounting, BPF, performance
/// counters, audit, MAC policy, wake alarms, and opening files by handle (`DAC_READ_SEARCH`).
#[must_use]
pub fn guest_capabilities() -> CapSet {
    const GONE: [&str; 14] = [
        "DAC_READ_SEARCH",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_PACCT",
        "SYS_TIME",
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "PERFMON",
        "BPF",
    ];
    GONE.iter()
        .filter_map(|name| capability_number(name))
        .fold(CapSet::ALL, CapSet::without)
}

/// The calls that a guest's processes never get, whatever they are allowed.
#[must_use]
pub fn denied_calls() -> DenyList {
    let calls = [
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_quotactl,
        libc::SYS_fspick,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
    ];
    // Changing a whole file system (not one mount of it): the root's is shared by all guests, and
    // sysfs' and devtmpfs' by all the host.
    let remount = (libc::MS_REMOUNT | libc::MS_BIND) as u32;
    let list = DenyList::new().deny_if_equal(
        libc::SYS_mount,
        3,
        remount,
        libc::MS_REMOUNT as u32,
        libc::EPERM,
    );
    calls
        .into_iter()
        .fold(list, |list, call| list.deny(call, libc::EPERM))
}
