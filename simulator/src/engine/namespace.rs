//! The engine that runs guests in Linux namespaces: for everyday development and CI.
//!
//! A VM boots by unpacking the initramfs of its CD-ROM's ISO (once per content, into memory, shared
//! read-only) and running its `/init` as PID 1 of new namespaces and cgroups, behind [`walls`].
//! Disks are block nodes, network adapters ends of veth pairs, serial ports and guest RPC sockets.
//!
//! | piece | where |
//! |---|---|
//! | processes, cgroups, mounts, `/dev` | [`helper`], a process of its own |
//! | disks' block devices | [`crate::diskview`], in this process |
//! | serial ports, guest RPC | `serial`, `rpc`: tasks in this process, a set per guest |
//! | networks | [`crate::network`], in this process |

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tether_sys::netlink::Netlink;

use super::{BoxFuture, EngineError, GuestEngine, PowerOnSpec, PoweredOn};
use crate::diskview::DiskView;
use crate::network::Network;

mod client;
mod disks;
mod guest;
pub mod helper;
mod protocol;
mod rootfs;
mod rpc;
mod serial;
pub mod walls;

use client::Client;
use rootfs::Roots;
use walls::Walls;

/// What the engine needs to start.
#[derive(Debug)]
pub struct Config {
    /// The program to start the helper from: one whose `main` begins with
    /// [`helper::helper_main`]. `vic-sim` gives its own (`std::env::current_exe`).
    pub program: PathBuf,
    /// Where port groups are.
    pub network: Arc<Network>,
    /// What makes block devices of VMDKs; none takes raw images only.
    pub disks: Option<DiskView>,
    /// A directory for the guests' console output (`<instance>.log`); none drops it.
    pub console: Option<PathBuf>,
    /// The walls that stand; anything but the default is for tests of the walls.
    pub walls: Walls,
}

/// The engine.
#[derive(Clone)]
pub struct NamespaceEngine(Arc<Shared>);

/// What the engine and its guests share.
struct Shared {
    client: Client,
    network: Arc<Network>,
    disks: Option<DiskView>,
    console: Option<PathBuf>,
    roots: Roots,
    next: AtomicU64,
    guests: Mutex<HashMap<u64, Arc<guest::Running>>>,
}

impl std::fmt::Debug for NamespaceEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamespaceEngine").finish_non_exhaustive()
    }
}

impl NamespaceEngine {
    /// Starts the helper. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when this machine lacks something, [`EngineError::Step`] when
    /// the helper does not start.
    pub async fn start(config: Config) -> Result<Self, EngineError> {
        preflight()?;
        let client = Client::start(&config.program)?;
        let netlink = config
            .network
            .inside(Netlink::open)
            .await
            .map_err(EngineError::step(
                "open a netlink socket in the simulator's network",
            ))?;
        let hello = protocol::Request::Hello {
            walls: config.walls,
        };
        client.call(hello, vec![OwnedFd::from(netlink)]).await?;
        if let Some(dir) = &config.console {
            std::fs::create_dir_all(dir)
                .map_err(EngineError::step(format!("make {}", dir.display())))?;
        }
        Ok(Self(Arc::new(Shared {
            client,
            network: config.network,
            disks: config.disks,
            console: config.console,
            roots: Roots::default(),
            next: AtomicU64::new(1),
            guests: Mutex::default(),
        })))
    }

    /// Returns the helper's process id.
    #[must_use]
    pub fn helper_pid(&self) -> u32 {
        self.0.client.pid()
    }
}

/// Names what this machine lacks, if anything.
///
/// # Errors
/// [`EngineError::Unsupported`].
pub fn preflight() -> Result<(), EngineError> {
    let missing = |reason: &str| {
        Err(EngineError::Unsupported {
            engine: "namespace",
            reason: reason.to_owned(),
        })
    };
    if !nix::unistd::geteuid().is_root() {
        return missing("it needs root");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.contains(" - cgroup2 ") {
        return missing("no cgroup2 hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)");
    }
    for (file, module) in [("/dev/loop-control", "loop"), ("/dev/fuse", "fuse")] {
        if File::open(file).is_err() {
            return missing(&format!("{file} is missing (modprobe {module})"));
        }
    }
    Ok(())
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<guest::Running>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn console(&self, instance: &str) -> io::Result<OwnedFd> {
        let file = match &self.console {
            None => File::options().write(true).open("/dev/null")?,
            Some(dir) => {
                let path = dir.join(format!("{instance}.log"));
                File::options().append(true).create(true).open(path)?
            }
        };
        Ok(file.into())
    }

    async fn power_on(self: &Arc<Self>, spec: PowerOnSpec) -> Result<PoweredOn, EngineError> {
        check_instance(&spec.instance)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A task of its own: a caller that gives up half-way must not leave half a guest. What it
        // does not take is dropped, which kills the guest.
        let shared = Arc::clone(self);
        let boot = tokio::spawn(async move { guest::Running::boot(&shared, number, spec).await });
        boot.await
            .map_err(|e| EngineError::step("boot the guest")(io::Error::other(e)))?
    }
}

/// The instance UUID becomes a file name and a cgroup's.
fn check_instance(instance: &str) -> Result<(), EngineError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if instance.is_empty() || instance.len() > 64 || !instance.chars().all(fine) {
        return Err(EngineError::NotBootable(format!(
            "bad instance UUID {instance:?}"
        )));
    }
    Ok(())
}

impl GuestEngine for NamespaceEngine {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn power_on(&self, spec: PowerOnSpec) -> BoxFuture<'_, Result<PoweredOn, EngineError>> {
        Box::pin(self.0.power_on(spec))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let guests: Vec<_> = self.0.lock().values().cloned().collect();
            for guest in &guests {
                guest.begin_kill();
            }
            for guest in guests {
                guest.gone().await;
            }
            self.0.client.stop().await;
        })
    }
}

/// Turns a listener that the helper made into one of tokio's.
fn listener(fd: OwnedFd) -> io::Result<tokio::net::UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    tether_sys::process::set_nonblocking(listener.as_fd(), true)?;
    tokio::net::UnixListener::from_std(listener)
}
