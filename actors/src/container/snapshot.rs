//! What everybody may know about a container without asking it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use time::OffsetDateTime;

use super::spec::{CreateSpec, ProcessSpec};
use crate::ids::{ContainerId, EndpointId, ExecId, NetworkId};

/// A container at one moment. Published by its actor at every transition; never changed.
#[derive(Debug, Clone)]
pub struct ContainerSnapshot {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// When it was made.
    pub created: OffsetDateTime,
    /// What it was made from.
    pub spec: Arc<CreateSpec>,
    /// Where it is in its life.
    pub phase: Phase,
    /// A removal is under way (independent of `phase`, which it was before).
    pub removing: bool,
    /// The removal takes the anonymous volumes along.
    pub removing_volumes: bool,
    /// A removal failed half-way.
    pub dead: bool,
    /// Exit code of the last run (or 126, 127, 128 of a failed start).
    pub exit_code: i64,
    /// Runs that ended, failed starts included; only grows.
    pub exits: u64,
    /// Why the last start or run failed; empty if it did not.
    pub error: String,
    /// The guest's kernel killed it for memory.
    pub oom_killed: bool,
    /// Beginning of the last run.
    pub started_at: Option<OffsetDateTime>,
    /// End of the last run.
    pub finished_at: Option<OffsetDateTime>,
    /// Times that a policy started it again.
    pub restart_count: u32,
    /// Its places in networks; addresses are set while it runs.
    pub endpoints: Vec<EndpointSnapshot>,
    /// Its mounts, anonymous volumes by their made-up names.
    pub mounts: Vec<MountSnapshot>,
    /// Its execs: those that run, and those that ended less than five minutes ago. Each comes from its own actor; the
    /// shelf puts them here.
    pub execs: BTreeMap<ExecId, Arc<ExecSnapshot>>,
    /// Its VM, as vSphere knows it.
    pub vm: VmSnapshot,
    /// Number of the transition that made this snapshot; grows.
    pub revision: u64,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its VM is being powered on or its process launched.
    Starting,
    /// Its process runs.
    Running,
    /// Its process is frozen, or an admin suspended the VM.
    Paused,
    /// A stop is under way; it still runs.
    Stopping,
    /// Its process has ended.
    Exited,
}

impl ContainerSnapshot {
    /// docker's `State.Running`: also true while paused.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopping)
    }

    /// docker's word: created, running, paused, removing, dead, exited (restarting comes with policies).
    pub fn status_word(&self) -> &'static str {
        match self.phase {
            Phase::Paused => "paused",
            Phase::Running | Phase::Stopping => "running",
            _ if self.removing => "removing",
            _ if self.dead => "dead",
            Phase::Exited => "exited",
            Phase::Created | Phase::Starting => {
                if self.finished_at.is_some() {
                    "exited"
                } else {
                    "created"
                }
            }
        }
    }
}

/// A container's place in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSnapshot {
    /// The network.
    pub network: NetworkId,
    /// Its name when the container joined.
    pub network_name: String,
    /// This place.
    pub id: EndpointId,
    /// Further names of the container in it.
    pub aliases: Vec<String>,
    /// The address, while it runs.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// The network's gateway, while it runs.
    pub gateway: Option<Ipv4Addr>,
    /// MAC address, empty until the VM's NIC has one.
    pub mac: String,
}

/// A mount, as inspect shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSnapshot {
    /// The volume's name; none: a temporary file system.
    pub volume: Option<String>,
    /// Made for this container only.
    pub anonymous: bool,
    /// Where its data lies, as inspect shows it.
    pub source: String,
    /// Where in the container.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// Mount options as the client wrote them.
    pub mode: String,
}

/// The VM of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmSnapshot {
    /// The managed object's id.
    pub moref: String,
    /// Its name in vSphere.
    pub name: String,
    /// Its log file as a datastore path.
    pub log_path: String,
    /// `poweredOn`, `poweredOff`, `suspended`.
    pub power: String,
    /// Process id of the container's process in the guest, while it runs.
    pub pid: u32,
}

/// An exec at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSnapshot {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What it runs.
    pub spec: ExecSpec,
    /// Whether it was started.
    pub started: bool,
    /// Whether it runs.
    pub running: bool,
    /// Its exit code once it has ended.
    pub exit_code: Option<i64>,
    /// Process id in the guest, while it runs.
    pub pid: u32,
}

/// What an exec was created from.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// The process. Empty user and working directory mean the container's; `env` is added to the container's.
    pub process: ProcessSpec,
    /// Client wants to send input.
    pub attach_stdin: bool,
    /// Client wants standard output.
    pub attach_stdout: bool,
    /// Client wants standard error.
    pub attach_stderr: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Detach keys, for inspect.
    pub detach_keys: String,
}
