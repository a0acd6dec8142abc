//! Datastores as objects, and what browses them.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    DatastoreCapability, DatastoreHostMount, DatastoreSummary, HostMountInfo, HostVmfsVolume,
    StorageIORMInfo, VmfsDatastoreInfo,
};

use super::Builder;
use crate::clock::now;
use crate::datastore::Datastore;
use crate::inventory::{Prop, Tree};

/// The largest file of a datastore.
const MAX_FILE: i64 = 64 << 40;

/// Adds all datastores to a datacenter; returns them.
pub(super) fn build(b: &mut Builder<'_, '_>, folder: &Moref, datacenter: &Moref) -> Vec<Moref> {
    let stores: Vec<_> = b.datastores.values().cloned().collect();
    stores
        .iter()
        .map(|store| {
            let browser = Moref::new("HostDatastoreBrowser", format!("{}-browser", store.moid));
            let (summary, info) = describe(store);
            let mut props = vec![
                ("summary", Prop::value(summary)),
                ("info", Prop::value(info)),
                ("host", Prop::value(Vec::<DatastoreHostMount>::new())),
                ("vm", Prop::Refs(Tree::default())),
                ("browser", Prop::value(browser.clone())),
                ("capability", Prop::value(capability())),
            ];
            props.push(("iormConfiguration", Prop::value(StorageIORMInfo::default())));
            let moref = b.entity(
                "Datastore",
                store.moid.clone(),
                &store.name,
                Some((folder, "childEntity")),
                props,
            );
            let mut browsed = Tree::default();
            if let Some(object) = b.t.snapshot().find(&store.moid) {
                browsed.insert(object.slot, moref.clone());
            }
            b.t.create(
                browser,
                vec![
                    ("datastore", Prop::Refs(browsed)),
                    (
                        "supportedType",
                        Prop::value(Vec::<vmomi::Poly<vmomi::types::FileQuery>>::new()),
                    ),
                ],
            );
            b.t.add_ref(&datacenter.value, "datastore", &moref);
            moref
        })
        .collect()
}

/// What is said of a datastore: its size is that of the file system below it.
pub(crate) fn describe(store: &Datastore) -> (DatastoreSummary, VmfsDatastoreInfo) {
    let (capacity, free) = store.space();
    let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, store.name.as_bytes()).to_string();
    let url = format!("ds:///vmfs/volumes/{uuid}/");
    let summary = DatastoreSummary {
        datastore: Some(Moref::new("Datastore", &store.moid)),
        name: store.name.clone(),
        url: url.clone(),
        capacity,
        free_space: free,
        uncommitted: Some(0),
        accessible: true,
        multiple_host_access: Some(true),
        r#type: "VMFS".into(),
        maintenance_mode: Some("normal".into()),
        ..Default::default()
    };
    let info = VmfsDatastoreInfo {
        name: store.name.clone(),
        url,
        free_space: free,
        max_file_size: MAX_FILE,
        max_virtual_disk_capacity: Some(MAX_FILE),
        max_memory_file_size: MAX_FILE,
        timestamp: Some(now()),
        max_physical_rdm_file_size: MAX_FILE,
        max_virtual_rdm_file_size: MAX_FILE,
        vmfs: Some(HostVmfsVolume {
            r#type: "VMFS".into(),
            name: store.name.clone(),
            capacity,
            block_size_mb: 1,
            max_blocks: 63_963_136,
            major_version: 6,
            version: "6.82".into(),
            uuid,
            vmfs_upgradable: false,
            local: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    (summary, info)
}

fn capability() -> DatastoreCapability {
    DatastoreCapability {
        directory_hierarchy_supported: true,
        raw_disk_mappings_supported: false,
        per_file_thin_provisioning_supported: true,
        storage_iorm_supported: true,
        native_snapshot_supported: false,
        top_level_directory_create_supported: Some(true),
        se_sparse_supported: Some(true),
        ..Default::default()
    }
}

/// Makes a datastore known to a host.
pub(super) fn mount(b: &mut Builder<'_, '_>, stores: &[Moref], hosts: &[Moref]) {
    for store in stores {
        let mounts: Vec<DatastoreHostMount> = hosts
            .iter()
            .map(|host| DatastoreHostMount {
                key: host.clone(),
                mount_info: mounted(&store.value),
                ..Default::default()
            })
            .collect();
        b.t.set(&store.value, "host", mounts);
    }
}

/// How a host has a datastore.
pub(super) fn mounted(store: &str) -> HostMountInfo {
    HostMountInfo {
        path: Some(format!("/vmfs/volumes/{store}")),
        access_mode: "readWrite".into(),
        mounted: Some(true),
        accessible: Some(true),
        ..Default::default()
    }
}
