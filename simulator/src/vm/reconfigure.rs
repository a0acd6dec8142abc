//! Changes of the configuration: of a VM that is made, that is off, or that runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use vmomi::types::{
    VirtualDeviceConfigSpec, VirtualDeviceConfigSpecFileOperation as FileOp,
    VirtualDeviceConfigSpecOperation as Op, VirtualMachineConfigSpec, VmReconfiguredEvent,
};

use super::devices::{self, Fields, Kind};
use super::power::{engine_fault, serial};
use super::record::SECRET;
use super::{Record, State, file};
use crate::clock::now;
use crate::engine::{DiskSlot, Guest};
use crate::event::Place;
use crate::fault::{Fault, Outcome};
use crate::task::Task;
use crate::world::World;

mod backing;

use backing::{disk, disk_spec, file_backing, grow, nic};

/// What to take back when a later change of the same call fails.
enum Undo {
    Attached(DiskSlot),
    Created(PathBuf),
}

impl State {
    pub(super) async fn reconfigure(&mut self, spec: VirtualMachineConfigSpec, task: Task) {
        let before = self.record.clone();
        let result = match task.check() {
            Ok(()) => self.change(spec).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = result {
            self.record = before;
            return task.end(Err(fault));
        }
        file::save(&self.world, &self.record);
        let world = self.world.clone();
        let renamed = before.name() != self.record.name();
        let devices_changed = before.config.hardware.device != self.record.config.hardware.device;
        world.inventory.commit(|t| {
            if renamed || devices_changed {
                self.record.publish(&world, t);
            } else {
                self.record.publish_config(t);
                self.record.publish_state(t, None);
            }
            let name = self.record.name().to_owned();
            let place = Place::of(&world, t.snapshot(), &self.record.moref, &name);
            let event = VmReconfiguredEvent::default();
            let message = format!("Reconfigured {name}");
            world.events.post(&world, t, place, event.into(), message);
            task.end_in(t, Ok(None));
        });
    }

    async fn change(&mut self, spec: VirtualMachineConfigSpec) -> Outcome<()> {
        let stale = spec.change_version.as_deref().filter(|v| !v.is_empty());
        if stale.is_some_and(|v| v != self.record.config.change_version) {
            return Err(Fault::plain("ConcurrentAccess"));
        }
        if let Some(name) = &spec.name
            && name != self.record.name()
        {
            super::create::check_name(&self.world, &self.record.folder, name)?;
        }
        let named = spec.name.clone().filter(|n| !n.is_empty());
        let extra: Vec<_> = spec.extra_config.clone();
        apply(&self.world, &mut self.record, spec, self.guest.as_ref()).await?;
        for option in extra {
            if option.key.starts_with("guestinfo.") || option.key.eq_ignore_ascii_case(SECRET) {
                let text = option
                    .value
                    .as_ref()
                    .and_then(super::record::text)
                    .unwrap_or_default();
                self.guestinfo.set(&option.key, &text);
            }
        }
        if let Some(name) = named {
            let folder = &self.record.folder.value;
            self.world
                .names
                .reserve(folder, &name, &self.record.moref)?
                .keep();
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, name: String, task: Task) {
        let folder = self.record.folder.clone();
        let result = task
            .check()
            .and_then(|()| super::create::check_name(&self.world, &folder, &name))
            .and_then(|()| {
                self.world
                    .names
                    .reserve(&folder.value, &name, &self.record.moref)
            })
            .map(crate::names::Reserved::keep);
        if let Err(fault) = result {
            return task.end(Err(fault));
        }
        let old = std::mem::replace(&mut self.record.config.name, name.clone());
        touch(&mut self.record);
        file::save(&self.world, &self.record);
        let world = self.world.clone();
        world.inventory.commit(|t| {
            self.record.publish(&world, t);
            let place = Place::of(&world, t.snapshot(), &self.record.moref, &name);
            let event = vmomi::types::VmRenamedEvent {
                old_name: old.clone(),
                new_name: name.clone(),
                ..Default::default()
            };
            let message = format!("Renamed {old} to {name}");
            world.events.post(&world, t, place, event.into(), message);
            task.end_in(t, Ok(None));
        });
    }
}

/// Marks a configuration as changed.
fn touch(record: &mut Record) {
    let mut moment = now();
    // Two changes within the clock's grain must not have one version.
    while moment.to_string() == record.config.change_version {
        moment.0 += std::time::Duration::from_nanos(1);
    }
    record.config.change_version = moment.to_string();
    record.config.modified = moment;
}

/// Applies a specification to a record and, when the VM runs, to its guest. On a fault the files
/// and the guest are as they were; the record is the caller's to restore.
pub(super) async fn apply(
    world: &Arc<World>,
    record: &mut Record,
    spec: VirtualMachineConfigSpec,
    guest: Option<&Arc<dyn Guest>>,
) -> Outcome<()> {
    let changes = spec.device_change.clone();
    settings(record, spec, guest.is_some())?;
    let mut undo = Vec::new();
    let mut keys = HashMap::new();
    let mut failed = None;
    for (index, change) in changes.into_iter().enumerate() {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let Ok(change) = change.into_data().downcast::<VirtualDeviceConfigSpec>() else {
            failed = Some(Fault::invalid_device("deviceChange", index));
            break;
        };
        let done = change_device(world, record, guest, change, index, &mut keys, &mut undo).await;
        if let Err(fault) = done {
            failed = Some(fault);
            break;
        }
    }
    let Some(fault) = failed else {
        devices::relist(&mut record.config.hardware.device);
        touch(record);
        return Ok(());
    };
    for step in undo.into_iter().rev() {
        match step {
            Undo::Attached(slot) => {
                if let Some(guest) = guest
                    && let Err(error) = guest.detach_disk(slot).await
                {
                    tracing::warn!(%slot, %error, "cannot take a disk back");
                }
            }
            Undo::Created(path) => {
                let removed = blocking(move || {
                    crate::vmdk::delete(&path)
                        .map_err(|e| file::disk_fault(&path.to_string_lossy(), &e))
                });
                if let Err(fault) = removed.await {
                    tracing::warn!(why = fault.message, "cannot remove a disk");
                }
            }
        }
    }
    Err(fault)
}

/// Runs what touches files off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Fault::system(format!("the work broke off: {e}"))))
}

fn settings(record: &mut Record, spec: VirtualMachineConfigSpec, on: bool) -> Outcome<()> {
    let config = &mut record.config;
    if let Some(cpus) = spec.num_cpus {
        if on && cpus != config.hardware.num_cpu {
            return Err(Fault::plain("InvalidPowerState"));
        }
        if !(1..=768).contains(&cpus) {
            return Err(Fault::invalid_argument("configSpec.numCPUs"));
        }
        config.hardware.num_cpu = cpus;
    }
    if let Some(mb) = spec.memory_mb {
        let mb = i32::try_from(mb).ok().filter(|mb| *mb >= 4);
        let mb = mb.ok_or_else(|| Fault::invalid_argument("configSpec.memoryMB"))?;
        if on && mb != config.hardware.memory_mb {
            return Err(Fault::plain("InvalidPowerState"));
        }
        config.hardware.memory_mb = mb;
    }
    if let Some(name) = spec.name.filter(|n| !n.is_empty()) {
        config.name = name;
    }
    if let Some(id) = spec.guest_id {
        config.guest_full_name = if id == "otherGuest64" {
            "Other (64-bit)".into()
        } else {
            id.clone()
        };
        config.guest_id = id;
    }
    macro_rules! take {
        ($($from:ident => $to:ident),*) => {
            $(if let Some(value) = spec.$from { config.$to = value; })*
        };
    }
    macro_rules! keep {
        ($($field:ident),*) => {
            $(if spec.$field.is_some() { config.$field = spec.$field; })*
        };
    }
    take!(version => version, uuid => uuid, alternate_guest_name => alternate_guest_name,
        flags => flags, power_op_info => default_power_ops);
    keep!(
        instance_uuid,
        annotation,
        location_id,
        cpu_hot_add_enabled,
        memory_hot_add_enabled,
        cpu_hot_remove_enabled,
        boot_options,
        firmware,
        managed_by,
        swap_placement,
        tools,
        cpu_affinity,
        memory_affinity,
        console_preferences,
        latency_sensitivity,
        nested_hv_enabled,
        change_tracking_enabled,
        guest_auto_lock_enabled,
        max_mks_connections,
        message_bus_tunnel_enabled,
        memory_reservation_locked_to_max
    );
    if let Some(cores) = spec.num_cores_per_socket {
        config.hardware.num_cores_per_socket = Some(cores);
    }
    merge(&mut config.cpu_allocation, spec.cpu_allocation);
    merge(&mut config.memory_allocation, spec.memory_allocation);
    for option in spec.extra_config {
        record.set_extra(&option.key, option.value.unwrap_or_default());
    }
    Ok(())
}

fn merge(
    known: &mut Option<vmomi::types::ResourceAllocationInfo>,
    new: Option<vmomi::types::ResourceAllocationInfo>,
) {
    let Some(new) = new else { return };
    let known = known.get_or_insert_default();
    macro_rules! keep {
        ($($field:ident),*) => { $(if new.$field.is_some() { known.$field = new.$field; })* };
    }
    keep!(reservation, expandable_reservation, limit, shares);
}

async fn change_device(
    world: &Arc<World>,
    record: &mut Record,
    guest: Option<&Arc<dyn Guest>>,
    change: VirtualDeviceConfigSpec,
    index: i32,
    keys: &mut HashMap<i32, i32>,
    undo: &mut Vec<Undo>,
) -> Outcome<()> {
    match change.operation {
        Some(Op::Add) => add(world, record, guest, change, index, keys, undo).await,
        Some(Op::Remove) => remove(world, record, guest, change, index).await,
        Some(Op::Edit) | None => edit(world, record, guest, change, index).await,
        Some(Op::Unknown(_)) => Err(Fault::invalid_device("deviceChange.operation", index)),
    }
}

async fn add(
    world: &Arc<World>,
    record: &mut Record,
    guest: Option<&Arc<dyn Guest>>,
    change: VirtualDeviceConfigSpec,
    index: i32,
    keys: &mut HashMap<i32, i32>,
    undo: &mut Vec<Undo>,
) -> Outcome<()> {
    let mut device = change.device;
    let asked = *device.key();
    if let Some(key) = device.controller_key().and_then(|k| keys.get(&k).copied()) {
        *device.controller_key_mut() = Some(key);
    }
    // Every VM has these already.
    let present = match device.type_name() {
        "VirtualIDEController" => Some(200 + device.field_i32("busNumber").unwrap_or(0)),
        "VirtualPS2Controller" => Some(300),
        "VirtualPCIController" => Some(devices::PCI),
        "VirtualSIOController" => Some(devices::SIO),
        "VirtualKeyboard" => Some(600),
        "VirtualPointingDevice" => Some(700),
        "VirtualMachineVideoCard" => Some(500),
        "VirtualMachineVMCIDevice" => Some(12000),
        _ => None,
    };
    if let Some(key) = present
        && record
            .config
            .hardware
            .device
            .iter()
            .any(|d| *d.key() == key)
    {
        keys.insert(asked, key);
        return Ok(());
    }
    let kind = devices::kind(&device);
    if guest.is_some() && !matches!(kind, Kind::Disk) {
        return Err(Fault::new(
            vmomi::types::DeviceHotPlugNotSupported::default(),
            "This device cannot be added while the virtual machine is on.",
        ));
    }
    devices::place(&record.config.hardware.device, &mut device, index)?;
    match kind {
        Kind::Disk => {
            let path = disk(world, record, &mut device, change.file_operation, index).await?;
            if let Some(created) = path {
                undo.push(Undo::Created(created));
            }
            if let Some(guest) = guest {
                let spec = disk_spec(world, record, &device)?;
                let slot = spec.slot;
                guest
                    .attach_disk(spec)
                    .await
                    .map_err(|e| engine_fault(&e))?;
                undo.push(Undo::Attached(slot));
            }
        }
        Kind::Nic => nic(world, &mut device, index)?,
        Kind::Serial | Kind::Cdrom => file_backing(world, record, &mut device),
        _ => {}
    }
    keys.insert(asked, *device.key());
    record.config.hardware.device.push(device);
    Ok(())
}

async fn remove(
    world: &Arc<World>,
    record: &mut Record,
    guest: Option<&Arc<dyn Guest>>,
    change: VirtualDeviceConfigSpec,
    index: i32,
) -> Outcome<()> {
    let key = *change.device.key();
    let list = &record.config.hardware.device;
    let at = list
        .iter()
        .position(|d| *d.key() == key)
        .ok_or_else(|| Fault::invalid_device("deviceChange.device.key", index))?;
    let device = list[at].clone();
    let kind = devices::kind(&device);
    if matches!(kind, Kind::Scsi | Kind::Controller)
        && list.iter().any(|d| *d.controller_key() == Some(key))
    {
        return Err(Fault::in_use(&format!("device {key}")));
    }
    if kind == Kind::Disk {
        let spec = disk_spec(world, record, &device)?;
        if let Some(guest) = guest {
            guest
                .detach_disk(spec.slot)
                .await
                .map_err(|e| engine_fault(&e))?;
        }
        if matches!(change.file_operation, Some(FileOp::Destroy)) {
            blocking(move || {
                crate::vmdk::delete(&spec.vmdk)
                    .map_err(|e| file::disk_fault(&spec.vmdk.to_string_lossy(), &e))
            })
            .await?;
        }
    }
    record.config.hardware.device.remove(at);
    Ok(())
}

async fn edit(
    world: &Arc<World>,
    record: &mut Record,
    guest: Option<&Arc<dyn Guest>>,
    change: VirtualDeviceConfigSpec,
    index: i32,
) -> Outcome<()> {
    let mut device = change.device;
    let key = *device.key();
    let at = record
        .config
        .hardware
        .device
        .iter()
        .position(|d| *d.key() == key)
        .ok_or_else(|| Fault::invalid_device("deviceChange.device.key", index))?;
    let old = record.config.hardware.device[at].clone();
    if old.type_name() != device.type_name() {
        return Err(Fault::invalid_device("deviceChange.device", index));
    }
    // What an edit leaves out stays as it is.
    let count = device.data().info().fields.len();
    for i in 0..count {
        let unset = device.data().field(i).is_some_and(|f| f.absent());
        let before = old
            .data()
            .field(i)
            .and_then(|f| if f.absent() { None } else { f.to_any() });
        if let (true, Some(before), Some(field)) = (unset, before, device.data_mut().field_mut(i)) {
            let _ = field.set(Some(before));
        }
    }
    match devices::kind(&device) {
        Kind::Disk => grow(world, &old, &mut device, guest.is_some(), index).await?,
        Kind::Nic => nic(world, &mut device, index)?,
        Kind::Serial | Kind::Cdrom => file_backing(world, record, &mut device),
        _ => {}
    }
    if let Some(guest) = guest {
        match devices::kind(&device) {
            Kind::Nic => {
                let connected = device.connectable().as_ref().is_none_or(|c| c.connected);
                let before = old.connectable().as_ref().is_none_or(|c| c.connected);
                if connected != before {
                    guest
                        .set_nic_connected(key, connected)
                        .await
                        .map_err(|e| engine_fault(&e))?;
                }
            }
            Kind::Serial => {
                let spec = serial(world, record, &device)?;
                guest.set_serial(spec).await.map_err(|e| engine_fault(&e))?;
            }
            _ => {}
        }
    }
    record.config.hardware.device[at] = device;
    Ok(())
}
