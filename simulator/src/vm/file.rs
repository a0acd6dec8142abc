//! The `.vmx` file of a VM: written at each change, read when the VM is registered.

use std::path::Path;

use vmomi::types::{
    ParaVirtualSCSIController, VirtualBusLogicController, VirtualCdrom, VirtualCdromIsoBackingInfo,
    VirtualDevice, VirtualDeviceConnectInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo,
    VirtualE1000, VirtualEthernetCardDistributedVirtualPortBackingInfo,
    VirtualEthernetCardNetworkBackingInfo, VirtualLsiLogicController, VirtualLsiLogicSASController,
    VirtualSCSISharing, VirtualSerialPort, VirtualSerialPortFileBackingInfo,
    VirtualSerialPortURIBackingInfo, VirtualVmxnet3,
};
use vmomi::{Any, ManagedObjectReference as Moref, Poly};

use super::devices::{self, Fields, Kind, label};
use super::record::{self, Home, Record, SECRET};
use crate::datastore::DatastorePath;
use crate::fault::{Fault, Outcome};
use crate::state::replace;
use crate::vmdk;
use crate::vmx::Vmx;
use crate::world::World;

/// Prefixes of the keys that are devices, not `extraConfig`.
const DEVICES: [&str; 8] = [
    "scsi",
    "ide",
    "sata",
    "ethernet",
    "serial",
    "floppy",
    "pciBridge",
    "usb",
];

/// What a disk's error is to a client.
pub(crate) fn disk_fault(file: &str, error: &vmdk::Error) -> Fault {
    match error {
        vmdk::Error::Locked { .. } => {
            let fault = vmomi::types::FileLocked {
                file: file.into(),
                ..Default::default()
            };
            Fault::new(
                fault,
                format!("Unable to access file {file} since it is locked"),
            )
        }
        vmdk::Error::AlreadyExists { .. } => Fault::file_exists(file),
        vmdk::Error::NotFound { .. } => Fault::file_not_found(file),
        other => Fault::file(file, super::power::chain(other)),
    }
}

/// A disk's backing with all its parents, as the files say.
pub(crate) fn backing(
    world: &World,
    path: &DatastorePath,
    info: &vmdk::Info,
) -> VirtualDiskFlatVer2BackingInfo {
    let mut chain = vec![(path.to_string(), info.uuid.clone(), info.cid)];
    let mut parent = info.parent.clone();
    while let Some(file) = parent.take() {
        let Ok(info) = vmdk::inspect(&file) else {
            break;
        };
        let Some(shown) = world.display(&file) else {
            break;
        };
        chain.push((shown.to_string(), info.uuid.clone(), info.cid));
        parent = info.parent;
        if chain.len() > 512 {
            break;
        }
    }
    let mut made: Option<VirtualDiskFlatVer2BackingInfo> = None;
    for (file, uuid, cid) in chain.into_iter().rev() {
        let mut next = record::backing(file.clone(), made.take());
        next.uuid = Some(uuid.to_string());
        next.content_id = Some(format!("{cid:08x}"));
        next.datastore = file
            .parse::<DatastorePath>()
            .ok()
            .and_then(|p| world.datastores.get(&p.datastore))
            .map(|store| Moref::new("Datastore", &store.moid));
        made = Some(next);
    }
    made.unwrap_or_default()
}

/// Writes the file; what goes wrong is logged, since the VM itself is as it was asked to be.
pub(super) fn save(world: &World, record: &Record) {
    if let Err(fault) = try_save(world, record) {
        tracing::error!(
            vm = record.name(),
            why = fault.message,
            "cannot write the .vmx file"
        );
    }
}

/// Writes the file.
pub(super) fn try_save(world: &World, record: &Record) -> Outcome<()> {
    let real = world.locate(&record.vmx)?;
    replace(&real, write(record).to_text().as_bytes(), 0o600)
        .map_err(|e| Fault::io(&record.vmx, &e))
}

fn write(record: &Record) -> Vmx {
    let mut vmx = Vmx::default();
    let config = &record.config;
    for (key, value) in &record.extra {
        if let Some(text) = record::text(value) {
            vmx.set(key, text);
        }
    }
    for (key, value) in &record.hidden {
        vmx.set(key, value);
    }
    vmx.set("config.version", "8");
    vmx.set(
        "virtualHW.version",
        config.version.trim_start_matches("vmx-"),
    );
    vmx.set("displayName", &config.name);
    vmx.set("guestOS", &config.guest_id);
    vmx.set("uuid.bios", &config.uuid);
    vmx.set("vc.uuid", config.instance_uuid.clone().unwrap_or_default());
    vmx.set("annotation", config.annotation.clone().unwrap_or_default());
    vmx.set("guestOSAltName", &config.alternate_guest_name);
    vmx.set("numvcpus", config.hardware.num_cpu.to_string());
    vmx.set("memSize", config.hardware.memory_mb.to_string());
    if record.runtime.power_state == vmomi::types::VirtualMachinePowerState::Suspended {
        vmx.set_flag("checkpoint.suspended", true);
    }
    for (key, allocation) in [
        ("sched.cpu", &config.cpu_allocation),
        ("sched.mem", &config.memory_allocation),
    ] {
        let Some(allocation) = allocation else {
            continue;
        };
        if let Some(limit) = allocation.limit.filter(|l| *l >= 0) {
            vmx.set(format!("{key}.max"), limit.to_string());
        }
        if let Some(min) = allocation.reservation.filter(|m| *m > 0) {
            vmx.set(format!("{key}.min"), min.to_string());
        }
        if let Some(shares) = &allocation.shares {
            vmx.set(format!("{key}.shares"), shares.shares.to_string());
        }
    }
    for device in &config.hardware.device {
        write_device(&mut vmx, record, device);
    }
    vmx
}

fn write_device(vmx: &mut Vmx, record: &Record, device: &Poly<VirtualDevice>) {
    let list = &record.config.hardware.device;
    let key = *device.key();
    let file = device
        .backing()
        .as_ref()
        .and_then(devices::file_of)
        .unwrap_or_default();
    let prefix = match devices::kind(device) {
        Kind::Scsi => {
            let prefix = format!("scsi{}", key - devices::SCSI);
            let model = match device.type_name() {
                "ParaVirtualSCSIController" => "pvscsi",
                "VirtualLsiLogicSASController" => "lsisas1068",
                "VirtualBusLogicController" => "buslogic",
                _ => "lsilogic",
            };
            vmx.set(format!("{prefix}.virtualDev"), model);
            prefix
        }
        Kind::Disk | Kind::Cdrom => {
            let controller = device.controller_key().unwrap_or(devices::SCSI);
            let bus = devices::bus(list, controller).unwrap_or(0);
            let unit = device.unit_number().unwrap_or(0);
            let family = match controller {
                200..300 => "ide",
                15000..16000 => "sata",
                _ => "scsi",
            };
            let prefix = format!("{family}{bus}:{unit}");
            vmx.set(format!("{prefix}.fileName"), file);
            if let Some(disk) = device.get::<VirtualDisk>() {
                vmx.set(format!("{prefix}.deviceType"), "scsi-hardDisk");
                let backing = disk.backing.as_ref();
                let mode = backing
                    .and_then(|b| b.field_str("diskMode"))
                    .unwrap_or("persistent");
                vmx.set(format!("{prefix}.mode"), mode);
                if disk.guest_read_only == Some(true) {
                    vmx.set_flag(format!("{prefix}.guestReadOnly"), true);
                }
            } else {
                vmx.set(format!("{prefix}.deviceType"), "cdrom-image");
            }
            prefix
        }
        Kind::Nic => {
            let prefix = format!("ethernet{}", key - 4000);
            let model = if device.is_a("VirtualE1000") {
                "e1000"
            } else {
                "vmxnet3"
            };
            vmx.set(format!("{prefix}.virtualDev"), model);
            let of = |name: &str| device.field_str(name).unwrap_or_default().to_owned();
            vmx.set(format!("{prefix}.addressType"), of("addressType"));
            vmx.set(format!("{prefix}.address"), of("macAddress"));
            if let Some(backing) = device.backing() {
                if let Some(b) =
                    backing.get::<VirtualEthernetCardDistributedVirtualPortBackingInfo>()
                {
                    vmx.set(format!("{prefix}.dvs.switchId"), &b.port.switch_uuid);
                    let group = b.port.portgroup_key.clone().unwrap_or_default();
                    vmx.set(format!("{prefix}.dvs.portgroupId"), group);
                } else {
                    let name = backing.field_str("deviceName").unwrap_or_default();
                    vmx.set(format!("{prefix}.networkName"), name);
                }
            }
            prefix
        }
        Kind::Serial => {
            let prefix = format!("serial{}", key - 9000);
            match device.backing() {
                Some(b) if b.is::<VirtualSerialPortURIBackingInfo>() => {
                    vmx.set(format!("{prefix}.fileType"), "network");
                    let uri = b.field_str("serviceURI").unwrap_or_default();
                    vmx.set(format!("{prefix}.fileName"), uri);
                    let direction = b.field_str("direction").unwrap_or("client");
                    vmx.set(format!("{prefix}.network.endPoint"), direction);
                    if let Some(proxy) = b.field_str("proxyURI") {
                        vmx.set(format!("{prefix}.vspc"), proxy);
                    }
                }
                _ => {
                    vmx.set(format!("{prefix}.fileType"), "file");
                    vmx.set(format!("{prefix}.fileName"), file);
                }
            }
            let yields = device
                .get::<VirtualSerialPort>()
                .is_some_and(|p| p.yield_on_poll);
            vmx.set_flag(format!("{prefix}.yieldOnMsrRead"), yields);
            prefix
        }
        Kind::Controller | Kind::Other => return,
    };
    vmx.set_flag(format!("{prefix}.present"), true);
    if let Some(connectable) = device.connectable() {
        vmx.set_flag(
            format!("{prefix}.startConnected"),
            connectable.start_connected,
        );
        vmx.set_flag(
            format!("{prefix}.allowGuestConnectionControl"),
            connectable.allow_guest_control,
        );
    }
}

/// Reads the file of a VM that is to be registered as `moref`.
pub(crate) fn load(
    world: &World,
    moref: Moref,
    path: DatastorePath,
    home: Home,
) -> Outcome<Record> {
    let real = world.locate(&path)?;
    let text = read(&real).map_err(|e| Fault::io(&path, &e))?;
    let vmx = Vmx::parse(&text).map_err(|e| Fault::file(&path, e))?;
    let name = vmx
        .get("displayName")
        .unwrap_or(path.file_name())
        .to_owned();
    let mut record = Record::new(moref, &name, path, home);
    record.set_files(world);
    let config = &mut record.config;
    let text = |key: &str| vmx.get(key).filter(|v| !v.is_empty()).map(str::to_owned);
    if let Some(version) = text("virtualHW.version") {
        config.version = format!("vmx-{version}");
    }
    if let Some(id) = text("guestOS") {
        config.guest_id = id;
    }
    if let Some(uuid) = text("uuid.bios") {
        config.uuid = uuid;
    }
    if let Some(uuid) = text("vc.uuid") {
        config.instance_uuid = Some(uuid);
    }
    config.annotation = Some(vmx.get("annotation").unwrap_or_default().to_owned());
    config.alternate_guest_name = vmx.get("guestOSAltName").unwrap_or_default().to_owned();
    config.hardware.num_cpu = vmx.number("numvcpus").unwrap_or(1);
    config.hardware.memory_mb = vmx.number("memSize").unwrap_or(32);
    for (key, allocation) in [
        ("sched.cpu", &mut config.cpu_allocation),
        ("sched.mem", &mut config.memory_allocation),
    ] {
        if let Some(allocation) = allocation {
            allocation.limit = vmx.number(&format!("{key}.max")).or(Some(-1));
            allocation.reservation = vmx.number(&format!("{key}.min")).or(Some(0));
        }
    }
    if vmx.flag("checkpoint.suspended") {
        record.runtime.power_state = vmomi::types::VirtualMachinePowerState::Suspended;
    }
    read_devices(world, &mut record, &vmx)?;
    let own = [
        ".encoding",
        "config.version",
        "virtualHW.version",
        "displayName",
        "guestOS",
        "uuid.bios",
        "vc.uuid",
        "annotation",
        "guestOSAltName",
        "numvcpus",
        "memSize",
        "checkpoint.suspended",
    ];
    for (key, value) in vmx.under("") {
        let is_device = DEVICES.iter().any(|d| {
            key.strip_prefix(d)
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        });
        if !is_device && !own.contains(&key) && !key.starts_with("sched.") {
            if key == SECRET {
                record.hidden.insert(key.to_owned(), value.to_owned());
            } else {
                record.extra.insert(key.to_owned(), Any::from(value));
            }
        }
    }
    Ok(record)
}

fn read(real: &Path) -> std::io::Result<String> {
    let length = real.metadata()?.len();
    if length > crate::vmx::MAX_BYTES as u64 {
        return Err(std::io::Error::other(
            "the file is too large for a .vmx file",
        ));
    }
    std::fs::read_to_string(real)
}

fn read_devices(world: &World, record: &mut Record, vmx: &Vmx) -> Outcome<()> {
    let connectable = |prefix: &str| {
        Some(VirtualDeviceConnectInfo {
            start_connected: vmx.flag(&format!("{prefix}.startConnected")),
            allow_guest_control: vmx.flag(&format!("{prefix}.allowGuestConnectionControl")),
            status: Some("untried".into()),
            ..Default::default()
        })
    };
    let present = |prefix: &str| vmx.flag(&format!("{prefix}.present"));
    let get = |key: String| vmx.get(&key).unwrap_or_default().to_owned();
    let mut add = |mut device: Poly<VirtualDevice>| {
        let list = &record.config.hardware.device;
        devices::place(list, &mut device, 0)?;
        record.config.hardware.device.push(device);
        Ok::<(), Fault>(())
    };
    for bus in 0..4 {
        let prefix = format!("scsi{bus}");
        if present(&prefix) {
            let sharing = VirtualSCSISharing::NoSharing;
            macro_rules! controller {
                ($kind:ident) => {
                    $kind {
                        bus_number: bus,
                        shared_bus: sharing,
                        hot_add_remove: Some(true),
                        ..Default::default()
                    }
                    .into()
                };
            }
            add(
                match vmx.get(&format!("{prefix}.virtualDev")).unwrap_or_default() {
                    "lsisas1068" => controller!(VirtualLsiLogicSASController),
                    "lsilogic" => controller!(VirtualLsiLogicController),
                    "buslogic" => controller!(VirtualBusLogicController),
                    _ => controller!(ParaVirtualSCSIController),
                },
            )?;
        }
        for unit in 0..devices::SCSI_UNITS {
            let prefix = format!("scsi{bus}:{unit}");
            if !present(&prefix) {
                continue;
            }
            let path = world.path(&get(format!("{prefix}.fileName")))?;
            // A disk that is gone stays a device: the VM cannot boot, but it can be looked at.
            let info = vmdk::inspect(&world.locate(&path)?).ok();
            let mut backing = match &info {
                Some(info) => backing(world, &path, info),
                None => record::backing(path.to_string(), None),
            };
            backing.disk_mode = get(format!("{prefix}.mode"));
            let capacity = i64::try_from(info.map_or(0, |i| i.capacity)).unwrap_or(0);
            let read_only = vmx.flag(&format!("{prefix}.guestReadOnly"));
            add(VirtualDisk {
                controller_key: Some(devices::SCSI + bus),
                unit_number: Some(unit),
                backing: Some(backing.into()),
                capacity_in_kb: capacity >> 10,
                capacity_in_bytes: Some(capacity),
                guest_read_only: read_only.then_some(true),
                ..Default::default()
            }
            .into())?;
        }
    }
    for (bus, unit) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let prefix = format!("ide{bus}:{unit}");
        if present(&prefix) {
            let backing = VirtualCdromIsoBackingInfo {
                file_name: get(format!("{prefix}.fileName")),
                ..Default::default()
            };
            add(VirtualCdrom {
                controller_key: Some(200 + bus),
                unit_number: Some(unit),
                backing: Some(backing.into()),
                connectable: connectable(&prefix),
                ..Default::default()
            }
            .into())?;
        }
    }
    let snapshot = world.inventory.now();
    for number in 0..10 {
        let prefix = format!("ethernet{number}");
        if !present(&prefix) {
            continue;
        }
        let group = get(format!("{prefix}.dvs.portgroupId"));
        let backing = if group.is_empty() {
            let name = get(format!("{prefix}.networkName"));
            let mut network = None;
            snapshot.objects.for_each(&mut |_, o| {
                if o.moref.r#type == "Network" && o.text("name") == Some(&name) {
                    network.get_or_insert_with(|| o.moref.clone());
                }
            });
            let backing = VirtualEthernetCardNetworkBackingInfo {
                device_name: name,
                use_auto_detect: Some(false),
                network,
                ..Default::default()
            };
            Some(backing.into())
        } else {
            let mut backing = VirtualEthernetCardDistributedVirtualPortBackingInfo::default();
            backing.port.switch_uuid = get(format!("{prefix}.dvs.switchId"));
            backing.port.portgroup_key = Some(group);
            Some(backing.into())
        };
        let mac_address = Some(get(format!("{prefix}.address")));
        let address_type = Some(get(format!("{prefix}.addressType")));
        let wake_on_lan_enabled = Some(true);
        macro_rules! card {
            ($kind:ident) => {
                $kind {
                    backing,
                    mac_address,
                    address_type,
                    wake_on_lan_enabled,
                    connectable: connectable(&prefix),
                    ..Default::default()
                }
                .into()
            };
        }
        add(match vmx.get(&format!("{prefix}.virtualDev")) {
            Some("e1000") => card!(VirtualE1000),
            _ => card!(VirtualVmxnet3),
        })?;
    }
    for number in 0..32 {
        let prefix = format!("serial{number}");
        if !present(&prefix) {
            continue;
        }
        let file = get(format!("{prefix}.fileName"));
        let backing = if vmx.get(&format!("{prefix}.fileType")) == Some("network") {
            VirtualSerialPortURIBackingInfo {
                service_uri: file,
                direction: get(format!("{prefix}.network.endPoint")),
                proxy_uri: vmx.get(&format!("{prefix}.vspc")).map(str::to_owned),
                ..Default::default()
            }
            .into()
        } else {
            VirtualSerialPortFileBackingInfo {
                file_name: file,
                ..Default::default()
            }
            .into()
        };
        add(VirtualSerialPort {
            backing: Some(backing),
            connectable: connectable(&prefix),
            yield_on_poll: vmx.flag(&format!("{prefix}.yieldOnMsrRead")),
            device_info: label("Serial port", ""),
            ..Default::default()
        }
        .into())?;
    }
    devices::relist(&mut record.config.hardware.device);
    Ok(())
}
