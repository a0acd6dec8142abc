//! The VM of a container: the one spec that makes it, and what its keys say when it is read back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tether_protocol::config::{
    Cidr, ExecutorConfig, Hidden, HostEntry, Mount, NetworkEndpoint, ProcessState, ProcessStatus,
    Rootfs, Security, Session, Slot, StateKeys, Ulimit,
};
use time::OffsetDateTime;
use vmomi::Any;
use vmomi::types::{
    OptionValue, ParaVirtualSCSIController, ResourceAllocationInfo, SharesInfo, SharesLevel,
    VirtualCdrom, VirtualCdromIsoBackingInfo, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation, VirtualDeviceConfigSpecOperation,
    VirtualDeviceConnectInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo,
    VirtualEthernetCardNetworkBackingInfo, VirtualIDEController, VirtualMachineConfigSpec,
    VirtualMachineFileInfo, VirtualSerialPort, VirtualSerialPortFileBackingInfo,
    VirtualSerialPortURIBackingInfo, VirtualVmxnet3,
};

use super::event::{Power, Process, VmView};
use super::snapshot::{EndpointSnapshot, MountSnapshot};
use super::spec::{CreateSpec, MountSpec, ProcessSpec, Resources, SecuritySpec};
use crate::context::Settings;
use crate::ids::{ContainerId, EndpointId, NetworkId};

/// Key of the pvscsi controller in the spec.
const SCSI: i32 = 1000;
/// Key of the IDE controller that every VM has.
const IDE: i32 = 200;

/// What docker knows of a container and the guest must not: kept in keys outside `guestinfo.`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The container's id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// What it was made from.
    pub spec: CreateSpec,
    /// Its places in networks, with the addresses that it keeps for life.
    pub endpoints: Vec<EndpointRecord>,
    /// Its volumes and temporary file systems.
    pub mounts: Vec<MountRecord>,
    /// The chain ids of the layers that its disk stands on, lowest first.
    #[serde(default)]
    pub chains: Vec<String>,
}

/// A place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// This place.
    pub id: EndpointId,
    /// Further names.
    pub aliases: Vec<String>,
    /// The address.
    pub address: std::net::Ipv4Addr,
    /// Length of the prefix.
    pub prefix_len: u8,
    /// The gateway.
    pub gateway: std::net::Ipv4Addr,
    /// MAC address.
    pub mac: String,
}

/// A mount with its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The volume; none: a temporary file system.
    pub volume: Option<String>,
    /// Made for this container.
    pub anonymous: bool,
    /// The volume's disk as a datastore path.
    pub disk: String,
    /// Where in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Filled from the image when empty.
    pub copy_up: bool,
    /// Mount options.
    pub mode: String,
}

impl Record {
    /// What goes into keys outside `guestinfo.`. The name has a key of its own: it changes.
    ///
    /// # Errors
    /// When the documents cannot be written as JSON.
    pub fn hidden(&self) -> Result<BTreeMap<String, String>, serde_json::Error> {
        let mut hidden = Hidden::default();
        hidden
            .0
            .insert("record".into(), serde_json::to_string(self)?);
        hidden.0.insert("id".into(), self.id.to_string());
        hidden.0.insert("name".into(), self.name.clone());
        Ok(hidden.encode())
    }

    /// Reads a record from a VM's keys; `None` when the VM is no container of ours.
    pub fn read(keys: &BTreeMap<String, String>) -> Option<Self> {
        let hidden = Hidden::decode(keys).ok()?;
        let mut record: Self = serde_json::from_str(hidden.0.get("record")?).ok()?;
        if let Some(name) = hidden.0.get("name") {
            record.name.clone_from(name);
        }
        Some(record)
    }

    /// The keys that a rename changes.
    pub fn name_keys(name: &str) -> BTreeMap<String, String> {
        Hidden(BTreeMap::from([("name".to_owned(), name.to_owned())])).encode()
    }

    /// The endpoints as everybody may see them; addresses only while it runs.
    pub fn endpoint_snapshots(&self, running: bool) -> Vec<EndpointSnapshot> {
        let shown = |e: &EndpointRecord| EndpointSnapshot {
            network: e.network,
            network_name: e.network_name.clone(),
            id: e.id,
            aliases: e.aliases.clone(),
            address: running.then_some(e.address),
            prefix_len: e.prefix_len,
            gateway: running.then_some(e.gateway),
            mac: e.mac.clone(),
        };
        self.endpoints.iter().map(shown).collect()
    }

    /// The mounts as everybody may see them.
    pub fn mount_snapshots(&self) -> Vec<MountSnapshot> {
        let shown = |m: &MountRecord| MountSnapshot {
            volume: m.volume.clone(),
            anonymous: m.anonymous,
            source: m.disk.clone(),
            target: m.target.clone(),
            read_only: m.read_only,
            mode: m.mode.clone(),
        };
        self.mounts.iter().map(shown).collect()
    }

    /// The VM's name: `<name>-<short id>`.
    pub fn vm_name(&self) -> String {
        vm_name(&self.name, self.id)
    }

    /// The whole VM. A share of a CPU becomes a limit in MHz, where the CPUs' speed is known.
    ///
    /// # Errors
    /// When the record cannot be written as JSON.
    pub fn vm(
        &self,
        settings: &Settings,
        parent_disk: &str,
        cpu_mhz: u32,
    ) -> Result<VirtualMachineConfigSpec, serde_json::Error> {
        let mut keys = self.guest_config(settings).encode();
        keys.extend(self.hidden()?);
        let cpus = match (self.spec.resources.cpus, self.spec.resources.nano_cpus) {
            (0, 0) => settings.default_cpus,
            (0, nano) => u32::try_from(nano.div_ceil(1_000_000_000))
                .unwrap_or(1)
                .max(1),
            (n, _) => n,
        };
        let memory = match self.spec.resources.memory {
            0 => settings.default_memory,
            bytes => bytes,
        };
        let megabytes = memory.div_ceil(1 << 20).max(4);
        Ok(VirtualMachineConfigSpec {
            name: Some(self.vm_name()),
            guest_id: Some("other3xLinux64Guest".into()),
            instance_uuid: Some(instance_uuid(self.id)),
            files: Some(VirtualMachineFileInfo {
                vm_path_name: Some(format!("[{}]", settings.datastore)),
                ..Default::default()
            }),
            num_cpus: Some(i32::try_from(cpus).unwrap_or(1)),
            memory_mb: Some(i64::try_from(megabytes.div_ceil(4) * 4).unwrap_or(i64::MAX)),
            cpu_allocation: cpu_allocation(&self.spec.resources, cpus, cpu_mhz),
            device_change: self.devices(settings, parent_disk),
            extra_config: option_values(keys),
            ..Default::default()
        })
    }

    fn devices(
        &self,
        settings: &Settings,
        parent_disk: &str,
    ) -> Vec<vmomi::Poly<VirtualDeviceConfigSpec>> {
        let mut devices = vec![
            add(ParaVirtualSCSIController {
                key: SCSI,
                bus_number: 0,
                ..Default::default()
            }),
            add(VirtualIDEController {
                key: IDE,
                bus_number: 0,
                ..Default::default()
            }),
            add(VirtualCdrom {
                key: 3000,
                controller_key: Some(IDE),
                unit_number: Some(0),
                connectable: Some(connected()),
                backing: Some(
                    VirtualCdromIsoBackingInfo {
                        file_name: settings.bootstrap_iso.clone(),
                        ..Default::default()
                    }
                    .into(),
                ),
                ..Default::default()
            }),
        ];
        let root = VirtualDiskFlatVer2BackingInfo {
            file_name: format!(
                "[{}] {}/{}.vmdk",
                settings.datastore,
                self.vm_name(),
                self.id
            ),
            disk_mode: "persistent".into(),
            thin_provisioned: Some(true),
            parent: (!parent_disk.is_empty()).then(|| {
                VirtualDiskFlatVer2BackingInfo {
                    file_name: parent_disk.to_owned(),
                    disk_mode: "persistent".into(),
                    ..Default::default()
                }
                .into()
            }),
            ..Default::default()
        };
        let size = match self.spec.resources.disk {
            0 => settings.disk_size,
            bytes => bytes.max(settings.disk_size),
        };
        devices.push(disk(2000, 0, root, size, true));
        for (unit, mount) in self.disk_mounts() {
            let backing = VirtualDiskFlatVer2BackingInfo {
                file_name: mount.disk.clone(),
                disk_mode: "independent_persistent".into(),
                ..Default::default()
            };
            devices.push(disk(2000 + unit, unit, backing, 0, false));
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            devices.push(add(VirtualVmxnet3 {
                key: 4000 + i32::try_from(at).unwrap_or_default(),
                address_type: Some("manual".into()),
                mac_address: Some(endpoint.mac.clone()),
                connectable: Some(connected()),
                backing: Some(
                    VirtualEthernetCardNetworkBackingInfo {
                        device_name: settings.bridge_network.clone(),
                        ..Default::default()
                    }
                    .into(),
                ),
                ..Default::default()
            }));
        }
        devices.push(add(VirtualSerialPort {
            key: 9000,
            yield_on_poll: true,
            connectable: Some(connected()),
            backing: Some(
                VirtualSerialPortURIBackingInfo {
                    service_uri: settings.serial_uri.clone(),
                    direction: "client".into(),
                    proxy_uri: None,
                }
                .into(),
            ),
            ..Default::default()
        }));
        devices.push(add(VirtualSerialPort {
            key: 9001,
            yield_on_poll: true,
            connectable: Some(connected()),
            backing: Some(
                VirtualSerialPortFileBackingInfo {
                    file_name: format!(
                        "[{}] {}/{}.log",
                        settings.datastore,
                        self.vm_name(),
                        self.id
                    ),
                    ..Default::default()
                }
                .into(),
            ),
            ..Default::default()
        }));
        devices
    }

    /// The mounts that have a disk, with their SCSI units: 1 upward, 7 is the controller's own.
    fn disk_mounts(&self) -> impl Iterator<Item = (i32, &MountRecord)> {
        let units = (1..16).filter(|u| *u != 7);
        units.zip(self.mounts.iter().filter(|m| m.volume.is_some()))
    }

    fn guest_config(&self, settings: &Settings) -> ExecutorConfig {
        let spec = &self.spec;
        let slot = |unit: i32| Slot {
            bus: 0,
            unit: u8::try_from(unit).unwrap_or_default(),
        };
        let mut mounts: Vec<Mount> = self
            .disk_mounts()
            .map(|(unit, m)| Mount {
                name: m.volume.clone().unwrap_or_default(),
                slot: Some(slot(unit)),
                dest: m.target.clone(),
                read_only: m.read_only,
                copy_up: m.copy_up,
                ..Default::default()
            })
            .collect();
        for mount in &spec.mounts {
            if let MountSpec::Tmpfs { target, options } = mount {
                mounts.push(Mount {
                    dest: target.clone(),
                    options: options.clone(),
                    ..Default::default()
                });
            }
        }
        let gateway = self.endpoints.first().map(|e| e.gateway);
        let mut session = session_of(&spec.process, &spec.security);
        session.stop_signal = spec.stop_signal.clone().unwrap_or_default();
        session.stop_timeout = spec.stop_timeout.and_then(|t| u32::try_from(t).ok());
        session.init = spec.init;
        // A client that said so is about to attach: the guest keeps the first output for it.
        let expected = |name: &str| spec.documents.config[name].as_bool() == Some(true);
        session.attach = ["AttachStdin", "AttachStdout", "AttachStderr"]
            .into_iter()
            .any(expected);
        session.security.pids_limit = spec.resources.pids_limit;
        ExecutorConfig {
            id: self.id.to_string(),
            hostname: spec.hostname.clone(),
            domainname: spec.domainname.clone(),
            debug: settings.debug,
            vch_key: settings.identity.fingerprint(),
            log_port: Some(1),
            rootfs: Rootfs {
                slot: Some(slot(0)),
                read_only: spec.security.readonly_rootfs,
            },
            sessions: BTreeMap::from([(self.id.to_string(), session)]),
            mounts,
            networks: self.endpoints.iter().enumerate().map(network_of).collect(),
            dns: match spec
                .network
                .dns
                .iter()
                .filter_map(|d| d.parse().ok())
                .collect::<Vec<_>>()
            {
                own if own.is_empty() => gateway.map(IpAddr::V4).into_iter().collect(),
                own => own,
            },
            dns_search: spec.network.dns_search.clone(),
            dns_options: spec.network.dns_options.clone(),
            extra_hosts: spec
                .network
                .extra_hosts
                .iter()
                .filter_map(|line| {
                    let (name, address) = line.split_once([':', '='])?;
                    let ip = if address == "host-gateway" {
                        gateway.map(IpAddr::V4)
                    } else {
                        address.trim_matches(['[', ']']).parse().ok()
                    };
                    Some(HostEntry {
                        name: name.to_owned(),
                        ip,
                    })
                })
                .collect(),
            sysctls: spec
                .security
                .sysctls
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect(),
            shm_size: spec.security.shm_size,
        }
    }
}

fn network_of((device, endpoint): (usize, &EndpointRecord)) -> NetworkEndpoint {
    NetworkEndpoint {
        device: u32::try_from(device).unwrap_or_default(),
        name: endpoint.network_name.clone(),
        mac: endpoint.mac.clone(),
        address: Some(Cidr {
            ip: IpAddr::V4(endpoint.address),
            prefix: endpoint.prefix_len,
        }),
        gateway: (device == 0).then_some(IpAddr::V4(endpoint.gateway)),
        ..Default::default()
    }
}

/// A process as the guest is told to run it.
pub fn session_of(process: &ProcessSpec, security: &SecuritySpec) -> Session {
    let ulimit = |text: &String| {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Some(Ulimit {
            name: name.to_owned(),
            soft: soft.parse().ok()?,
            hard: hard.parse().ok()?,
        })
    };
    Session {
        args: process.argv.clone(),
        env: process.env.clone(),
        dir: process.cwd.clone(),
        user: process.user.clone(),
        groups: process.groups.clone(),
        tty: process.tty,
        rows: process.console.map_or(0, |c| c.height.into()),
        cols: process.console.map_or(0, |c| c.width.into()),
        open_stdin: process.open_stdin,
        stdin_once: process.stdin_once,
        security: Security {
            privileged: security.privileged,
            cap_add: security.cap_add.clone(),
            cap_drop: security.cap_drop.clone(),
            seccomp_unconfined: security.seccomp_unconfined,
            no_new_privileges: security.no_new_privileges,
            ulimits: security.ulimits.iter().filter_map(ulimit).collect(),
            oom_score_adj: security.oom_score_adj,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// vSphere's share of a CPU that docker calls 1024.
const SHARES: u64 = 1000;

/// What `--cpus` and `--cpu-shares` are on vSphere; none: its defaults.
fn cpu_allocation(
    resources: &Resources,
    cpus: u32,
    cpu_mhz: u32,
) -> Option<ResourceAllocationInfo> {
    let limit = match resources.nano_cpus {
        0 => None,
        nano => i64::try_from(u128::from(nano) * u128::from(cpu_mhz) / 1_000_000_000).ok(),
    };
    let shares = match u64::from(resources.cpu_shares) {
        0 => None,
        shares => i32::try_from((shares * SHARES * u64::from(cpus) / 1024).max(1)).ok(),
    };
    let allocation = ResourceAllocationInfo {
        limit: limit.filter(|mhz| *mhz > 0),
        shares: shares.map(|shares| SharesInfo {
            shares,
            level: SharesLevel::Custom,
        }),
        ..Default::default()
    };
    (allocation.limit.is_some() || allocation.shares.is_some()).then_some(allocation)
}

/// The name of a container's VM.
pub fn vm_name(name: &str, id: ContainerId) -> String {
    format!("{name}-{}", id.short())
}

/// The VM's instance UUID: the first half of the container's id, so that it can be found by it.
pub fn instance_uuid(id: ContainerId) -> String {
    let digits = id.to_string();
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..32],
    ]
    .join("-")
}

/// Keys and values as vSphere takes them.
pub fn option_values(keys: BTreeMap<String, String>) -> Vec<OptionValue> {
    keys.into_iter()
        .map(|(key, value)| OptionValue {
            key,
            value: Some(Any::from(value)),
        })
        .collect()
}

/// What a VM's power state and keys say.
pub fn view(id: ContainerId, power: &str, keys: &BTreeMap<String, String>) -> VmView {
    let state = ProcessState::decode(&id.to_string(), keys);
    let time = |nanos: Option<i64>| {
        nanos.and_then(|n| OffsetDateTime::from_unix_timestamp_nanos(i128::from(n)).ok())
    };
    let text = |key: &str| keys.get(key).cloned().unwrap_or_default();
    VmView {
        power: match power {
            "poweredOn" => Power::On,
            "suspended" => Power::Suspended,
            _ => Power::Off,
        },
        boot_key: text(StateKeys::BOOT),
        public_key: text(StateKeys::KEY),
        process: match state.status {
            ProcessStatus::Pending => Process::Pending,
            ProcessStatus::Running => Process::Running,
            ProcessStatus::Exited { code } => Process::Exited { code: code.into() },
            ProcessStatus::Failed { error, code } => Process::Failed {
                error,
                code: code.into(),
            },
        },
        started_at: time(state.started_at),
        stopped_at: time(state.stopped_at),
    }
}

fn connected() -> VirtualDeviceConnectInfo {
    VirtualDeviceConnectInfo {
        start_connected: true,
        allow_guest_control: true,
        connected: true,
        ..Default::default()
    }
}

fn add<D>(device: D) -> vmomi::Poly<VirtualDeviceConfigSpec>
where
    vmomi::Poly<vmomi::types::VirtualDevice>: From<D>,
{
    VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        device: device.into(),
        ..Default::default()
    }
    .into()
}

/// A disk to be added; `bytes` is its capacity when it is made.
pub fn disk(
    key: i32,
    unit: i32,
    backing: VirtualDiskFlatVer2BackingInfo,
    bytes: u64,
    create: bool,
) -> vmomi::Poly<VirtualDeviceConfigSpec> {
    VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        file_operation: create.then_some(VirtualDeviceConfigSpecFileOperation::Create),
        device: VirtualDisk {
            key,
            controller_key: Some(SCSI),
            unit_number: Some(unit),
            capacity_in_kb: i64::try_from(bytes / 1024).unwrap_or(i64::MAX),
            backing: Some(backing.into()),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_cpu_are_a_limit_in_mhz_and_shares_are_relative_to_dockers_1024() {
        let asked = |nano_cpus, cpu_shares| Resources {
            nano_cpus,
            cpu_shares,
            ..Resources::default()
        };
        assert_eq!(cpu_allocation(&asked(0, 0), 2, 2400), None);
        let half = cpu_allocation(&asked(500_000_000, 0), 1, 2400).expect("a limit");
        assert_eq!((half.limit, half.shares), (Some(1200), None));
        // Without the CPUs' speed only their number can be given.
        assert_eq!(cpu_allocation(&asked(500_000_000, 0), 1, 0), None);
        let shares = cpu_allocation(&asked(0, 512), 2, 2400).and_then(|a| a.shares);
        let shares = shares.expect("shares");
        assert_eq!((shares.shares, shares.level), (1000, SharesLevel::Custom));
    }
}
