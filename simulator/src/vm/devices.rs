//! The devices of a VM: what every VM has, the keys and addresses that vSphere gives, and changes.

use vmomi::Poly;
use vmomi::types::{
    Description, VirtualDevice, VirtualDeviceBackingInfo, VirtualDeviceConnectInfo, VirtualDisk,
    VirtualIDEController, VirtualKeyboard, VirtualMachineVMCIDevice, VirtualMachineVideoCard,
    VirtualPCIController, VirtualPS2Controller, VirtualPointingDevice,
    VirtualPointingDeviceDeviceBackingInfo, VirtualSIOController,
};

use crate::fault::{Fault, Outcome};

/// Key of the PCI controller, which every VM has.
pub(crate) const PCI: i32 = 100;
/// Key of the super I/O controller, to which serial ports belong.
pub(crate) const SIO: i32 = 400;
/// Key of the first SCSI controller.
pub(crate) const SCSI: i32 = 1000;
/// Units of one SCSI controller; unit 7 is the controller's own.
pub(crate) const SCSI_UNITS: i32 = 16;

pub(crate) fn label(label: impl Into<String>, summary: impl Into<String>) -> Option<Description> {
    Some(Description {
        label: label.into(),
        summary: summary.into(),
        ..Default::default()
    })
}

/// The devices that vSphere gives every VM.
pub(crate) fn defaults() -> Vec<Poly<VirtualDevice>> {
    vec![
        VirtualIDEController {
            key: 200,
            device_info: label("IDE 0", "IDE 0"),
            bus_number: 0,
            ..Default::default()
        }
        .into(),
        VirtualIDEController {
            key: 201,
            device_info: label("IDE 1", "IDE 1"),
            bus_number: 1,
            ..Default::default()
        }
        .into(),
        VirtualPS2Controller {
            key: 300,
            device_info: label("PS2 controller 0", "PS2 controller 0"),
            device: vec![600, 700],
            ..Default::default()
        }
        .into(),
        VirtualPCIController {
            key: PCI,
            device_info: label("PCI controller 0", "PCI controller 0"),
            device: vec![500, 12000],
            ..Default::default()
        }
        .into(),
        VirtualSIOController {
            key: SIO,
            device_info: label("SIO controller 0", "SIO controller 0"),
            ..Default::default()
        }
        .into(),
        VirtualKeyboard {
            key: 600,
            device_info: label("Keyboard ", "Keyboard"),
            controller_key: Some(300),
            unit_number: Some(0),
            ..Default::default()
        }
        .into(),
        VirtualPointingDevice {
            key: 700,
            device_info: label("Pointing device", "Pointing device; Device"),
            backing: Some(
                VirtualPointingDeviceDeviceBackingInfo {
                    device_name: String::new(),
                    use_auto_detect: Some(false),
                    host_pointing_device: "autodetect".into(),
                    ..Default::default()
                }
                .into(),
            ),
            controller_key: Some(300),
            unit_number: Some(1),
            ..Default::default()
        }
        .into(),
        VirtualMachineVideoCard {
            key: 500,
            device_info: label("Video card ", "Video card"),
            controller_key: Some(PCI),
            unit_number: Some(0),
            video_ram_size_in_kb: Some(4096),
            num_displays: Some(1),
            use_auto_detect: Some(false),
            enable3_d_support: Some(false),
            use3d_renderer: Some("automatic".into()),
            graphics_memory_size_in_kb: Some(262_144),
            ..Default::default()
        }
        .into(),
        VirtualMachineVMCIDevice {
            key: 12000,
            device_info: label(
                "VMCI device",
                "Device on the virtual machine PCI bus that provides support for the virtual \
                 machine communication interface",
            ),
            controller_key: Some(PCI),
            unit_number: Some(17),
            id: Some(-1),
            allow_unrestricted_communication: Some(false),
            filter_enable: Some(true),
            ..Default::default()
        }
        .into(),
    ]
}

/// Kinds of devices that get keys of a range of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A SCSI controller.
    Scsi,
    /// Another controller.
    Controller,
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A network adapter.
    Nic,
    /// A serial port.
    Serial,
    /// Anything else.
    Other,
}

/// Says what kind of device this is.
pub(crate) fn kind(device: &Poly<VirtualDevice>) -> Kind {
    if device.is_a("VirtualSCSIController") {
        Kind::Scsi
    } else if device.is_a("VirtualController") {
        Kind::Controller
    } else if device.is_a("VirtualDisk") {
        Kind::Disk
    } else if device.is_a("VirtualCdrom") {
        Kind::Cdrom
    } else if device.is_a("VirtualEthernetCard") {
        Kind::Nic
    } else if device.is_a("VirtualSerialPort") {
        Kind::Serial
    } else {
        Kind::Other
    }
}

/// Reads and writes fields that only some devices have.
pub(crate) trait Fields {
    /// A field that holds a number.
    fn field_i32(&self, name: &str) -> Option<i32>;
    /// A field that holds a text.
    fn field_str(&self, name: &str) -> Option<&str>;
    /// Sets a field that holds a number, if there is one.
    fn set_field_i32(&mut self, name: &str, value: i32);
}

impl<B> Fields for Poly<B> {
    fn field_i32(&self, name: &str) -> Option<i32> {
        let value = self.data().named(name)?;
        value
            .as_type::<i32>()
            .copied()
            .or_else(|| *value.as_type::<Option<i32>>()?)
    }

    fn field_str(&self, name: &str) -> Option<&str> {
        let value = self.data().named(name)?;
        match value.as_type::<String>() {
            Some(text) => Some(text),
            None => value.as_type::<Option<String>>()?.as_deref(),
        }
    }

    fn set_field_i32(&mut self, name: &str, value: i32) {
        if let Some(field) = self.data_mut().named_mut(name) {
            // A field of that name that holds something else stays as it is.
            let _ = field.set(Some(value.into()));
        }
    }
}

/// The file behind a device.
pub(crate) fn file_of(backing: &Poly<VirtualDeviceBackingInfo>) -> Option<&str> {
    backing.field_str("fileName").filter(|f| !f.is_empty())
}

/// The bus number of a controller.
pub(crate) fn bus(devices: &[Poly<VirtualDevice>], key: i32) -> Option<i32> {
    let device = devices.iter().find(|d| *d.key() == key)?;
    device.field_i32("busNumber")
}

/// Numbers of one kind that are in use, as `key - base`.
fn first_free(devices: &[Poly<VirtualDevice>], base: i32, count: i32) -> Option<i32> {
    (0..count).find(|n| devices.iter().all(|d| *d.key() != base + n))
}

/// Gives a new device its key, unit and label; `index` is its place in the request.
pub(crate) fn place(
    devices: &[Poly<VirtualDevice>],
    device: &mut Poly<VirtualDevice>,
    index: i32,
) -> Outcome<()> {
    let wrong = |property: &str| Fault::invalid_device(property, index);
    match kind(device) {
        Kind::Scsi => {
            let wanted = device.field_i32("busNumber").unwrap_or(0);
            let taken = |n: i32| devices.iter().any(|d| *d.key() == SCSI + n);
            let number = if taken(wanted) {
                first_free(devices, SCSI, 4)
                    .ok_or_else(|| wrong("deviceChange.device.busNumber"))?
            } else {
                wanted
            };
            if !(0..4).contains(&number) {
                return Err(wrong("deviceChange.device.busNumber"));
            }
            device.set_field_i32("busNumber", number);
            device.set_field_i32("scsiCtlrUnitNumber", 7);
            identify(device, SCSI + number, Some(PCI), Some(3 + number));
            let name = match device.type_name() {
                "ParaVirtualSCSIController" => "VMware paravirtual SCSI",
                "VirtualLsiLogicSASController" => "LSI Logic SAS",
                "VirtualBusLogicController" => "BusLogic",
                _ => "LSI Logic",
            };
            *device.device_info_mut() = label(format!("SCSI controller {number}"), name);
        }
        Kind::Controller => {
            // IDE, PCI, PS2 and SIO controllers are there already; asking for them is no error.
            let base = match device.type_name() {
                "VirtualIDEController" => 200,
                "VirtualAHCIController" => 15000,
                "VirtualNVMEController" => 31000,
                "VirtualUSBController" => 7000,
                "VirtualUSBXHCIController" => 14000,
                _ => return Err(wrong("deviceChange.device")),
            };
            let number =
                first_free(devices, base, 4).ok_or_else(|| wrong("deviceChange.device"))?;
            identify(device, base + number, Some(PCI), None);
            *device.device_info_mut() = label(
                format!("Controller {number}"),
                format!("Controller {number}"),
            );
        }
        Kind::Disk => {
            let controller = device
                .controller_key()
                .ok_or_else(|| wrong("deviceChange.device.controllerKey"))?;
            let bus = bus(devices, controller)
                .ok_or_else(|| wrong("deviceChange.device.controllerKey"))?;
            let unit = free_unit(devices, device, controller, SCSI_UNITS, Some(7))
                .ok_or_else(|| wrong("deviceChange.device.unitNumber"))?;
            identify(
                device,
                2000 + bus * SCSI_UNITS + unit,
                Some(controller),
                Some(unit),
            );
            let kb = device.get::<VirtualDisk>().map_or(0, |d| d.capacity_in_kb);
            *device.device_info_mut() = label(disk_label(devices), format!("{} KB", thousands(kb)));
        }
        Kind::Cdrom => {
            let controller = device
                .controller_key()
                .filter(|k| bus(devices, *k).is_some());
            let controller =
                controller.ok_or_else(|| wrong("deviceChange.device.controllerKey"))?;
            let bus = bus(devices, controller).unwrap_or(0);
            let unit = free_unit(devices, device, controller, 2, None)
                .ok_or_else(|| wrong("deviceChange.device.unitNumber"))?;
            identify(device, 3000 + bus * 2 + unit, Some(controller), Some(unit));
            let number = devices.iter().filter(|d| kind(d) == Kind::Cdrom).count() + 1;
            let summary = summary(device);
            *device.device_info_mut() = label(format!("CD/DVD drive {number}"), summary);
            connectable(device);
        }
        Kind::Nic => {
            let number =
                first_free(devices, 4000, 10).ok_or_else(|| wrong("deviceChange.device"))?;
            identify(device, 4000 + number, Some(PCI), Some(7 + number));
            let summary = summary(device);
            *device.device_info_mut() = label(format!("Network adapter {}", number + 1), summary);
            connectable(device);
        }
        Kind::Serial => {
            let number =
                first_free(devices, 9000, 32).ok_or_else(|| wrong("deviceChange.device"))?;
            identify(device, 9000 + number, Some(SIO), Some(number));
            let summary = summary(device);
            *device.device_info_mut() = label(format!("Serial port {}", number + 1), summary);
            connectable(device);
        }
        Kind::Other => {
            let base = match device.type_name() {
                "VirtualFloppy" => 8000,
                "VirtualParallelPort" => 10000,
                "VirtualUSB" => 21000,
                "VirtualTPM" => 11000,
                _ => 13000,
            };
            let number =
                first_free(devices, base, 10).ok_or_else(|| wrong("deviceChange.device"))?;
            let controller = *device.controller_key();
            identify(
                device,
                base + number,
                controller.filter(|k| *k > 0),
                Some(number),
            );
            let name = device.type_name().trim_start_matches("Virtual").to_owned();
            *device.device_info_mut() = label(format!("{name} {}", number + 1), name);
        }
    }
    Ok(())
}

fn identify(
    device: &mut Poly<VirtualDevice>,
    key: i32,
    controller: Option<i32>,
    unit: Option<i32>,
) {
    *device.key_mut() = key;
    *device.controller_key_mut() = controller;
    *device.unit_number_mut() = unit;
}

fn free_unit(
    devices: &[Poly<VirtualDevice>],
    device: &Poly<VirtualDevice>,
    controller: i32,
    count: i32,
    reserved: Option<i32>,
) -> Option<i32> {
    let taken = |unit: i32| {
        Some(unit) == reserved
            || devices
                .iter()
                .any(|d| *d.controller_key() == Some(controller) && *d.unit_number() == Some(unit))
    };
    match *device.unit_number() {
        Some(unit) if unit >= 0 => (unit < count && !taken(unit)).then_some(unit),
        _ => (0..count).find(|unit| !taken(*unit)),
    }
}

fn disk_label(devices: &[Poly<VirtualDevice>]) -> String {
    let taken: Vec<&str> = devices
        .iter()
        .filter(|d| kind(d) == Kind::Disk)
        .filter_map(|d| d.device_info().as_ref().map(|i| i.label.as_str()))
        .collect();
    let mut number = 1;
    while taken.contains(&format!("Hard disk {number}").as_str()) {
        number += 1;
    }
    format!("Hard disk {number}")
}

/// Writes a number as vSphere's summaries do: `8,388,608`.
fn thousands(number: i64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What `deviceInfo.summary` says of a device.
pub(crate) fn summary(device: &Poly<VirtualDevice>) -> String {
    let Some(backing) = device.backing().as_ref() else {
        return String::new();
    };
    if let Some(name) = backing.field_str("deviceName") {
        return name.to_owned();
    }
    match backing.type_name() {
        "VirtualCdromIsoBackingInfo" => {
            format!("ISO {}", backing.field_str("fileName").unwrap_or(""))
        }
        "VirtualSerialPortFileBackingInfo" => {
            format!("File {}", backing.field_str("fileName").unwrap_or(""))
        }
        "VirtualSerialPortURIBackingInfo" => {
            format!("Remote {}", backing.field_str("serviceURI").unwrap_or(""))
        }
        "VirtualEthernetCardDistributedVirtualPortBackingInfo" => "DVSwitch".into(),
        other => other.to_owned(),
    }
}

/// Makes sure that a device that can be unplugged says so.
fn connectable(device: &mut Poly<VirtualDevice>) {
    let info = device
        .connectable_mut()
        .get_or_insert_with(|| VirtualDeviceConnectInfo {
            start_connected: true,
            allow_guest_control: true,
            ..Default::default()
        });
    info.connected = false;
    info.status = Some("untried".into());
}

/// Writes the lists of devices that controllers hold anew.
pub(crate) fn relist(devices: &mut [Poly<VirtualDevice>]) {
    let owned: Vec<(i32, i32)> = devices
        .iter()
        .filter_map(|d| d.controller_key().map(|controller| (controller, *d.key())))
        .collect();
    for device in devices.iter_mut() {
        let key = *device.key();
        let list = owned
            .iter()
            .filter(|(c, _)| *c == key)
            .map(|(_, d)| *d)
            .collect();
        set_list(device, list);
    }
}

fn set_list(device: &mut Poly<VirtualDevice>, list: Vec<i32>) {
    if device.is_a("VirtualController")
        && let Some(field) = device.data_mut().named_mut("device")
    {
        // Every controller has such a list.
        let _ = field.set(Some(list.into()));
    }
}

/// Marks what starts connected as connected, or everything as unplugged.
pub(crate) fn power(devices: &mut [Poly<VirtualDevice>], on: bool) {
    for device in devices {
        if let Some(info) = device.connectable_mut() {
            info.connected = on && info.start_connected;
            info.status = Some(if on { "ok" } else { "untried" }.into());
        }
    }
}
