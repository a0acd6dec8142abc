//! What is behind a device: the file of a disk or a drive, the network of an adapter.

use std::path::PathBuf;
use std::sync::Arc;

use vmomi::Poly;
use vmomi::types::{
    VirtualDevice, VirtualDeviceConfigSpecFileOperation as FileOp, VirtualDisk,
    VirtualDiskFlatVer2BackingInfo,
};

use super::blocking;
use crate::engine::{DiskSlot, DiskSpec};
use crate::fault::{Fault, Outcome};
use crate::vm::devices::{self, Fields};
use crate::vm::{Record, file};
use crate::world::World;

pub(super) fn disk_spec(
    world: &World,
    record: &Record,
    device: &Poly<VirtualDevice>,
) -> Outcome<DiskSpec> {
    let disk = device.get::<VirtualDisk>();
    let file = device
        .backing()
        .as_ref()
        .and_then(devices::file_of)
        .unwrap_or_default();
    let controller = device.controller_key().unwrap_or(devices::SCSI);
    Ok(DiskSpec {
        slot: DiskSlot {
            bus: devices::bus(&record.config.hardware.device, controller).unwrap_or(0),
            unit: device.unit_number().unwrap_or(0),
        },
        vmdk: world.real(file)?,
        read_only: disk.is_some_and(|d| d.guest_read_only == Some(true)),
    })
}

/// Makes or finds the file of a new disk; returns the file when it was made.
pub(super) async fn disk(
    world: &Arc<World>,
    record: &Record,
    device: &mut Poly<VirtualDevice>,
    operation: Option<FileOp>,
    index: i32,
) -> Outcome<Option<PathBuf>> {
    let wrong = |property: &str| Fault::invalid_device(property, index);
    let key = *device.key();
    let disk = device
        .get_mut::<VirtualDisk>()
        .ok_or_else(|| wrong("deviceChange.device"))?;
    let backing = disk
        .backing
        .as_ref()
        .and_then(|b| b.get::<VirtualDiskFlatVer2BackingInfo>())
        .cloned()
        .ok_or_else(|| wrong("deviceChange.device.backing"))?;
    let create = matches!(operation, Some(FileOp::Create | FileOp::Replace));
    let home = record.vmx.parent();
    let name = backing.file_name.trim();
    let path = if name.is_empty() || name.ends_with(']') {
        let stem = record.vmx.file_name().trim_end_matches(".vmx");
        let unit = key - 2000;
        let suffix = if unit == 0 {
            String::new()
        } else {
            format!("_{unit}")
        };
        home.join(&format!("{stem}{suffix}.vmdk"))
    } else if name.starts_with('[') {
        world.path(name)?
    } else {
        home.join(name)
    };
    let parent = match backing.parent.as_ref().map(|p| p.file_name().clone()) {
        Some(parent) if create && !parent.is_empty() => Some(world.real(&parent)?),
        _ => None,
    };
    let bytes = match disk.capacity_in_bytes {
        Some(bytes) if bytes > 0 => bytes,
        _ => disk.capacity_in_kb << 10,
    };
    let bytes = u64::try_from(bytes).map_err(|_| wrong("deviceChange.device.capacityInKB"))?;
    let (real, shown) = (world.locate(&path)?, path.to_string());
    let (made, label) = (real.clone(), shown.clone());
    let info = blocking(move || {
        if create {
            if let Some(dir) = made.parent() {
                std::fs::create_dir_all(dir).map_err(|e| Fault::io(&label, &e))?;
            }
            match parent {
                Some(parent) => {
                    crate::vmdk::create_child(&made, &parent, (bytes > 0).then_some(bytes))
                }
                None if bytes == 0 => {
                    return Err(Fault::invalid_device(
                        "deviceChange.device.capacityInKB",
                        index,
                    ));
                }
                None => crate::vmdk::create_flat(&made, bytes),
            }
            .map_err(|e| file::disk_fault(&label, &e))
        } else {
            crate::vmdk::inspect(&made).map_err(|e| file::disk_fault(&label, &e))
        }
    })
    .await?;
    disk.capacity_in_kb = i64::try_from(info.capacity >> 10).unwrap_or(i64::MAX);
    disk.capacity_in_bytes = i64::try_from(info.capacity).ok();
    let mode = if backing.disk_mode.is_empty() {
        "persistent"
    } else {
        &backing.disk_mode
    };
    let mut shown_backing = file::backing(world, &path, &info);
    shown_backing.disk_mode = mode.to_owned();
    disk.backing = Some(shown_backing.into());
    if let Some(info) = disk.device_info.as_mut() {
        info.summary = format!("{} KB", disk.capacity_in_kb);
    }
    Ok(create.then_some(real))
}

/// Gives an adapter its address, and finds its network.
pub(super) fn nic(world: &World, device: &mut Poly<VirtualDevice>, index: i32) -> Outcome<()> {
    use vmomi::types::VirtualEthernetCardNetworkBackingInfo as Standard;
    let manual = device
        .field_str("addressType")
        .is_some_and(|t| t.eq_ignore_ascii_case("manual"));
    if !manual || device.field_str("macAddress").is_none_or(str::is_empty) {
        let kind = if world.is_vc() {
            "assigned"
        } else {
            "generated"
        };
        set_text(device, "addressType", kind);
        set_text(device, "macAddress", &world.new_mac());
    }
    let snapshot = world.inventory.now();
    if let Some(backing) = device.backing_mut().as_mut()
        && let Some(standard) = backing.get_mut::<Standard>()
    {
        let mut found = None;
        snapshot.objects.for_each(&mut |_, o| {
            let by_ref = standard
                .network
                .as_ref()
                .is_some_and(|n| n.value == o.moref.value);
            let by_name = o.moref.r#type == "Network"
                && o.text("name") == Some(standard.device_name.as_str());
            if by_ref || (by_name && found.is_none()) {
                found = Some((
                    o.moref.clone(),
                    o.text("name").unwrap_or_default().to_owned(),
                ));
            }
        });
        let (moref, name) =
            found.ok_or_else(|| Fault::invalid_device("deviceChange.device.backing", index))?;
        standard.network = Some(moref);
        standard.device_name = name;
        standard.use_auto_detect.get_or_insert(false);
    }
    let summary = devices::summary(device);
    if let Some(info) = device.device_info_mut() {
        info.summary = summary;
    }
    if device.field_str("addressType").is_none() {
        set_text(device, "addressType", "manual");
    }
    if let Some(field) = device.data_mut().named_mut("wakeOnLanEnabled")
        && field.absent()
    {
        // Every adapter has this field.
        let _ = field.set(Some(true.into()));
    }
    Ok(())
}

fn set_text(device: &mut Poly<VirtualDevice>, name: &str, value: &str) {
    if let Some(field) = device.data_mut().named_mut(name) {
        // The fields that are set here hold strings.
        let _ = field.set(Some(value.into()));
    }
}

/// Brings the file name of a drive or a port into its full form.
pub(super) fn file_backing(world: &World, record: &Record, device: &mut Poly<VirtualDevice>) {
    let Some(backing) = device.backing_mut().as_mut() else {
        return;
    };
    let Some(name) = devices::file_of(backing).map(str::to_owned) else {
        return;
    };
    let path = if name.starts_with('[') {
        match world.path(&name) {
            Ok(path) => path,
            Err(_) => return,
        }
    } else {
        record.vmx.parent().join(&name)
    };
    let store = world.datastores.get(&path.datastore);
    let data = backing.data_mut();
    if let Some(field) = data.named_mut("fileName") {
        // It holds a string: that is where the name came from.
        let _ = field.set(Some(path.to_string().into()));
    }
    if let (Some(field), Some(store)) = (data.named_mut("datastore"), store) {
        let moref = vmomi::ManagedObjectReference::new("Datastore", &store.moid);
        let _ = field.set(Some(moref.into()));
    }
    let summary = devices::summary(device);
    if let Some(info) = device.device_info_mut() {
        info.summary = summary;
    }
}

/// Makes a disk larger when the edit asks for it.
pub(super) async fn grow(
    world: &Arc<World>,
    old: &Poly<VirtualDevice>,
    device: &mut Poly<VirtualDevice>,
    on: bool,
    index: i32,
) -> Outcome<()> {
    let before = old.get::<VirtualDisk>().map_or(0, |d| d.capacity_in_kb);
    let Some(disk) = device.get_mut::<VirtualDisk>() else {
        return Ok(());
    };
    let wanted = disk.capacity_in_kb;
    if wanted <= before {
        disk.capacity_in_kb = before;
        return Ok(());
    }
    if on {
        return Err(Fault::invalid_device(
            "deviceChange.device.capacityInKB",
            index,
        ));
    }
    let file = disk
        .backing
        .as_ref()
        .and_then(devices::file_of)
        .unwrap_or_default()
        .to_owned();
    let real = world.real(&file)?;
    let bytes = u64::try_from(wanted).unwrap_or(0) << 10;
    disk.capacity_in_bytes = i64::try_from(bytes).ok();
    blocking(move || {
        crate::vmdk::extend(&real, bytes)
            .map(drop)
            .map_err(|e| file::disk_fault(&file, &e))
    })
    .await
}
