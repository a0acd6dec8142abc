//! The appliance's disks as vSphere shows and takes them.

use vmomi::types::{
    ParaVirtualSCSIController, VirtualDevice, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation, VirtualDeviceConfigSpecOperation, VirtualDisk,
    VirtualDiskFlatVer2BackingInfo,
};

use super::Disk;
use crate::context::Context;
use crate::error::Error;
use tether_protocol::config::Slot;

/// The controller's key, where a VM has several only the first is used.
pub(super) struct Devices(Vec<vmomi::Poly<VirtualDevice>>);

impl Devices {
    /// Reads our own VM's devices; none when this program runs in no VM.
    pub(super) async fn read(context: &Context) -> Result<Self, Error> {
        let Some(vm) = &context.settings().own_vm else {
            return Ok(Self(vec![]));
        };
        let client = context.vsphere().client().await?;
        let devices: Option<_> = client
            .property(vm, "config.hardware.device")
            .await
            .map_err(|why| Error::failed_for_now("read the appliance's devices", &why))?;
        Ok(Self(devices.unwrap_or_default()))
    }

    /// The key of the controller that disks are added to.
    pub(super) fn controller(&self) -> Option<i32> {
        let mut controllers = self
            .0
            .iter()
            .filter_map(|d| d.get::<ParaVirtualSCSIController>());
        controllers.next().map(|c| c.key)
    }

    /// The disks: unit, key, datastore path.
    pub(super) fn disks(&self) -> impl Iterator<Item = (u8, i32, String)> {
        self.0
            .iter()
            .filter_map(|d| d.get::<VirtualDisk>())
            .map(|disk| {
                let unit = disk.unit_number.and_then(|u| u8::try_from(u).ok());
                (unit.unwrap_or_default(), disk.key, backing_path(disk))
            })
    }
}

fn backing_path(disk: &VirtualDisk) -> String {
    disk.backing
        .as_ref()
        .and_then(|b| b.get::<VirtualDiskFlatVer2BackingInfo>())
        .map(|b| b.file_name.clone())
        .unwrap_or_default()
}

/// A disk to be added.
pub(super) fn add(
    disk: &Disk,
    slot: Slot,
    controller: i32,
) -> vmomi::Poly<VirtualDeviceConfigSpec> {
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

/// A disk to be removed; its file stays.
pub(super) fn remove(key: i32) -> vmomi::Poly<VirtualDeviceConfigSpec> {
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
