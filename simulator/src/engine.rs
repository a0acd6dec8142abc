//! Guest engines: what makes a powered-on VM run.
//!
//! The inventory knows VMs as vSphere shows them; an engine knows how to run one. A VM actor hands a
//! [`PowerOnSpec`] to its [`GuestEngine`] and keeps the [`Guest`] handle for as long as the VM is on.
//! What the guest does comes back as [`GuestEvent`]s, the last of which is always
//! [`GuestEvent::PoweredOff`] or [`GuestEvent::RebootRequested`]; then the channel closes.
//!
//! ```text
//!            power_on                 guest calls reboot(2), exits, or is killed
//! (off) ───────────────► running ─────────────────────────────────────────────► gone
//!                          │ ▲  attach_disk, detach_disk, set_serial, tclo
//!                          └─┘
//! ```
//!
//! A reboot is not done by the engine: the VM actor sees `RebootRequested` and powers on again with
//! a fresh spec, as vSphere rereads the VM's configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

pub mod inert;
pub mod namespace;

/// A boxed future, so that engines can be trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs guests; one per simulator.
pub trait GuestEngine: Send + Sync + 'static {
    /// Returns the name that `--guest` takes.
    fn name(&self) -> &'static str;

    /// Boots a VM and returns when its PID 1 runs.
    ///
    /// # Errors
    /// When a piece of the VM cannot be had; everything that was made for it is then gone again.
    fn power_on(&self, spec: PowerOnSpec) -> BoxFuture<'_, Result<PoweredOn, EngineError>>;

    /// Kills every guest and gives back all that the engine holds; returns when nothing is left.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// One running guest. Dropping the last handle kills it.
pub trait Guest: Send + Sync + 'static {
    /// Hot-adds a disk; returns when the guest can see it.
    ///
    /// # Errors
    /// When the slot is taken, the chain cannot be opened, or the guest is gone.
    fn attach_disk(&self, disk: DiskSpec) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Removes a disk; returns when the guest no longer sees it and the files are closed.
    ///
    /// # Errors
    /// When there is no such disk, or the guest still has it mounted (`InUse`).
    fn detach_disk(&self, slot: DiskSlot) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Changes a serial port: where it leads, and whether it is connected.
    ///
    /// # Errors
    /// When the VM has no such port or its kind would change (file and network) while it runs.
    fn set_serial(&self, serial: SerialSpec) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Plugs or unplugs the cable of a network adapter.
    ///
    /// # Errors
    /// When there is no such adapter.
    fn set_nic_connected(
        &self,
        key: i32,
        connected: bool,
    ) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Sends a TCLO command (`OS_Halt`, `OS_Reboot`, `OS_Suspend`, `ping`) and returns the guest's reply.
    ///
    /// # Errors
    /// `ToolsNotRunning` when no guest agent is connected or it does not answer in time.
    fn tclo(&self, command: String) -> BoxFuture<'_, Result<String, EngineError>>;

    /// Cuts the power; returns when every process of the guest is gone and its disks are closed.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Returns the host's process id of the guest's PID 1, if the engine has one.
    fn pid(&self) -> Option<i32>;
}

/// What [`GuestEngine::power_on`] returns.
pub struct PoweredOn {
    /// The handle by which the VM is changed and killed.
    pub guest: Arc<dyn Guest>,
    /// What the guest does, in order.
    pub events: mpsc::UnboundedReceiver<GuestEvent>,
}

impl fmt::Debug for PoweredOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoweredOn")
            .field("pid", &self.guest.pid())
            .finish_non_exhaustive()
    }
}

/// Everything that an engine needs to know of a VM at power-on.
#[derive(Clone, Debug, Default)]
pub struct PowerOnSpec {
    /// The VM's instance UUID: unique among running VMs, at most 64 characters of `[0-9A-Za-z-]`.
    pub instance: String,
    /// The VM's name, for messages only.
    pub name: String,
    /// CPU time in thousandths of a CPU (2 vCPU are 2000; a `cpuAllocation` limit may make it less).
    pub cpu_millis: u64,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// The file behind the CD-ROM that is connected at power-on: an ISO. For tests an initramfs
    /// (newc, gzip or plain) or an unpacked directory is taken too.
    pub iso: Option<PathBuf>,
    /// Disks, in any order.
    pub disks: Vec<DiskSpec>,
    /// Network adapters in the order of their device keys: `eth0`, `eth1`, …
    pub nics: Vec<NicSpec>,
    /// Serial ports.
    pub serials: Vec<SerialSpec>,
    /// The VM's `guestinfo.` keys, which the guest reads and writes.
    pub guestinfo: GuestInfo,
}

/// Where a disk sits: SCSI bus and unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskSlot {
    /// Bus number of the controller.
    pub bus: i32,
    /// Unit number on the controller.
    pub unit: i32,
}

impl fmt::Display for DiskSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bus, self.unit)
    }
}

/// A disk of a VM.
#[derive(Clone, Debug, Default)]
pub struct DiskSpec {
    /// Where the guest finds it.
    pub slot: DiskSlot,
    /// The top VMDK of the chain (a raw file ending in `.img` is taken as it is, for tests).
    pub vmdk: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A network adapter of a VM.
#[derive(Clone, Debug, Default)]
pub struct NicSpec {
    /// Device key in the VM.
    pub key: i32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Name of the port group.
    pub network: String,
    /// Whether the cable is plugged in.
    pub connected: bool,
}

/// A serial port of a VM.
#[derive(Clone, Debug)]
pub struct SerialSpec {
    /// The port's number: `/dev/ttyS<index>`.
    pub index: u32,
    /// Where it leads.
    pub backing: SerialBacking,
    /// `connectable.connected`.
    pub connected: bool,
}

/// What stands behind a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialBacking {
    /// A client of `tcp://host:port`, dialled in the simulator's network.
    TcpClient {
        /// Host as in the URI: an address, or a name of the simulator's network.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A file on a datastore, appended to.
    File(PathBuf),
    /// Nothing: what is written is lost.
    None,
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest wrote a key (already stored in [`PowerOnSpec::guestinfo`]).
    GuestInfoSet {
        /// The key, with `guestinfo.`.
        key: String,
        /// The value; empty means that the key is gone.
        value: String,
    },
    /// The guest reported its adapters and addresses: the XDR `GuestNicProto` of `SetGuestInfo  10`.
    NicInfo(Vec<u8>),
    /// The guest reported its host name.
    HostName(String),
    /// The guest reported its operating system's full name.
    OsName(String),
    /// Guest tools have connected (`true`) or are gone.
    ToolsRunning(bool),
    /// The guest is gone: it powered itself off, its PID 1 ended, or it was killed.
    PoweredOff(PowerOffCause),
    /// The guest is gone and asks to be powered on again.
    RebootRequested,
}

/// Why a guest is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOffCause {
    /// `reboot(RB_POWER_OFF)`.
    PoweredOff,
    /// PID 1 ended with this exit code.
    Exited(i32),
    /// PID 1 died of this signal.
    Signaled(i32),
    /// [`Guest::kill`], or the engine is shutting down.
    Killed,
    /// The engine lost the guest (its helper died).
    Lost,
}

/// The `guestinfo.` keys of one VM, shared between the VM's actor and its guest.
///
/// The guest reads what is here at the moment of its request; what it writes is here before it
/// gets its reply, and [`GuestEvent::GuestInfoSet`] follows.
#[derive(Clone, Debug, Default)]
pub struct GuestInfo(Arc<RwLock<BTreeMap<String, String>>>);

impl GuestInfo {
    /// Makes a store from keys with their `guestinfo.` prefix.
    #[must_use]
    pub fn new(keys: BTreeMap<String, String>) -> Self {
        Self(Arc::new(RwLock::new(keys)))
    }

    /// Returns one value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Sets one value; an empty one removes the key, as vSphere does.
    pub fn set(&self, key: &str, value: &str) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if value.is_empty() {
            map.remove(key);
        } else {
            map.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Returns a copy of everything.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces everything.
    pub fn replace(&self, keys: BTreeMap<String, String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine cannot run this engine; the text names what is missing.
    #[error("this machine cannot run guests with the {engine} engine: {reason}")]
    Unsupported {
        /// Name of the engine.
        engine: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A step of making or changing a guest failed.
    #[error("cannot {what}")]
    Step {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The VM's configuration cannot be booted.
    #[error("the VM cannot boot: {0}")]
    NotBootable(String),
    /// There is no such device in the guest.
    #[error("the guest has no {0}")]
    NoSuchDevice(String),
    /// The device is in use by the guest, or the slot is taken.
    #[error("{0} is in use")]
    InUse(String),
    /// The guest is gone.
    #[error("the guest is not running")]
    NotRunning,
    /// No guest agent answers.
    #[error("guest tools are not running")]
    ToolsNotRunning,
}

impl EngineError {
    /// Makes a [`EngineError::Step`] from what was tried; for `map_err`.
    pub fn step(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }

    /// Returns whether the same call may succeed later with nothing changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Step { source, .. } => {
                matches!(source.raw_os_error(), Some(11 | 16 | 23 | 24 | 12))
            }
            Self::InUse(_) | Self::ToolsNotRunning => true,
            _ => false,
        }
    }
}
