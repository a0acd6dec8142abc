//! What the simulator and its helper say to each other: one JSON document per message, with
//! descriptors beside it, over a socket that keeps messages whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::walls::Walls;

/// Longest message of either side.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

/// From the simulator to the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// Comes back in the answer.
    pub(super) id: u64,
    /// What is wanted.
    pub(super) request: Request,
}

/// What the simulator can ask for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// First message; brings a rtnetlink socket of the simulator's network namespace.
    Hello {
        /// The walls that stand.
        walls: Walls,
    },
    /// Brings a read-only root file system as a detached mount.
    AddRoot {
        /// Name by which [`Request::Start`] will call it.
        root: String,
    },
    /// Starts a guest; brings the file for its console output.
    Start(Box<Start>),
    /// Shows a disk to a running guest.
    AddDisk {
        /// The guest.
        guest: u64,
        /// The disk.
        disk: Disk,
    },
    /// Takes a disk away from a running guest.
    RemoveDisk {
        /// The guest.
        guest: u64,
        /// Bus and unit.
        slot: (i32, i32),
    },
    /// Kills a guest; the answer comes at once, [`Report::Ended`] when it is gone.
    Kill {
        /// The guest.
        guest: u64,
    },
}

/// A guest to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// Number of the guest, never used twice.
    pub(super) guest: u64,
    /// The VM's instance UUID: name of its cgroups.
    pub(super) instance: String,
    /// The root, as [`Request::AddRoot`] named it.
    pub(super) root: String,
    /// CPU time in thousandths.
    pub(super) cpu_millis: u64,
    /// Memory in MiB.
    pub(super) memory_mb: u64,
    /// Its disks.
    pub(super) disks: Vec<Disk>,
    /// Its network adapters.
    pub(super) nics: Vec<Nic>,
    /// Its serial ports: index, and the file of a file-backed one.
    pub(super) serials: Vec<(u32, Option<PathBuf>)>,
}

/// A disk that has a block device already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Disk {
    /// Bus and unit.
    pub(super) slot: (i32, i32),
    /// Major number of its block device.
    pub(super) major: u32,
    /// Minor number.
    pub(super) minor: u32,
}

/// A network adapter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Nic {
    /// Name in the guest.
    pub(super) name: String,
    /// Hardware address.
    pub(super) mac: [u8; 6],
    /// Name of the end in the simulator's namespace.
    pub(super) outer: String,
    /// Number of the port group's bridge; none leaves the cable unplugged.
    pub(super) bridge: Option<u32>,
    /// Whether the outer end is set up.
    pub(super) connected: bool,
}

/// From the helper to the simulator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The answer to a call.
    Answer {
        /// Which call.
        id: u64,
        /// How it went. A start brings the listeners: RPCI, TCLO, network-backed serial ports in
        /// the order of [`Start::serials`].
        result: Result<Done, Failure>,
    },
    /// A guest is gone, with everything that was made for it.
    Ended {
        /// The guest.
        guest: u64,
        /// How its PID 1 ended.
        how: How,
    },
}

/// A call that went well.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// Process id of the guest's PID 1, after a start.
    pub(super) pid: Option<i32>,
    /// Microseconds that each step of a start took.
    pub(super) steps: Vec<(String, u64)>,
}

/// A call that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What was tried.
    pub(super) what: String,
    /// The system's error number, 0 for none.
    pub(super) errno: i32,
}

/// How a guest's PID 1 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    /// It exited.
    Exited(i32),
    /// A signal killed it.
    Signaled(i32),
}
