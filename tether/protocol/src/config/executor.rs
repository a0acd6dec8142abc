//! The containerVM: what its tether mounts, configures and runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::codec::{self, DecodeError, FetchError, model};
use super::net::{Cidr, Slot};

model! {
    /// What a VM is told to be. The primary session's id is the container's.
    pub struct ExecutorConfig {
        /// The container id: 64 hex digits (for the appliance any id that is not empty).
        id: String = "common/id",
        /// Host name of the container; the first 12 digits of the id when empty.
        hostname: String = "hostname",
        /// Domain name, empty for none.
        domainname: String = "domainname",
        /// Debug level, as `vic-machine create --debug`.
        debug: u32 = "diagnostics/debug",
        /// SHA-256 of the VCH's public key (SPKI), in hex: the only peer that the link accepts.
        vch_key: String = "link/vchKey",
        /// Number of the serial port that takes the log; none when absent.
        log_port: Option<u32> = "link/logPort",
        /// The container's root file system; none in the appliance.
        rootfs: Rootfs = "rootfs",
        /// Processes, by session id.
        sessions: BTreeMap<String, Session> = "sessions",
        /// Volumes and temporary file systems, in any order.
        mounts: Vec<Mount> = "mounts",
        /// Network endpoints.
        networks: Vec<NetworkEndpoint> = "networks",
        /// Name servers; those of DHCP, else the gateway, when empty.
        dns: Vec<IpAddr> = "dns/servers",
        /// Search domains.
        dns_search: Vec<String> = "dns/search",
        /// Resolver options.
        dns_options: Vec<String> = "dns/options",
        /// Lines for `/etc/hosts`.
        extra_hosts: Vec<HostEntry> = "hosts",
        /// Kernel parameters of the container, as `name=value`.
        sysctls: Vec<String> = "sysctls",
        /// Size of `/dev/shm` in bytes; 64 MiB when 0.
        shm_size: u64 = "shmSize",
    }
}

model! {
    /// Where the root file system comes from.
    pub struct Rootfs {
        /// Slot of the ext4 disk.
        slot: Option<Slot> = "slot",
        /// Mounted read-only for the container.
        read_only: bool = "readonly",
    }
}

model! {
    /// A process and how it is run.
    pub struct Session {
        /// Program and arguments; the program is looked up in `PATH` of `env`.
        args: Vec<String> = "cmd/Args",
        /// Environment as `KEY=VALUE`; docker's additions (PATH, HOSTNAME, HOME, TERM) are tether's.
        env: Vec<String> = "cmd/Env",
        /// Working directory, made when missing; `/` when empty.
        dir: String = "cmd/Dir",
        /// `user|uid[:group|gid]`; root when empty.
        user: String = "User",
        /// More groups, names or numbers.
        groups: Vec<String> = "Groups",
        /// Has a pseudo-terminal.
        tty: bool = "tty",
        /// First size of the terminal: rows.
        rows: u32 = "rows",
        /// First size of the terminal: columns.
        cols: u32 = "cols",
        /// Standard input is a pipe that stays open.
        open_stdin: bool = "openstdin",
        /// Standard input is closed when the first attached client closes its own.
        stdin_once: bool = "stdinOnce",
        /// A client attaches at start: output waits for it.
        attach: bool = "attach",
        /// Name or number of the signal that stops it; SIGTERM when empty.
        stop_signal: String = "stopSignal",
        /// Seconds from the stop signal to KILL; 10 when absent.
        stop_timeout: Option<u32> = "stopTimeout",
        /// A small init is PID 1 of the container and reaps.
        init: bool = "init",
        /// Started again when it ends (the appliance's processes).
        restart: bool = "restart",
        /// Capabilities, filters and limits.
        security: Security = "security",
    }
}

model! {
    /// What a process may do.
    pub struct Security {
        /// All capabilities, no filter, nothing masked.
        privileged: bool = "privileged",
        /// Capabilities added to docker's default ones (`NET_ADMIN`, `ALL`).
        cap_add: Vec<String> = "capAdd",
        /// Capabilities dropped.
        cap_drop: Vec<String> = "capDrop",
        /// No system call filter.
        seccomp_unconfined: bool = "seccompUnconfined",
        /// `/proc` and `/sys` are not masked.
        paths_unmasked: bool = "pathsUnmasked",
        /// No gain of privileges by exec.
        no_new_privileges: bool = "noNewPrivileges",
        /// Resource limits.
        ulimits: Vec<Ulimit> = "ulimits",
        /// Most processes; no limit when 0.
        pids_limit: i64 = "pidsLimit",
        /// Adjustment of the out-of-memory score.
        oom_score_adj: i32 = "oomScoreAdj",
    }
}

model! {
    /// A resource limit; -1 is no limit.
    pub struct Ulimit {
        /// `nofile`, `nproc`, …
        name: String = "name",
        /// Soft limit.
        soft: i64 = "soft",
        /// Hard limit.
        hard: i64 = "hard",
    }
}

/// What a mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A disk in this slot, formatted with ext4.
    Disk(Slot),
    /// A temporary file system.
    Tmpfs,
}

model! {
    /// A file system at a place in the container. Without a slot it is a tmpfs.
    pub struct Mount {
        /// Volume name, for messages.
        name: String = "name",
        /// Slot of the volume's disk.
        slot: Option<Slot> = "slot",
        /// Absolute path in the container.
        dest: String = "dest",
        /// Sub-directory of the volume, empty for its root.
        subpath: String = "subpath",
        /// Mounted read-only.
        read_only: bool = "readonly",
        /// Filled from the image's directory when the volume is empty.
        copy_up: bool = "copyUp",
        /// Options of a tmpfs, as `size=64m,mode=1777`.
        options: String = "options",
    }
}

impl Mount {
    /// What this mount shows.
    pub fn source(&self) -> MountSource {
        self.slot.map_or(MountSource::Tmpfs, MountSource::Disk)
    }
}

model! {
    /// One NIC and the addresses on it.
    pub struct NetworkEndpoint {
        /// Number of the NIC: `eth<device>` in the order of the VM's devices.
        device: u32 = "device",
        /// Name of the network.
        name: String = "network/Common/name",
        /// Its MAC address, for inspection; the device has it already.
        mac: String = "mac",
        /// Address; by DHCP when absent.
        address: Option<Cidr> = "ip",
        /// Default gateway through this NIC.
        gateway: Option<IpAddr> = "network/gateway",
        /// More networks that are reached through the gateway.
        destinations: Vec<Cidr> = "network/destinations",
        /// Name servers of this network.
        dns: Vec<IpAddr> = "network/dns",
        /// Brought up without any address.
        unnumbered: bool = "unnumbered",
    }
}

model! {
    /// A line of `/etc/hosts`.
    pub struct HostEntry {
        /// Host names, separated by blanks.
        name: String = "name",
        /// Address.
        ip: Option<IpAddr> = "ip",
    }
}

impl ExecutorConfig {
    /// The keys that hold this configuration in a containerVM.
    pub fn encode(&self) -> BTreeMap<String, String> {
        codec::encode(self, "", None).out
    }

    /// Reads a containerVM's keys; those of others are ignored.
    ///
    /// # Errors
    /// When a key does not hold what its field needs.
    pub fn decode(keys: &BTreeMap<String, String>) -> Result<Self, DecodeError> {
        codec::decode(keys, "")
    }

    /// Reads it by batches of keys: `fetch` answers one value or `None` for each key asked.
    ///
    /// # Errors
    /// When `fetch` fails or a key does not hold what its field needs.
    pub fn fetch<E>(
        mut fetch: impl FnMut(&[String]) -> Result<Vec<Option<String>>, E>,
    ) -> Result<Self, FetchError<E>> {
        codec::fetch("", &mut fetch)
    }

    /// The container's own process.
    pub fn primary(&self) -> Option<&Session> {
        self.sessions.get(&self.id)
    }

    /// The host name that the container sees.
    pub fn host_name(&self) -> &str {
        if self.hostname.is_empty() {
            self.id.get(..12).unwrap_or(&self.id)
        } else {
            &self.hostname
        }
    }
}
