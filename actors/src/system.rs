//! The virtual container host as a whole: what `docker info` says.

/// Facts about the host that change seldom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemInfo {
    /// Our own id: the appliance VM's instance UUID.
    pub id: String,
    /// The VCH's name.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// CPUs that the resource pool can give.
    pub cpus: u32,
    /// Memory in bytes that the resource pool can give.
    pub memory: u64,
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
