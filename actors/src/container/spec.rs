//! What a container is made from: everything that `create` fixes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, ImageId, NetworkId};

/// A container to be made. The persona has merged the image's configuration into `process`,
/// `labels`, `mounts` and the documents; nothing is defaulted from the image later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateSpec {
    /// The name without its slash; none: one is generated.
    pub name: Option<String>,
    /// The image, resolved.
    pub image: ImageId,
    /// The image as the client wrote it.
    pub image_name: String,
    /// The container's process.
    pub process: ProcessSpec,
    /// Host name; empty: the id's first twelve digits.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// Labels, the image's included.
    pub labels: BTreeMap<String, String>,
    /// The signal of `stop` by name or number; none: SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before SIGKILL; -1 is for ever; none: 10.
    pub stop_timeout: Option<i64>,
    /// Whether a small reaper is the container's PID 1 (`--init`).
    pub init: bool,
    /// Remove the container and its anonymous volumes when it has exited (`--rm`).
    pub auto_remove: bool,
    /// What it may use.
    pub resources: Resources,
    /// Volumes and temporary file systems.
    pub mounts: Vec<MountSpec>,
    /// Its network.
    pub network: NetworkSpec,
    /// What its process may do inside the guest.
    pub security: SecuritySpec,
    /// Documents that inspect gives back as they came.
    pub documents: Documents,
    /// Warnings that the answer of create carries.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl CreateSpec {
    /// A container of this image of which nothing is asked.
    pub fn of(image: ImageId) -> Self {
        Self {
            name: None,
            image,
            image_name: String::new(),
            process: ProcessSpec::default(),
            hostname: String::new(),
            domainname: String::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            stop_timeout: None,
            init: false,
            auto_remove: false,
            resources: Resources::default(),
            mounts: Vec::new(),
            network: NetworkSpec::default(),
            security: SecuritySpec::default(),
            documents: Documents::default(),
            warnings: Vec::new(),
        }
    }
}

/// A process in a guest: a container's or an exec's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; entrypoint and command joined.
    pub argv: Vec<String>,
    /// `K=V`, in order; PATH, HOSTNAME, HOME and TERM are added by the guest where missing.
    pub env: Vec<String>,
    /// Working directory; empty: `/`.
    pub cwd: String,
    /// `user|uid[:group|gid]`, looked up in the guest; empty: root.
    pub user: String,
    /// Supplementary groups (`--group-add`).
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether standard input is kept open.
    pub open_stdin: bool,
    /// Whether standard input closes for good when the first attached client closes it.
    pub stdin_once: bool,
    /// First size of the terminal.
    #[serde(default)]
    pub console: Option<crate::streams::ConsoleSize>,
}

/// What a container may use; zero means the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: u64,
    /// CPU in billionths of a CPU.
    pub nano_cpus: u64,
    /// Number of virtual CPUs (`--cpuset-cpus`).
    pub cpus: u32,
    /// Most processes in the container; 0 or less: no limit.
    pub pids_limit: i64,
    /// Size of the root file system in bytes (`--storage-opt size=`).
    pub disk: u64,
    /// CPU shares relative to 1024.
    pub cpu_shares: u32,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSpec {
    /// A volume.
    Volume {
        /// Its name; none: anonymous, made for this container and removed with `rm -v`.
        name: Option<String>,
        /// Where in the container.
        target: String,
        /// Whether the container may only read it.
        read_only: bool,
        /// Whether an empty volume stays empty instead of getting the image's files at that place.
        no_copy: bool,
        /// Labels for a volume that this makes.
        labels: BTreeMap<String, String>,
        /// Mount options as the client wrote them, for inspect.
        mode: String,
    },
    /// A temporary file system.
    Tmpfs {
        /// Where in the container.
        target: String,
        /// Mount options (`size=…,mode=…,noexec`).
        options: String,
    },
}

impl MountSpec {
    /// Where it is mounted in the container.
    pub fn target(&self) -> &str {
        match self {
            Self::Volume { target, .. } | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// The container's place in the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The networks that it joins, first the one that gives the default route; none: `--network none`.
    pub endpoints: Vec<EndpointSpec>,
    /// Name servers; empty: the network's.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// `host:address` lines for /etc/hosts; `host-gateway` is resolved by the container actor.
    pub extra_hosts: Vec<String>,
}

/// One network that a container joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network.
    pub network: NetworkId,
    /// Further names in that network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// A fixed address.
    #[serde(default)]
    pub address: Option<std::net::Ipv4Addr>,
    /// A fixed MAC address.
    #[serde(default)]
    pub mac: Option<String>,
}

/// What a container's processes may do in their guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecuritySpec {
    /// All capabilities, no masks.
    pub privileged: bool,
    /// Capabilities beyond docker's default.
    pub cap_add: Vec<String>,
    /// Capabilities of docker's default that it shall not have.
    pub cap_drop: Vec<String>,
    /// Root file system is read-only.
    pub readonly_rootfs: bool,
    /// No gain of privileges through set-user-id programs.
    pub no_new_privileges: bool,
    /// No seccomp filter.
    pub seccomp_unconfined: bool,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `name=soft:hard`.
    pub ulimits: Vec<String>,
    /// Size of /dev/shm in bytes; 0: 64 MiB.
    pub shm_size: u64,
    /// Adjustment of the out-of-memory score.
    pub oom_score_adj: i32,
}

/// The client's documents, kept so that inspect can give them back whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Documents {
    /// `Config`, merged with the image's.
    pub config: serde_json::Value,
    /// `HostConfig`, normalised.
    pub host_config: serde_json::Value,
    /// `NetworkingConfig`.
    pub networking: serde_json::Value,
}

/// The answer of create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The new container.
    pub id: ContainerId,
    /// Things that were asked for and are not quite so.
    pub warnings: Vec<String>,
}
