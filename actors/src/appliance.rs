//! The appliance: our own VM, and the disks that are hot-added to it.
//!
//! One reconfigure is in flight; what is asked meanwhile goes into the next one together. At the actor's start
//! every disk above the first slots that the VM was made with is let go. What a crash loses: leases; whoever holds
//! one fails at its next step and starts over.

use std::collections::BTreeMap;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tether_protocol::config::Slot;
use tokio::task::JoinSet;
use vmomi::types::{
    ParaVirtualSCSIController, VirtualDevice, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation, VirtualDeviceConfigSpecOperation, VirtualDisk,
    VirtualDiskFlatVer2BackingInfo, VirtualMachineConfigSpec,
};

use crate::context::Context;
use crate::error::Error;

/// A disk to be hot-added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its datastore path.
    pub path: String,
    /// The parent of a new child disk.
    pub parent: Option<String>,
    /// Capacity of a new disk in bytes; none: the disk is there already.
    pub create: Option<u64>,
}

/// What the appliance can be asked.
#[derive(Debug)]
pub enum Message {
    /// Hot-adds a disk; answers with its slot.
    Attach(Disk, RpcReplyPort<Result<Slot, Error>>),
    /// Removes a disk from its slot; the file stays. An empty slot is fine.
    Detach(Slot, RpcReplyPort<Result<(), Error>>),
    /// Gives the datastore path of the blank formatted disk of this size, made at its first use.
    Blank(u64, RpcReplyPort<Result<String, Error>>),
    /// Internal: a reconfigure ended.
    #[doc(hidden)]
    Reconfigured(Result<(), Error>),
    /// Internal: a blank disk is there, or not.
    #[doc(hidden)]
    BlankDone(u64, Result<String, Error>),
}

/// The appliance actor.
#[derive(Debug)]
pub struct Appliance;

#[derive(Debug)]
enum Change {
    Attach(Disk, Slot, RpcReplyPort<Result<Slot, Error>>),
    Detach(Slot, i32, RpcReplyPort<Result<(), Error>>),
}

/// The running actor.
#[derive(Debug)]
pub struct State {
    context: Context,
    controller: i32,
    /// Device key by unit; 0 while the disk is being added.
    units: BTreeMap<u8, i32>,
    queued: Vec<Change>,
    waiting: Vec<Change>,
    in_flight: Vec<Change>,
    blanks: BTreeMap<u64, String>,
    blank_waiting: BTreeMap<u64, Vec<RpcReplyPort<Result<String, Error>>>>,
    tasks: JoinSet<()>,
}

/// How long a hot-add may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// The blank formatted disk of this size.
///
/// # Errors
/// vSphere's.
pub async fn blank_disk(context: &Context, bytes: u64) -> Result<String, Error> {
    let asked = context
        .addresses()
        .appliance
        .ask(DEADLINE, |r| Message::Blank(bytes, r))
        .await;
    asked.map_err(|why| Error::failed_for_now("make a blank disk", &why))?
}

/// Hot-adds a disk to our own VM.
///
/// # Errors
/// vSphere's.
pub async fn attach(context: &Context, disk: Disk) -> Result<Slot, Error> {
    let asked = context
        .addresses()
        .appliance
        .ask(DEADLINE, |r| Message::Attach(disk, r))
        .await;
    asked.map_err(|why| Error::failed_for_now("attach a disk", &why))?
}

/// Removes a disk from our own VM.
///
/// # Errors
/// vSphere's.
pub async fn detach(context: &Context, slot: Slot) -> Result<(), Error> {
    let asked = context
        .addresses()
        .appliance
        .ask(DEADLINE, |r| Message::Detach(slot, r))
        .await;
    asked.map_err(|why| Error::failed_for_now("detach a disk", &why))?
}

impl Actor for Appliance {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            context,
            controller: 1000,
            units: BTreeMap::new(),
            queued: vec![],
            waiting: vec![],
            in_flight: vec![],
            blanks: BTreeMap::new(),
            blank_waiting: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        state.look_and_let_go().await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            Message::Attach(disk, reply) => match state.free_unit() {
                Some(unit) => {
                    state.units.insert(unit, 0);
                    state
                        .queued
                        .push(Change::Attach(disk, Slot { bus: 0, unit }, reply));
                }
                // All slots are leased: wait for one to come back.
                None => state
                    .waiting
                    .push(Change::Attach(disk, Slot { bus: 0, unit: 0 }, reply)),
            },
            Message::Detach(slot, reply) => match state.units.get(&slot.unit) {
                Some(key) => state.queued.push(Change::Detach(slot, *key, reply)),
                None => {
                    let _ = reply.send(Ok(()));
                }
            },
            Message::Blank(bytes, reply) => state.blank(&myself, bytes, reply),
            Message::Reconfigured(result) => state.reconfigured(result).await?,
            Message::BlankDone(bytes, result) => {
                if let Ok(path) = &result {
                    state.blanks.insert(bytes, path.clone());
                }
                for reply in state.blank_waiting.remove(&bytes).unwrap_or_default() {
                    let _ = reply.send(result.clone());
                }
            }
        }
        state.pump(&myself);
        Ok(())
    }
}

impl State {
    /// Our own VM's disks; unknown ones are detached. Units in use at boot are none of ours to give.
    async fn look_and_let_go(&mut self) -> Result<(), Error> {
        let Some(vm) = self.context.settings().own_vm.clone() else {
            return Ok(());
        };
        let client = self.context.vsphere().client().await?;
        let devices: Vec<vmomi::Poly<VirtualDevice>> = client
            .property(&vm, "config.hardware.device")
            .await
            .map_err(|why| Error::failed("read the appliance's devices", &why))?
            .unwrap_or_default();
        if let Some(c) = devices
            .iter()
            .find_map(|d| d.get::<ParaVirtualSCSIController>())
        {
            self.controller = c.key;
        }
        let mut removals = Vec::new();
        let ours = [
            format!("{}/", self.context.settings().image_folder),
            self.context
                .settings()
                .volume_store
                .as_ref()
                .map(|(_, folder)| format!("{folder}/"))
                .unwrap_or_else(|| "\0".into()),
        ];
        for disk in devices.iter().filter_map(|d| d.get::<VirtualDisk>()) {
            let unit = disk
                .unit_number
                .and_then(|u| u8::try_from(u).ok())
                .unwrap_or_default();
            let path = backing_path(disk);
            if ours.iter().any(|folder| path.contains(folder.as_str())) {
                self.context
                    .disks()
                    .unmount(Slot { bus: 0, unit })
                    .await
                    .ok();
                removals.push(remove(disk.key));
            } else {
                self.units.insert(unit, disk.key);
            }
        }
        if !removals.is_empty() {
            let spec = VirtualMachineConfigSpec {
                device_change: removals,
                ..Default::default()
            };
            self.context.vsphere().reconfigure(&vm.value, spec).await?;
        }
        Ok(())
    }

    fn free_unit(&self) -> Option<u8> {
        // 7 is the controller's own.
        (1..16)
            .filter(|u| *u != 7)
            .find(|u| !self.units.contains_key(u))
    }

    /// Sends what is queued as one reconfigure, unless one is in flight.
    fn pump(&mut self, myself: &ActorRef<Message>) {
        while let Some(unit) = self.free_unit() {
            let Some(Change::Attach(disk, _, reply)) = self.waiting.pop() else {
                break;
            };
            self.units.insert(unit, 0);
            self.queued
                .push(Change::Attach(disk, Slot { bus: 0, unit }, reply));
        }
        if !self.in_flight.is_empty() || self.queued.is_empty() {
            return;
        }
        self.in_flight = std::mem::take(&mut self.queued);
        // Removals first: the slots they free are not the ones that are filled.
        self.in_flight
            .sort_by_key(|c| matches!(c, Change::Attach(..)));
        let device_change = self
            .in_flight
            .iter()
            .map(|change| match change {
                Change::Attach(disk, slot, _) => add(disk, *slot, self.controller),
                Change::Detach(_, key, _) => remove(*key),
            })
            .collect();
        let spec = VirtualMachineConfigSpec {
            device_change,
            ..Default::default()
        };
        let (context, me) = (self.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let result = match &context.settings().own_vm {
                Some(vm) => context.vsphere().reconfigure(&vm.value, spec).await,
                None => Err(Error::internal(
                    "attach a disk",
                    "this program runs in no VM",
                )),
            };
            let _ = me.send_message(Message::Reconfigured(result));
        });
    }

    async fn reconfigured(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        let changes = std::mem::take(&mut self.in_flight);
        let keys = match &result {
            Ok(()) => self.disk_keys().await?,
            Err(_) => BTreeMap::new(),
        };
        for change in changes {
            match change {
                Change::Attach(_, slot, reply) => {
                    match (&result, keys.get(&slot.unit)) {
                        (Ok(()), Some(key)) => self.units.insert(slot.unit, *key),
                        _ => self.units.remove(&slot.unit),
                    };
                    let _ = reply.send(result.clone().map(|()| slot));
                }
                Change::Detach(slot, _, reply) => {
                    if result.is_ok() {
                        self.units.remove(&slot.unit);
                    }
                    let _ = reply.send(result.clone());
                }
            }
        }
        Ok(())
    }

    async fn disk_keys(&self) -> Result<BTreeMap<u8, i32>, Error> {
        let Some(vm) = &self.context.settings().own_vm else {
            return Ok(BTreeMap::new());
        };
        let client = self.context.vsphere().client().await?;
        let devices: Vec<vmomi::Poly<VirtualDevice>> = client
            .property(vm, "config.hardware.device")
            .await
            .map_err(|why| Error::failed("read the appliance's devices", &why))?
            .unwrap_or_default();
        Ok(devices
            .iter()
            .filter_map(|d| d.get::<VirtualDisk>())
            .filter_map(|d| Some((u8::try_from(d.unit_number?).ok()?, d.key)))
            .collect())
    }

    fn blank(
        &mut self,
        myself: &ActorRef<Message>,
        bytes: u64,
        reply: RpcReplyPort<Result<String, Error>>,
    ) {
        if let Some(path) = self.blanks.get(&bytes) {
            let _ = reply.send(Ok(path.clone()));
            return;
        }
        let waiting = self.blank_waiting.entry(bytes).or_default();
        waiting.push(reply);
        if waiting.len() > 1 {
            return;
        }
        let (context, me) = (self.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let result = make_blank(&context, bytes).await;
            let _ = me.send_message(Message::BlankDone(bytes, result));
        });
    }
}

/// Makes the blank disk of a size, unless its marker says that it is there.
async fn make_blank(context: &Context, bytes: u64) -> Result<String, Error> {
    let settings = context.settings();
    let path = settings.image_path(&format!("scratch/scratch-{bytes}.vmdk"));
    let marker = settings.image_path(&format!("scratch/scratch-{bytes}.json"));
    let vsphere = context.vsphere();
    if vsphere.read_file(&marker).await?.is_some() {
        return Ok(path);
    }
    vsphere
        .make_directory(&settings.image_path("scratch"))
        .await?;
    vsphere.delete_disk(&path).await?;
    let disk = Disk {
        path: path.clone(),
        parent: None,
        create: Some(bytes),
    };
    let slot = attach(context, disk).await?;
    let formatted = context.disks().format(slot).await;
    let detached = detach(context, slot).await;
    formatted.map_err(|why| Error::failed("format a disk", &why))?;
    detached?;
    vsphere
        .write_file(&marker, bytes::Bytes::from_static(b"{}"))
        .await?;
    Ok(path)
}

fn backing_path(disk: &VirtualDisk) -> String {
    disk.backing
        .as_ref()
        .and_then(|b| b.get::<VirtualDiskFlatVer2BackingInfo>())
        .map(|b| b.file_name.clone())
        .unwrap_or_default()
}

fn add(disk: &Disk, slot: Slot, controller: i32) -> vmomi::Poly<VirtualDeviceConfigSpec> {
    let backing = VirtualDiskFlatVer2BackingInfo {
        file_name: disk.path.clone(),
        disk_mode: "independent_persistent".into(),
        thin_provisioned: Some(true),
        parent: disk.parent.as_ref().map(|parent| {
            VirtualDiskFlatVer2BackingInfo {
                file_name: parent.clone(),
                disk_mode: "persistent".into(),
                ..Default::default()
            }
            .into()
        }),
        ..Default::default()
    };
    VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        file_operation: disk
            .create
            .map(|_| VirtualDeviceConfigSpecFileOperation::Create),
        device: VirtualDisk {
            key: -1 - i32::from(slot.unit),
            controller_key: Some(controller),
            unit_number: Some(i32::from(slot.unit)),
            capacity_in_kb: i64::try_from(disk.create.unwrap_or_default() / 1024)
                .unwrap_or(i64::MAX),
            backing: Some(backing.into()),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
    .into()
}

fn remove(key: i32) -> vmomi::Poly<VirtualDeviceConfigSpec> {
    VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Remove),
        device: VirtualDisk {
            key,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
    .into()
}
