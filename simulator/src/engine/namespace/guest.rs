//! A running guest: its tasks, its disks, and its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::libc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::disks::Attached;
use super::protocol::{How, Nic, Request, Start};
use super::rpc::{Rpci, Tclo};
use super::serial::Port;
use super::{Shared, listener};
use crate::engine::{
    BoxFuture, DiskSlot, DiskSpec, EngineError, Guest, GuestEvent, NicSpec, PowerOffCause,
    PowerOnSpec, PoweredOn, SerialBacking, SerialSpec,
};

/// A guest that runs.
pub(super) struct Running {
    shared: Weak<Shared>,
    number: u64,
    pid: i32,
    tclo: Tclo,
    disks: tokio::sync::Mutex<BTreeMap<DiskSlot, Attached>>,
    serials: Mutex<BTreeMap<u32, watch::Sender<SerialSpec>>>,
    nics: Mutex<Vec<(i32, String)>>,
    killed: std::sync::atomic::AtomicBool,
    gone: watch::Receiver<bool>,
}

/// The handle that the VM's actor holds; the guest dies with it.
struct Handle(Arc<Running>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Boots a guest.
    pub(super) async fn boot(
        shared: &Arc<Shared>,
        number: u64,
        spec: PowerOnSpec,
    ) -> Result<PoweredOn, EngineError> {
        let iso = spec
            .iso
            .clone()
            .ok_or_else(|| EngineError::NotBootable("no CD-ROM is connected".into()))?;
        let root = shared.roots.get(&iso, &shared.client).await?;
        let disks = attach_all(shared, spec.disks.clone()).await?;
        let (nics, outers) = plan_nics(shared, number, &spec.nics).await?;
        let serials = plan_serials(&spec.serials)?;
        let sockets: Vec<_> = spec
            .serials
            .iter()
            .filter(|s| !matches!(s.backing, SerialBacking::File(_)))
            .cloned()
            .collect();
        let start = Start {
            guest: number,
            instance: spec.instance.clone(),
            root,
            cpu_millis: spec.cpu_millis,
            memory_mb: spec.memory_mb,
            disks: disks
                .iter()
                .map(|(disk, attached)| attached.describe(disk))
                .collect(),
            nics,
            serials,
        };
        let console = shared
            .console(&spec.instance)
            .map_err(EngineError::step("open the guest's console file"))?;
        let ended = shared.client.end_of(number);
        let (done, mut fds) = shared
            .client
            .call(Request::Start(Box::new(start)), vec![console])
            .await?;
        tracing::debug!(vm = spec.name, pid = done.pid, steps = ?done.steps, "guest runs");

        let (events, receiver) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let tclo = Tclo::default();
        let mut ports = BTreeMap::new();
        if fds.len() != 2 + sockets.len() {
            return Err(EngineError::NotBootable(
                "the helper sent too few sockets".into(),
            ));
        }
        let mut next = || listener(fds.remove(0)).map_err(EngineError::step("take a socket"));
        let rpci = Rpci {
            guestinfo: spec.guestinfo.clone(),
            events: events.clone(),
        };
        tasks.spawn(rpci.serve(next()?));
        tasks.spawn(tclo.clone().serve(next()?));
        for serial in sockets {
            let (sender, receiver) = watch::channel(serial.clone());
            ports.insert(serial.index, sender);
            let network = Arc::clone(&shared.network);
            tasks.spawn(
                Port {
                    listener: next()?,
                    network,
                    spec: receiver,
                }
                .serve(),
            );
        }

        let (gone_sender, gone) = watch::channel(false);
        let running = Arc::new(Self {
            shared: Arc::downgrade(shared),
            number,
            pid: done.pid.unwrap_or_default(),
            tclo,
            disks: tokio::sync::Mutex::new(
                disks
                    .into_iter()
                    .map(|(disk, attached)| (disk.slot, attached))
                    .collect(),
            ),
            serials: Mutex::new(ports),
            nics: Mutex::new(outers),
            killed: std::sync::atomic::AtomicBool::new(false),
            gone,
        });
        shared.lock().insert(number, Arc::clone(&running));
        let watched = Arc::clone(&running);
        tokio::spawn(async move {
            let how = ended.await.ok();
            watched.tclo.drain().await;
            drop(tasks);
            watched.finish(how, &events).await;
            let _ = gone_sender.send(true);
        });
        Ok(PoweredOn {
            guest: Arc::new(Handle(running)),
            events: receiver,
        })
    }

    async fn finish(&self, how: Option<How>, events: &mpsc::UnboundedSender<GuestEvent>) {
        let disks = std::mem::take(&mut *self.disks.lock().await);
        let closed = tokio::task::spawn_blocking(move || {
            for (slot, disk) in disks {
                if let Err(error) = disk.close() {
                    tracing::warn!(%slot, %error, "a disk is held although its guest is gone");
                }
            }
        });
        // A panic there was reported by its thread.
        let _ = closed.await;
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().remove(&self.number);
        }
        let killed = self.killed.load(std::sync::atomic::Ordering::Acquire);
        let event = match how {
            None => GuestEvent::PoweredOff(PowerOffCause::Lost),
            Some(_) if killed => GuestEvent::PoweredOff(PowerOffCause::Killed),
            Some(How::Exited(code)) => GuestEvent::PoweredOff(PowerOffCause::Exited(code)),
            Some(How::Signaled(libc::SIGINT)) => GuestEvent::PoweredOff(PowerOffCause::PoweredOff),
            Some(How::Signaled(libc::SIGHUP)) => GuestEvent::RebootRequested,
            Some(How::Signaled(signal)) => GuestEvent::PoweredOff(PowerOffCause::Signaled(signal)),
        };
        // The VM's actor may have let go of the guest.
        let _ = events.send(event);
    }

    /// Starts the end of the guest, without waiting for it.
    pub(super) fn begin_kill(&self) {
        if *self.gone.borrow() {
            return;
        }
        self.killed
            .store(true, std::sync::atomic::Ordering::Release);
        let (shared, number) = (self.shared.clone(), self.number);
        if let (Some(shared), Ok(runtime)) =
            (shared.upgrade(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                // Refused only when the helper is gone, and the guest with it.
                let _ = shared
                    .client
                    .call(Request::Kill { guest: number }, Vec::new())
                    .await;
            });
        }
    }

    /// Resolves when the guest and all that was made for it is gone.
    pub(super) async fn gone(&self) {
        let mut gone = self.gone.clone();
        // An error means that the watching task is gone, which ends last.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    fn shared(&self) -> Result<Arc<Shared>, EngineError> {
        if *self.gone.borrow() {
            return Err(EngineError::NotRunning);
        }
        self.shared.upgrade().ok_or(EngineError::NotRunning)
    }

    async fn attach(&self, disk: DiskSpec) -> Result<(), EngineError> {
        let shared = self.shared()?;
        let mut disks = self.disks.lock().await;
        if disks.contains_key(&disk.slot) {
            return Err(EngineError::InUse(format!("disk slot {}", disk.slot)));
        }
        let mut attached = attach_all(&shared, vec![disk]).await?;
        let Some((disk, attached)) = attached.pop() else {
            return Err(EngineError::NotRunning);
        };
        let described = attached.describe(&disk);
        let request = Request::AddDisk {
            guest: self.number,
            disk: described,
        };
        shared.client.call(request, Vec::new()).await?;
        disks.insert(disk.slot, attached);
        Ok(())
    }

    async fn detach(&self, slot: DiskSlot) -> Result<(), EngineError> {
        let shared = self.shared()?;
        let mut disks = self.disks.lock().await;
        let disk = disks
            .get(&slot)
            .ok_or_else(|| EngineError::NoSuchDevice(format!("disk {slot}")))?;
        if disk.is_mounted() {
            return Err(EngineError::InUse(format!("disk {slot}")));
        }
        let request = Request::RemoveDisk {
            guest: self.number,
            slot: (slot.bus, slot.unit),
        };
        shared.client.call(request, Vec::new()).await?;
        let Some(disk) = disks.remove(&slot) else {
            return Ok(());
        };
        let closed = tokio::task::spawn_blocking(move || disk.close()).await;
        closed.map_err(|e| EngineError::step("close the disk")(std::io::Error::other(e)))?
    }

    fn serial(&self, serial: SerialSpec) -> Result<(), EngineError> {
        let ports = lock(&self.serials);
        let missing = || EngineError::NoSuchDevice(format!("network serial port {}", serial.index));
        let port = ports.get(&serial.index).ok_or_else(missing)?;
        if matches!(serial.backing, SerialBacking::File(_)) {
            return Err(EngineError::InUse(format!("serial port {}", serial.index)));
        }
        port.send_if_modified(|old| {
            let changed = old.backing != serial.backing || old.connected != serial.connected;
            *old = serial;
            changed
        });
        Ok(())
    }

    async fn nic(&self, key: i32, connected: bool) -> Result<(), EngineError> {
        let shared = self.shared()?;
        let found = lock(&self.nics)
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, n)| n.clone());
        let missing = || EngineError::NoSuchDevice(format!("network adapter {key}"));
        let name = found.ok_or_else(missing)?;
        shared
            .network
            .set_link(name, connected)
            .await
            .map_err(EngineError::step("plug a network adapter"))
    }
}

async fn attach_all(
    shared: &Arc<Shared>,
    disks: Vec<DiskSpec>,
) -> Result<Vec<(DiskSpec, Attached)>, EngineError> {
    if disks.is_empty() {
        return Ok(Vec::new());
    }
    let view = shared.disks.clone();
    let attached = tokio::task::spawn_blocking(move || {
        disks
            .into_iter()
            .map(|disk| Attached::open(view.as_ref(), &disk).map(|attached| (disk, attached)))
            .collect()
    });
    attached
        .await
        .map_err(|e| EngineError::step("attach a disk")(std::io::Error::other(e)))?
}

async fn plan_nics(
    shared: &Arc<Shared>,
    number: u64,
    specs: &[NicSpec],
) -> Result<(Vec<Nic>, Vec<(i32, String)>), EngineError> {
    let (mut nics, mut outers) = (Vec::new(), Vec::new());
    for (index, spec) in specs.iter().enumerate() {
        let bridge = shared
            .network
            .port_group(&spec.network)
            .await
            .map_err(EngineError::step(format!(
                "make port group {:?}",
                spec.network
            )))?;
        // At most 15 bytes, unique for the life of the simulator's namespace.
        let outer = format!("v{number:x}.{index}");
        outers.push((spec.key, outer.clone()));
        nics.push(Nic {
            name: format!("eth{index}"),
            mac: spec.mac,
            outer,
            bridge: Some(bridge),
            connected: spec.connected,
        });
    }
    Ok((nics, outers))
}

fn plan_serials(serials: &[SerialSpec]) -> Result<Vec<(u32, Option<PathBuf>)>, EngineError> {
    serials
        .iter()
        .map(|serial| match &serial.backing {
            SerialBacking::File(path) => {
                std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(EngineError::step(format!("open {}", path.display())))?;
                Ok((serial.index, Some(path.clone())))
            }
            _ => Ok((serial.index, None)),
        })
        .collect()
}

impl Guest for Handle {
    fn attach_disk(&self, disk: DiskSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.0.attach(disk))
    }

    fn detach_disk(&self, slot: DiskSlot) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.0.detach(slot))
    }

    fn set_serial(&self, serial: SerialSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.0.serial(serial) })
    }

    fn set_nic_connected(
        &self,
        key: i32,
        connected: bool,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.0.nic(key, connected))
    }

    fn tclo(&self, command: String) -> BoxFuture<'_, Result<String, EngineError>> {
        Box::pin(self.0.tclo.ask(command))
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.begin_kill();
            self.0.gone().await;
        })
    }

    fn pid(&self) -> Option<i32> {
        Some(self.0.pid)
    }
}
