//! From power-on to the running process, and the orderly end.
//!
//! ```text
//! kernel file systems → guest RPC → configuration → network, disks → process → event loop
//!   → exit status → disks clean → power off
//! ```
//! A boot that fails leaves its reason as the launch error of the container, and powers off.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::reboot::{RebootMode, reboot};
use tether_protocol::config::{
    ApplianceConfig, ExecutorConfig, FetchError, ProcessState, ProcessStatus, StateKeys,
};
use tether_protocol::session::{Identity, SessionGuest};
use tether_sys::mount::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID};
use tether_sys::power::Power;
use tether_sys::process;
use tether_sys::signals::SignalFd;

use crate::disk::{Disk, DiskError};
use crate::guest::freezer::Freezer;
use crate::guest::{Guest, Parts};
use crate::launch::{self, LaunchError, Sandbox};
use crate::link::Link;
use crate::logport::LogPort;
use crate::network::{Network, NetworkError};
use crate::rpc::Rpc;
use crate::upkeep::{TOOLS_RUN, Upkeep};
use crate::{chain, clock, say};

mod appliance;

/// Where things are in a VM.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Socket of guest RPC.
    pub rpci: PathBuf,
    /// Socket of the hypervisor's requests.
    pub tclo: PathBuf,
    /// Directory of disks by slot.
    pub slots: PathBuf,
    /// Serial ports, without their number.
    pub serial: String,
    /// Directory for tether's own files, hidden from the container.
    pub state: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            rpci: "/dev/vmware/rpci".into(),
            tclo: "/dev/vmware/tclo".into(),
            slots: "/dev/disk/by-slot".into(),
            serial: "/dev/ttyS".into(),
            state: "/run/tether".into(),
        }
    }
}

impl Machine {
    fn port(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}{number}", self.serial))
    }
}

/// Why a VM could not become what its configuration says.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("preparing the VM: {what}")]
    Prepare {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("reading the configuration")]
    Configuration(#[source] FetchError<io::Error>),
    #[error("the VM has no configuration")]
    NoConfiguration,
    #[error("setting up the network")]
    Network(#[source] NetworkError),
    #[error("setting up the disks")]
    Disk(#[source] DiskError),
    #[error("starting the link")]
    Link(#[source] tether_protocol::session::SessionError),
    #[error("making the link's key")]
    Key(#[source] tether_protocol::session::IdentityError),
}

fn prepare(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Prepare { what, source }
}

/// Runs the VM from beginning to end. Returns only where there is no machine to power off.
pub fn run(machine: &Machine) -> ExitCode {
    let power = match boot(machine) {
        Ok(power) => power,
        Err(error) => {
            say!("{}", chain(&error));
            Power::Off
        }
    };
    // Without a sync: every disk has been released, and in an engine that shares a kernel a sync
    // would wait for everybody else's.
    let mode = match power {
        Power::Off => RebootMode::RB_POWER_OFF,
        Power::Restart => RebootMode::RB_AUTOBOOT,
    };
    let Err(error) = reboot(mode);
    say!("power: {error}");
    ExitCode::FAILURE
}

fn boot(machine: &Machine) -> Result<Power, BootError> {
    kernel_file_systems();
    // Other processes must not read the link's key out of this one.
    process::set_undumpable().map_err(prepare("hiding this process"))?;
    let signals = [
        nix::libc::SIGCHLD,
        nix::libc::SIGTERM,
        nix::libc::SIGINT,
        nix::libc::SIGPWR,
        nix::libc::SIGHUP,
        nix::libc::SIGPIPE,
    ];
    let signals = SignalFd::open(&signals[..5]).map_err(prepare("signals"))?;
    fs::create_dir_all(&machine.state).map_err(prepare("the state directory"))?;
    let mut rpc = Rpc::open(&machine.rpci).map_err(prepare("guest RPC"))?;
    let identity = Identity::generate().map_err(BootError::Key)?;
    let config = ExecutorConfig::fetch(|keys| rpc.get(keys));
    if let Ok(config) = &config
        && !config.id.is_empty()
    {
        // Before the new boot is announced: whoever sees it must not take an earlier boot's state for its own.
        clear_state(&mut rpc, &config.id)?;
    }
    announce(&mut rpc, &identity);
    let config = config.map_err(BootError::Configuration)?;
    if config.id.is_empty() {
        let config = ApplianceConfig::fetch(|keys| rpc.get(keys));
        let config = config.map_err(BootError::Configuration)?;
        if config.executor.id.is_empty() {
            return Err(BootError::NoConfiguration);
        }
        return appliance::run(machine, &config, rpc, signals);
    }
    container(machine, &config, rpc, signals, &identity)
}

/// Clears what an earlier boot reported of the container's process.
fn clear_state(rpc: &mut Rpc, id: &str) -> Result<(), BootError> {
    // `started` first: without it nothing else counts.
    let stale = [
        StateKeys::started(id),
        StateKeys::status(id),
        StateKeys::stop_time(id),
    ];
    let stale: Vec<_> = stale.into_iter().map(|key| (key, String::new())).collect();
    rpc.set(&stale).map_err(prepare("clearing old state"))
}

/// What a guest says first: that this is a new boot, and by which key it will be known.
fn announce(rpc: &mut Rpc, identity: &Identity) {
    let values = [
        (
            StateKeys::BOOT.to_owned(),
            identity.fingerprint()[..32].to_owned(),
        ),
        (StateKeys::KEY.to_owned(), identity.public_key().to_base64()),
    ];
    if let Err(error) = rpc.set(&values) {
        say!("announcing the boot: {error}");
    }
}

/// Mounts what the kernel or the engine has not mounted already.
fn kernel_file_systems() {
    let careful = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let place = |target: &str, kind: &str, flags| {
        let target = Path::new(target);
        if let Err(error) = mount::mount(Some(Path::new(kind)), target, Some(kind), flags, None) {
            say!("mounting {}: {error}", target.display());
        }
    };
    if !Path::new("/proc/self").exists() {
        place("/proc", "proc", careful);
    }
    if !Path::new("/sys/class").exists() {
        place("/sys", "sysfs", careful);
    }
    if !Path::new("/dev/null").exists() {
        place("/dev", "devtmpfs", MS_NOSUID);
    }
    let writable = fs::create_dir_all("/run/tether").is_ok();
    if !writable {
        place("/run", "tmpfs", MS_NOSUID | MS_NODEV);
    }
}

fn container(
    machine: &Machine,
    config: &ExecutorConfig,
    mut rpc: Rpc,
    signals: SignalFd,
    identity: &Identity,
) -> Result<Power, BootError> {
    let id = &config.id;
    let mut disks = Vec::new();
    let outcome = run_container(machine, config, &mut rpc, signals, identity, &mut disks);
    disks.into_iter().for_each(Disk::release);
    match outcome {
        Ok(power) => Ok(power),
        Err(failure) => {
            let state = ProcessState {
                status: ProcessStatus::Failed {
                    error: failure.text.clone(),
                    code: failure.code,
                },
                stopped_at: Some(clock::now_nanos()),
                started_at: None,
            };
            if let Err(error) = rpc.set(&state.encode(id)) {
                say!("reporting {}: {error}", failure.text);
            }
            Ok(Power::Off)
        }
    }
}

/// A boot's error is the container's launch error.
fn internal(error: BootError) -> LaunchError {
    LaunchError {
        text: format!("cannot start the container's VM: {}", chain(&error)),
        code: 128,
    }
}

fn run_container(
    machine: &Machine,
    config: &ExecutorConfig,
    rpc: &mut Rpc,
    signals: SignalFd,
    identity: &Identity,
    disks: &mut Vec<Disk>,
) -> Result<Power, LaunchError> {
    let id = &config.id;
    let Some(spec) = config.primary() else {
        return Err(internal(BootError::NoConfiguration));
    };
    let link = if config.vch_key.is_empty() {
        None
    } else {
        let session = SessionGuest::new(identity, id, &config.vch_key);
        let session = session.map_err(|e| internal(BootError::Link(e)))?;
        Some(Link::new(machine.port(0), session))
    };
    let network = Network::set_up(config).map_err(|e| internal(BootError::Network(e)))?;
    let mut upkeep = Upkeep::new(config, network, machine.state.join("etc"));
    let names = upkeep
        .write_names()
        .map_err(|e| internal(prepare("name files")(e)))?;
    let root = mount_disks(machine, config, disks).map_err(|e| internal(BootError::Disk(e)))?;
    let volumes: Vec<_> = root.volumes;
    let next = rpc.get(&[StateKeys::LOG_NEXT.to_owned()]).ok();
    let next = next.and_then(|values| values.into_iter().flatten().next()?.parse().ok());
    let port = config.log_port.map(|number| machine.port(number));
    let log = LogPort::open(port.as_deref(), next.unwrap_or(1))
        .map_err(|e| internal(prepare("the log port")(e)))?;
    let mut freezer = Freezer::new(&machine.state.join("cgroup"), spec.security.pids_limit);
    let cgroup = freezer.group().and_then(|fd| fd.try_clone_to_owned().ok());
    let joined = freezer.joined().iter().map(OwnedFd::try_clone);
    let joined = joined
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| internal(prepare("cgroups")(e)))?;
    let sandbox = Sandbox {
        config,
        root: Some(&root.place),
        volumes: &volumes,
        names: &names,
        cgroup: cgroup.as_ref().map(std::os::fd::AsFd::as_fd),
        joined: &joined,
    };
    let launched = launch::start(&sandbox, spec)?;
    let started = ProcessState {
        status: ProcessStatus::Running,
        started_at: Some(clock::now_nanos()),
        stopped_at: None,
    };
    let tclo = UnixStream::connect(&machine.tclo).ok();
    if let Some(tclo) = &tclo {
        // Reads happen when there is something to read; this only guards against a false alarm.
        let _ = tclo.set_nonblocking(true);
    }
    // From the moment that it runs it can be asked to end.
    rpc.set_and(&started.encode(id), &[TOOLS_RUN])
        .map_err(|e| internal(prepare("reporting the start")(e)))?;
    let mut log = log;
    let parts = Parts {
        config,
        sandbox,
        rpc,
        tclo,
        link,
        log: &mut log,
        signals,
        freezer: &mut freezer,
        upkeep: &mut upkeep,
    };
    let power = Guest::new(parts, spec, launched).run();
    let next = [(StateKeys::LOG_NEXT.to_owned(), log.next().to_string())];
    if let Err(error) = rpc.set(&next) {
        say!("keeping the log's number: {error}");
    }
    Ok(power)
}

struct Root {
    place: PathBuf,
    volumes: Vec<Option<PathBuf>>,
}

fn mount_disks(
    machine: &Machine,
    config: &ExecutorConfig,
    disks: &mut Vec<Disk>,
) -> Result<Root, DiskError> {
    let place = machine.state.join("root");
    if let Some(slot) = config.rootfs.slot {
        disks.push(Disk::mount(&machine.slots, slot, place.clone())?);
    }
    let mut volumes = Vec::new();
    for (i, mount) in config.mounts.iter().enumerate() {
        let place = match mount.slot {
            None => None,
            Some(slot) => {
                let place = machine.state.join(format!("volume{i}"));
                disks.push(Disk::mount(&machine.slots, slot, place.clone())?);
                Some(place)
            }
        };
        volumes.push(place);
    }
    // Last mounted, first released: volumes before the root.
    disks.reverse();
    Ok(Root { place, volumes })
}
