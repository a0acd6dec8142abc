//! The files of a VM: where they are, and how much room they take.

use vmomi::types::{
    VirtualMachineConfigInfoDatastoreUrlPair, VirtualMachineFileInfo, VirtualMachineFileLayout,
    VirtualMachineFileLayoutEx, VirtualMachineFileLayoutExDiskLayout,
    VirtualMachineFileLayoutExDiskUnit, VirtualMachineFileLayoutExFileInfo,
    VirtualMachineStorageInfo, VirtualMachineStorageSummary, VirtualMachineUsageOnDatastore,
};

use super::Record;
use crate::clock::now;
use crate::datastore::DatastorePath;
use crate::world::World;

impl Record {
    pub(super) fn layout(&self) -> VirtualMachineFileLayout {
        VirtualMachineFileLayout {
            config_file: vec![self.vmx.file_name().to_owned()],
            ..Default::default()
        }
    }

    /// What files the VM has, and how much room they take.
    pub(super) fn storage(
        &self,
        world: &World,
    ) -> (
        VirtualMachineFileLayoutEx,
        VirtualMachineStorageInfo,
        VirtualMachineStorageSummary,
    ) {
        use std::os::unix::fs::MetadataExt as _;
        let timestamp = now();
        let mut layout = VirtualMachineFileLayoutEx {
            timestamp,
            ..Default::default()
        };
        let size = |path: &str| {
            let real = world.real(path).ok()?;
            let meta = std::fs::metadata(real).ok()?;
            Some((
                i64::try_from(meta.len()).ok()?,
                i64::try_from(meta.blocks() * 512).ok()?,
            ))
        };
        let mut add = |name: String, r#type: &str| {
            let key = i32::try_from(layout.file.len()).unwrap_or_default();
            let (length, used) = size(&name).unwrap_or((0, 0));
            layout.file.push(VirtualMachineFileLayoutExFileInfo {
                key,
                name,
                r#type: r#type.into(),
                size: length,
                unique_size: Some(used),
                accessible: Some(true),
                ..Default::default()
            });
            key
        };
        add(self.vmx.to_string(), "config");
        let mut disks = Vec::new();
        for (_, _, disk, file) in self.disks() {
            let chain = vec![VirtualMachineFileLayoutExDiskUnit {
                file_key: vec![add(file.to_owned(), "diskDescriptor")],
                ..Default::default()
            }];
            disks.push(VirtualMachineFileLayoutExDiskLayout {
                key: disk.key,
                chain,
                ..Default::default()
            });
        }
        layout.disk = disks;
        let used: i64 = layout.file.iter().filter_map(|f| f.unique_size).sum();
        let whole: i64 = self
            .disks()
            .iter()
            .map(|(_, _, d, _)| d.capacity_in_kb << 10)
            .sum();
        let left = (whole - used).max(0);
        let storage = VirtualMachineStorageInfo {
            per_datastore_usage: self
                .datastores(world)
                .into_iter()
                .take(1)
                .map(|datastore| VirtualMachineUsageOnDatastore {
                    datastore,
                    committed: used,
                    uncommitted: left,
                    unshared: used,
                    ..Default::default()
                })
                .collect(),
            timestamp,
            ..Default::default()
        };
        let summary = VirtualMachineStorageSummary {
            committed: used,
            uncommitted: left,
            unshared: used,
            timestamp,
            ..Default::default()
        };
        (layout, storage, summary)
    }

    /// Says where the disks come from, for those who look at `config.datastoreUrl`.
    pub(crate) fn set_files(&mut self, world: &World) {
        self.config.files = files(&self.vmx);
        self.config.datastore_url = world
            .datastores
            .get(&self.vmx.datastore)
            .map(|store| VirtualMachineConfigInfoDatastoreUrlPair {
                name: store.name.clone(),
                url: format!("/vmfs/volumes/{}", store.name),
                ..Default::default()
            })
            .into_iter()
            .collect();
    }
}

/// The names of a VM's files.
pub(super) fn files(vmx: &DatastorePath) -> VirtualMachineFileInfo {
    let mut dir = vmx.parent().to_string();
    if !dir.ends_with(' ') {
        dir.push('/');
    }
    VirtualMachineFileInfo {
        vm_path_name: Some(vmx.to_string()),
        snapshot_directory: Some(dir.clone()),
        suspend_directory: Some(dir.clone()),
        log_directory: Some(dir),
        ..Default::default()
    }
}
