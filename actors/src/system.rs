//! The virtual container host as a whole: what `docker info` says, and what vSphere can give to containers.

use std::time::Duration;

use vmomi::ManagedObjectReference;
use vmomi::types::ResourceAllocationInfo;

use crate::context::Context;
use crate::error::Error;
use crate::vsphere::Vsphere;

/// Facts about the host that change seldom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemInfo {
    /// Our own id: the appliance VM's instance UUID.
    pub id: String,
    /// The VCH's name.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// CPUs that the resource pool can give; 0: not known yet.
    pub cpus: u32,
    /// Memory in bytes that the resource pool can give; 0: not known yet.
    pub memory: u64,
    /// Speed of one of the CPUs in MHz; 0: not known yet.
    pub cpu_mhz: u32,
    /// What vSphere says about itself: `VMware ESXi 8.0.1 build-…`.
    pub operating_system: String,
    /// The kernel in the guests, as far as known.
    pub kernel_version: String,
    /// Datastore path of the image store: `[ds] folder`.
    pub image_store: String,
    /// Volume stores by label.
    pub volume_stores: Vec<(String, String)>,
    /// Registries reached by plain http.
    pub insecure_registries: Vec<String>,
    /// Debug level.
    pub debug: u32,
    /// Default memory of a container in bytes.
    pub default_memory: u64,
    /// Default virtual CPUs of a container.
    pub default_cpus: u32,
}

/// What a resource pool can give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Logical CPUs.
    pub cpus: u32,
    /// Speed of one in MHz.
    pub cpu_mhz: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// What vSphere calls itself.
    pub product: String,
}

/// How long the host's start waits for the first look at the pool.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How long after a look that failed the next one comes.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks at the pool now and at every new session; returns after the first look, with the task that goes on.
pub(crate) async fn keep(context: &Context) -> tokio::task::JoinHandle<()> {
    let (first, looked) = tokio::sync::oneshot::channel();
    let context = context.clone();
    let task = tokio::spawn(async move {
        let mut first = Some(first);
        let mut sessions = context.vsphere().sessions();
        loop {
            let found = context.vsphere().capacity(&context.settings().pool).await;
            let failed = found.is_err();
            match found {
                Ok(capacity) => context.set_capacity(&capacity),
                Err(why) => tracing::warn!(%why, "cannot look at the resource pool"),
            }
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            tokio::select! {
                changed = sessions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
        }
    });
    let _ = tokio::time::timeout(FIRST_LOOK, looked).await;
    task
}

impl Vsphere {
    /// What a resource pool can give: what its hosts have, or its own limits where they are less.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn capacity(&self, pool: &ManagedObjectReference) -> Result<Capacity, Error> {
        let failed = |why: vmomi::client::Error| Error::failed("look at the resource pool", &why);
        let client = self.client().await?;
        let mut paths = ["owner", "config.cpuAllocation", "config.memoryAllocation"];
        let found = client.properties(std::slice::from_ref(pool), &paths).await;
        let (mut owner, mut mhz_limit, mut memory_limit) = (None, None, None);
        for (path, value) in found.map_err(failed)?.into_iter().flat_map(|p| p.values) {
            let limit = || value.clone().to::<ResourceAllocationInfo>().ok()?.limit;
            match path.as_str() {
                "owner" => owner = value.as_reference().cloned(),
                "config.cpuAllocation" => mhz_limit = limit(),
                _ => memory_limit = limit(),
            }
        }
        let owner = owner.ok_or_else(|| {
            Error::internal(
                "look at the resource pool",
                "it belongs to no compute resource",
            )
        })?;
        paths = [
            "summary.totalCpu",
            "summary.numCpuCores",
            "summary.numCpuThreads",
        ];
        let paths = [&paths[..], &["summary.totalMemory"]].concat();
        let found = client.properties(&[owner], &paths).await.map_err(failed)?;
        let mut hosts = Hosts::default();
        for (path, value) in found.into_iter().flat_map(|p| p.values) {
            hosts.note(&path, value);
        }
        let product = client.content().about.full_name.clone();
        Ok(hosts.capacity(mhz_limit, memory_limit, product))
    }
}

/// The sums over a compute resource's hosts.
#[derive(Debug, Default)]
struct Hosts {
    mhz: u64,
    cores: u64,
    threads: u64,
    memory: u64,
}

impl Hosts {
    fn note(&mut self, path: &str, value: vmomi::Any) {
        let short = |value: vmomi::Any| value.to::<i16>().ok().and_then(|n| u64::try_from(n).ok());
        let (place, number) = match path {
            "summary.totalCpu" => {
                let mhz = value.to::<i32>().ok();
                (&mut self.mhz, mhz.and_then(|n| u64::try_from(n).ok()))
            }
            "summary.numCpuCores" => (&mut self.cores, short(value)),
            "summary.numCpuThreads" => (&mut self.threads, short(value)),
            "summary.totalMemory" => {
                let bytes = value.to::<i64>().ok();
                (&mut self.memory, bytes.and_then(|n| u64::try_from(n).ok()))
            }
            _ => return,
        };
        *place = number.unwrap_or_default();
    }

    /// Limits are in MHz and in MB; none and -1 mean no limit.
    fn capacity(
        &self,
        mhz_limit: Option<i64>,
        memory_limit: Option<i64>,
        product: String,
    ) -> Capacity {
        let limit = |l: Option<i64>| l.and_then(|l| u64::try_from(l).ok());
        // vSphere counts a core's MHz once, however many threads it has.
        let mhz = self.mhz.checked_div(self.cores).unwrap_or_default();
        let cpus = match limit(mhz_limit) {
            Some(limit) if mhz > 0 => limit.div_ceil(mhz).clamp(1, self.threads.max(1)),
            _ => self.threads,
        };
        let memory = limit(memory_limit).map_or(self.memory, |mb| (mb << 20).min(self.memory));
        Capacity {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            cpu_mhz: u32::try_from(mhz).unwrap_or_default(),
            memory,
            product,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_what_its_hosts_have_unless_it_is_limited() {
        let hosts = Hosts {
            mhz: 8 * 2400,
            cores: 8,
            threads: 16,
            memory: 64 << 30,
        };
        let whole = hosts.capacity(Some(-1), None, String::new());
        assert_eq!((whole.cpus, whole.cpu_mhz), (16, 2400));
        assert_eq!(whole.memory, 64 << 30);
        let limited = hosts.capacity(Some(5000), Some(4096), String::new());
        assert_eq!((limited.cpus, limited.memory), (3, 4 << 30));
        let unknown = Hosts::default().capacity(Some(5000), None, String::new());
        assert_eq!((unknown.cpus, unknown.cpu_mhz, unknown.memory), (0, 0, 0));
    }
}
