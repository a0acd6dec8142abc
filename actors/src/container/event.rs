//! What happens to a container: the inputs of its state machine.

use time::OffsetDateTime;

use super::message::{RemoveOptions, Signal};
use crate::error::Error;

/// A request's place: the answer is given to whoever holds the port of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A vSphere task, or a request to the guest, that an effect started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// PowerOnVM_Task.
    PowerOn,
    /// PowerOffVM_Task.
    PowerOff,
    /// Destroy_Task.
    Destroy,
    /// The guest froze or thawed its processes.
    Freeze(bool),
}

/// The power state of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Power {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
    /// Suspended by an admin.
    Suspended,
}

/// What vSphere shows of the VM: power state and the keys that the guest writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmView {
    /// The power state.
    pub power: Power,
    /// A random text that tether writes first thing: another one after each boot.
    pub boot_key: String,
    /// Tether's public key of this boot, which the link pins.
    pub public_key: String,
    /// What the guest says of the container's process.
    pub process: Process,
    /// When the process was started.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    pub stopped_at: Option<OffsetDateTime>,
}

/// What the guest says of the container's process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Process {
    /// Nothing yet since it booted.
    #[default]
    Pending,
    /// It could not be launched.
    Failed {
        /// docker's text.
        error: String,
        /// docker's exit code.
        code: i64,
    },
    /// It runs.
    Running,
    /// It ended.
    Exited {
        /// Its exit code.
        code: i64,
    },
}

/// One input of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `start` was asked.
    Start(Ticket),
    /// `stop` was asked; `restart` is a stop that starts again.
    Stop {
        /// Who gets the answer.
        ticket: Ticket,
        /// The signal.
        signal: Signal,
        /// Seconds until SIGKILL; none: never.
        timeout: Option<u64>,
        /// Start again when it is off.
        restart: bool,
    },
    /// `kill` was asked.
    Kill {
        /// Who gets the answer.
        ticket: Ticket,
        /// The signal.
        signal: Signal,
    },
    /// `pause` or `unpause` was asked.
    Pause {
        /// Who gets the answer.
        ticket: Ticket,
        /// Whether to pause.
        pause: bool,
    },
    /// `rm` was asked.
    Remove {
        /// Who gets the answer.
        ticket: Ticket,
        /// How.
        options: RemoveOptions,
    },
    /// vSphere shows the VM like this now.
    VmChanged(VmView),
    /// The VM does not exist any more.
    VmGone,
    /// The guest, met again, has its processes frozen, or not.
    Frozen(bool),
    /// A piece of work ended.
    Done(Work, Result<(), Error>),
    /// The time that `stop` gives is over.
    StopDeadline,
}
