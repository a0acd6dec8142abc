//! How much containers have written: what their own disks take on the datastore.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use vmomi::types::{RefreshStorageInfoRequest, VirtualMachineFileLayoutEx};

use super::Engine;
use crate::error::Error;
use crate::ids::ContainerId;
use crate::vsphere::{Vsphere, vm_reference};

impl Engine {
    /// Bytes that each container's own disk takes on the datastore, where vSphere can tell. Two calls a container.
    ///
    /// # Errors
    /// [`Error::NotImplemented`] without a vSphere.
    pub async fn written(
        &self,
        containers: &[ContainerId],
    ) -> Result<BTreeMap<ContainerId, u64>, Error> {
        let vsphere = self.context("sizes")?.vsphere();
        let mut looking = JoinSet::new();
        for id in containers.iter().copied() {
            let Some(container) = self.snapshots.container(&id) else {
                continue;
            };
            let vsphere = vsphere.clone();
            looking.spawn(async move { (id, vsphere.disk_usage(&container.vm.moref, id).await) });
        }
        let mut all = BTreeMap::new();
        for (id, found) in looking.join_all().await {
            match found {
                Ok(bytes) => drop(all.insert(id, bytes)),
                Err(why) => tracing::warn!(container = %id, %why, "cannot tell its size"),
            }
        }
        Ok(all)
    }
}

impl Vsphere {
    /// Bytes that the disk called `<id>.vmdk` of a VM takes, without its parents'.
    async fn disk_usage(&self, vm: &str, id: ContainerId) -> Result<u64, Error> {
        let failed = |why: vmomi::client::Error| Error::failed("look at a VM's files", &why);
        let client = self.client().await?;
        let vm = vm_reference(vm);
        // vSphere looks at its files now and then only, unless it is asked to.
        client
            .invoke(&vm, RefreshStorageInfoRequest {})
            .await
            .map_err(failed)?;
        let layout: Option<VirtualMachineFileLayoutEx> =
            client.property(&vm, "layoutEx").await.map_err(failed)?;
        let id = id.to_string();
        let is_own = |name: &str| {
            let file = name.rsplit('/').next().unwrap_or(name);
            file.starts_with(&id) && file.ends_with(".vmdk")
        };
        let files = layout.into_iter().flat_map(|l| l.file);
        let sizes = files
            .filter(|f| is_own(&f.name))
            .filter_map(|f| u64::try_from(f.unique_size.unwrap_or(f.size)).ok());
        Ok(sizes.sum())
    }
}
