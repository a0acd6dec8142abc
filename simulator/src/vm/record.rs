//! The truth about one VM, and how the inventory shows it.

use std::collections::BTreeMap;

use vmomi::types::{
    GuestInfo, ManagedEntityStatus, OptionValue, ToolsConfigInfo, VirtualDisk,
    VirtualDiskFlatVer2BackingInfo, VirtualEthernetCardDistributedVirtualPortBackingInfo,
    VirtualEthernetCardNetworkBackingInfo, VirtualMachineCapability, VirtualMachineConfigInfo,
    VirtualMachineConfigSummary, VirtualMachineDefaultPowerOpInfo, VirtualMachineFlagInfo,
    VirtualMachineGuestSummary, VirtualMachinePowerState, VirtualMachineQuickStats,
    VirtualMachineRuntimeInfo, VirtualMachineStorageSummary, VirtualMachineSummary,
    VirtualMachineToolsStatus,
};
use vmomi::{Any, ManagedObjectReference as Moref};

use super::devices;
use crate::clock::now;
use crate::datastore::DatastorePath;
use crate::inventory::{Prop, Transaction, Tree};
use crate::model::{ADMIN_ROLE, allocation, entity_props};
use crate::world::World;

mod files;

use self::files::files;

/// The key that only the guest may read: secrets are sealed under what it holds.
pub(crate) const SECRET: &str = "guestinfo.ovfEnv";

/// One VM.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) moref: Moref,
    pub(crate) folder: Moref,
    pub(crate) pool: Moref,
    pub(crate) host: Moref,
    /// Where its `.vmx` file is.
    pub(crate) vmx: DatastorePath,
    /// Its configuration without `extraConfig`.
    pub(crate) config: VirtualMachineConfigInfo,
    /// What `extraConfig` shows.
    pub(crate) extra: BTreeMap<String, Any>,
    /// What it does not show.
    pub(crate) hidden: BTreeMap<String, String>,
    pub(crate) runtime: VirtualMachineRuntimeInfo,
    pub(crate) guest: GuestInfo,
}

impl Record {
    /// A VM with nothing but what every VM has.
    pub(crate) fn new(moref: Moref, name: &str, vmx: DatastorePath, home: Home) -> Self {
        let uuid = || uuid::Uuid::new_v4().to_string();
        let mut config = VirtualMachineConfigInfo {
            change_version: now().to_string(),
            modified: now(),
            create_date: Some(now()),
            name: name.to_owned(),
            guest_id: "otherGuest64".into(),
            guest_full_name: "Other (64-bit)".into(),
            version: "vmx-19".into(),
            uuid: uuid(),
            instance_uuid: Some(uuid()),
            annotation: Some(String::new()),
            files: files(&vmx),
            tools: Some(ToolsConfigInfo {
                tools_version: Some(i32::MAX),
                after_power_on: Some(true),
                after_resume: Some(true),
                before_guest_standby: Some(true),
                before_guest_shutdown: Some(true),
                tools_upgrade_policy: Some("manual".into()),
                sync_time_with_host: Some(false),
                ..Default::default()
            }),
            flags: VirtualMachineFlagInfo {
                enable_logging: Some(true),
                disk_uuid_enabled: Some(true),
                monitor_type: Some("release".into()),
                ..Default::default()
            },
            default_power_ops: VirtualMachineDefaultPowerOpInfo {
                power_off_type: Some("soft".into()),
                suspend_type: Some("hard".into()),
                reset_type: Some("soft".into()),
                default_power_off_type: Some("soft".into()),
                default_suspend_type: Some("hard".into()),
                default_reset_type: Some("soft".into()),
                standby_action: Some("checkpoint".into()),
                ..Default::default()
            },
            cpu_allocation: Some(allocation(1000)),
            memory_allocation: Some(allocation(10)),
            memory_hot_add_enabled: Some(false),
            cpu_hot_add_enabled: Some(false),
            cpu_hot_remove_enabled: Some(false),
            swap_placement: Some("inherit".into()),
            firmware: Some("bios".into()),
            max_mks_connections: Some(40),
            change_tracking_enabled: Some(false),
            ..Default::default()
        };
        config.hardware.num_cpu = 1;
        config.hardware.num_cores_per_socket = Some(1);
        config.hardware.memory_mb = 32;
        config.hardware.device = devices::defaults();
        Record {
            moref,
            folder: home.folder,
            pool: home.pool,
            host: home.host.clone(),
            vmx,
            config,
            extra: BTreeMap::new(),
            hidden: BTreeMap::new(),
            runtime: VirtualMachineRuntimeInfo {
                host: Some(home.host),
                power_state: VirtualMachinePowerState::PoweredOff,
                fault_tolerance_state:
                    vmomi::types::VirtualMachineFaultToleranceState::NotConfigured,
                record_replay_state: vmomi::types::VirtualMachineRecordReplayState::Inactive,
                tools_installer_mounted: false,
                clean_power_off: Some(true),
                ..Default::default()
            },
            guest: quiet_guest(None),
        }
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Says whether the VM is on.
    pub(crate) fn is_on(&self) -> bool {
        self.runtime.power_state == VirtualMachinePowerState::PoweredOn
    }

    /// Sets an entry of `extraConfig`; an empty value takes it away.
    pub(crate) fn set_extra(&mut self, key: &str, value: Any) {
        let empty = value.as_str() == Some("");
        if key.eq_ignore_ascii_case(SECRET) {
            match value.as_str() {
                Some(text) if !empty => self.hidden.insert(SECRET.into(), text.to_owned()),
                _ => self.hidden.remove(SECRET),
            };
        } else if empty {
            self.extra.remove(key);
        } else {
            self.extra.insert(key.to_owned(), value);
        }
    }

    /// What the guest may read: the `guestinfo.` keys, the secret one included.
    pub(crate) fn guestinfo(&self) -> BTreeMap<String, String> {
        let shown = self
            .extra
            .iter()
            .filter(|(k, _)| k.starts_with("guestinfo."));
        let shown = shown.filter_map(|(k, v)| Some((k.clone(), text(v)?)));
        shown.chain(self.hidden.clone()).collect()
    }

    /// The disks: SCSI bus, unit, file.
    pub(crate) fn disks(&self) -> Vec<(i32, i32, &VirtualDisk, &str)> {
        let list = &self.config.hardware.device;
        list.iter()
            .filter_map(|device| {
                let disk = device.get::<VirtualDisk>()?;
                let bus = devices::bus(list, disk.controller_key?)?;
                let file = devices::file_of(disk.backing.as_ref()?)?;
                Some((bus, disk.unit_number?, disk, file))
            })
            .collect()
    }

    /// The moids of the networks to which the VM is connected.
    fn networks(&self, t: &Transaction) -> Vec<Moref> {
        let snapshot = t.snapshot();
        let mut found: Vec<Moref> = Vec::new();
        for device in &self.config.hardware.device {
            let Some(backing) = device.backing() else {
                continue;
            };
            let moref = if let Some(b) = backing.get::<VirtualEthernetCardNetworkBackingInfo>() {
                b.network.clone()
            } else {
                backing
                    .get::<VirtualEthernetCardDistributedVirtualPortBackingInfo>()
                    .and_then(|b| b.port.portgroup_key.as_ref())
                    .map(|key| Moref::new("DistributedVirtualPortgroup", key))
            };
            if let Some(moref) = moref
                && snapshot.find(&moref.value).is_some()
                && !found.contains(&moref)
            {
                found.push(moref);
            }
        }
        found
    }

    /// The datastores on which the VM has files.
    fn datastores(&self, world: &World) -> Vec<Moref> {
        let mut names = vec![self.vmx.datastore.clone()];
        for (_, _, _, file) in self.disks() {
            if let Ok(path) = file.parse::<DatastorePath>() {
                names.push(path.datastore);
            }
        }
        names.dedup();
        let mut found: Vec<Moref> = Vec::new();
        for store in names.iter().filter_map(|n| world.datastores.get(n)) {
            let moref = Moref::new("Datastore", &store.moid);
            if !found.contains(&moref) {
                found.push(moref);
            }
        }
        found
    }

    /// Adds the VM to the inventory.
    pub(crate) fn register(&self, world: &World, t: &mut Transaction) {
        let id = &self.moref.value;
        let mut props = entity_props(self.name(), Some(&self.folder));
        let browser = t
            .snapshot()
            .find(&self.host.value)
            .and_then(|h| h.reference("parent"))
            .and_then(|c| t.snapshot().find(&c.value))
            .and_then(|c| c.reference("environmentBrowser").cloned());
        props.extend([
            ("resourcePool", Prop::value(self.pool.clone())),
            (".host", Prop::value(self.host.clone())),
            ("capability", Prop::value(capability())),
            (
                "environmentBrowser",
                Prop::value(browser.unwrap_or_default()),
            ),
            ("rootSnapshot", Prop::value(Vec::<Moref>::new())),
            ("effectiveRole", Prop::value(vec![ADMIN_ROLE])),
            (
                "guestHeartbeatStatus",
                Prop::value(ManagedEntityStatus::Gray),
            ),
            ("datastore", Prop::Refs(Tree::default())),
            ("network", Prop::Refs(Tree::default())),
        ]);
        t.create(self.moref.clone(), props);
        t.add_ref(&self.folder.value, "childEntity", &self.moref);
        t.add_ref(&self.pool.value, "vm", &self.moref);
        t.add_ref(&self.host.value, "vm", &self.moref);
        self.publish(world, t);
        debug_assert!(t.snapshot().find(id).is_some());
    }

    /// Takes the VM out of the inventory.
    pub(crate) fn unregister(&self, t: &mut Transaction) {
        let id = &self.moref.value;
        t.remove_ref(&self.folder.value, "childEntity", id);
        t.remove_ref(&self.pool.value, "vm", id);
        t.remove_ref(&self.host.value, "vm", id);
        let object = t.snapshot().find(id).cloned();
        for name in ["datastore", "network"] {
            if let Some(refs) = object.as_ref().and_then(|o| o.refs(name)) {
                refs.for_each(&mut |_, target| t.remove_ref(&target.value, "vm", id));
            }
        }
        t.remove(id);
    }

    /// Shows everything as it is now.
    pub(crate) fn publish(&self, world: &World, t: &mut Transaction) {
        let id = &self.moref.value;
        t.set(id, "name", self.name());
        self.publish_config(t);
        t.set(id, "layout", self.layout());
        let summary = self.publish_files(world, t);
        t.set(id, "resourceConfig", self.resources());
        relink(t, id, "datastore", &self.datastores(world));
        let networks = self.networks(t);
        relink(t, id, "network", &networks);
        self.publish_state(t, Some(summary));
    }

    /// Shows how much room the files take now.
    pub(crate) fn publish_storage(&self, world: &World, t: &mut Transaction) {
        let summary = self.publish_files(world, t);
        self.publish_state(t, Some(summary));
    }

    fn publish_files(&self, world: &World, t: &mut Transaction) -> VirtualMachineStorageSummary {
        let id = &self.moref.value;
        let (layout, storage, summary) = self.storage(world);
        t.set(id, "layoutEx", layout);
        t.set(id, "storage", storage);
        summary
    }

    /// Shows `config` as it is now.
    pub(crate) fn publish_config(&self, t: &mut Transaction) {
        let mut config = self.config.clone();
        config.extra_config = self
            .extra
            .iter()
            .map(|(key, value)| OptionValue {
                key: key.clone(),
                value: Some(value.clone()),
                ..Default::default()
            })
            .collect();
        t.set(&self.moref.value, "config", config);
    }

    /// Shows `runtime`, `guest` and `summary` as they are now.
    pub(crate) fn publish_state(
        &self,
        t: &mut Transaction,
        storage: Option<VirtualMachineStorageSummary>,
    ) {
        let id = &self.moref.value;
        let storage = storage.or_else(|| {
            let object = t.snapshot().find(id)?;
            match object.props.get("summary")? {
                Prop::Value(any) => any.as_data::<VirtualMachineSummary>()?.storage.clone(),
                Prop::Refs(_) => None,
            }
        });
        t.set(id, "runtime", self.runtime.clone());
        t.set(id, "guest", self.guest.clone());
        let beat = if self.guest.tools_running_status.as_deref() == Some("guestToolsRunning") {
            ManagedEntityStatus::Green
        } else {
            ManagedEntityStatus::Gray
        };
        t.set(id, "guestHeartbeatStatus", beat.clone());
        t.set(id, "summary", self.summary(storage, beat));
    }

    fn summary(
        &self,
        storage: Option<VirtualMachineStorageSummary>,
        heartbeat: ManagedEntityStatus,
    ) -> VirtualMachineSummary {
        let count = |name: &str| {
            let devices = &self.config.hardware.device;
            i32::try_from(devices.iter().filter(|d| d.is_a(name)).count()).ok()
        };
        let config = &self.config;
        let guest = &self.guest;
        VirtualMachineSummary {
            vm: Some(self.moref.clone()),
            runtime: self.runtime.clone(),
            guest: Some(VirtualMachineGuestSummary {
                guest_id: guest.guest_id.clone(),
                guest_full_name: guest.guest_full_name.clone(),
                tools_status: guest.tools_status.clone(),
                tools_version_status: guest.tools_version_status.clone(),
                tools_version_status2: guest.tools_version_status2.clone(),
                tools_running_status: guest.tools_running_status.clone(),
                host_name: guest.host_name.clone(),
                ip_address: guest.ip_address.clone(),
                hw_version: guest.hw_version.clone(),
                ..Default::default()
            }),
            config: VirtualMachineConfigSummary {
                name: config.name.clone(),
                template: config.template,
                vm_path_name: self.vmx.to_string(),
                memory_size_mb: Some(config.hardware.memory_mb),
                cpu_reservation: Some(0),
                memory_reservation: Some(0),
                num_cpu: Some(config.hardware.num_cpu),
                num_ethernet_cards: count("VirtualEthernetCard"),
                num_virtual_disks: count("VirtualDisk"),
                uuid: Some(config.uuid.clone()),
                instance_uuid: config.instance_uuid.clone(),
                guest_id: Some(config.guest_id.clone()),
                guest_full_name: Some(config.guest_full_name.clone()),
                annotation: config.annotation.clone(),
                install_boot_required: Some(false),
                hw_version: Some(config.version.clone()),
                managed_by: config.managed_by.clone(),
                ..Default::default()
            },
            storage,
            quick_stats: VirtualMachineQuickStats {
                overall_cpu_usage: Some(0),
                guest_memory_usage: Some(0),
                host_memory_usage: Some(0),
                guest_heartbeat_status: heartbeat,
                uptime_seconds: Some(0),
                ..Default::default()
            },
            overall_status: ManagedEntityStatus::Green,
            ..Default::default()
        }
    }

    fn resources(&self) -> vmomi::types::ResourceConfigSpec {
        vmomi::types::ResourceConfigSpec {
            entity: Some(self.moref.clone()),
            cpu_allocation: self.config.cpu_allocation.clone().unwrap_or_default(),
            memory_allocation: self.config.memory_allocation.clone().unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Where a VM lies.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) folder: Moref,
    pub(crate) pool: Moref,
    pub(crate) host: Moref,
}

/// What is known of the guest of a VM that is off.
pub(crate) fn quiet_guest(before: Option<&GuestInfo>) -> GuestInfo {
    GuestInfo {
        tools_status: Some(VirtualMachineToolsStatus::ToolsNotRunning),
        tools_version_status: Some("guestToolsUnmanaged".into()),
        tools_version_status2: Some("guestToolsUnmanaged".into()),
        tools_running_status: Some("guestToolsNotRunning".into()),
        tools_version: Some("2147483647".into()),
        guest_state: "notRunning".into(),
        guest_id: before.and_then(|g| g.guest_id.clone()),
        guest_family: before.and_then(|g| g.guest_family.clone()),
        guest_full_name: before.and_then(|g| g.guest_full_name.clone()),
        host_name: before.and_then(|g| g.host_name.clone()),
        guest_operations_ready: Some(false),
        interactive_guest_operations_ready: Some(false),
        app_heartbeat_status: Some("none".into()),
        app_state: Some("none".into()),
        ..Default::default()
    }
}

/// The value of an option as text.
pub(crate) fn text(value: &Any) -> Option<String> {
    Some(match value {
        Any::String(v) | Any::Enum { value: v, .. } => v.clone(),
        Any::Bool(v) => v.to_string(),
        Any::Byte(v) => v.to_string(),
        Any::Short(v) => v.to_string(),
        Any::Int(v) => v.to_string(),
        Any::Long(v) => v.to_string(),
        Any::Float(v) => v.to_string(),
        Any::Double(v) => v.to_string(),
        _ => return None,
    })
}

/// Makes the references of a VM, and those back to it, what they should be.
fn relink(t: &mut Transaction, id: &str, name: &'static str, wanted: &[Moref]) {
    let Some(object) = t.snapshot().find(id).cloned() else {
        return;
    };
    let mut present = Vec::new();
    if let Some(refs) = object.refs(name) {
        refs.for_each(&mut |_, m| present.push(m.clone()));
    }
    for gone in present.iter().filter(|m| !wanted.contains(m)) {
        t.remove_ref(id, name, &gone.value);
        t.remove_ref(&gone.value, "vm", id);
    }
    for new in wanted.iter().filter(|m| !present.contains(m)) {
        t.add_ref(id, name, new);
        t.add_ref(&new.value, "vm", &object.moref);
    }
}

fn capability() -> VirtualMachineCapability {
    VirtualMachineCapability {
        console_preferences_supported: true,
        tools_auto_update_supported: true,
        disk_shares_supported: true,
        boot_options_supported: true,
        multiple_cores_per_socket_supported: true,
        ..Default::default()
    }
}

/// A backing with its parents, as the chain of files says.
pub(crate) fn backing(
    file: String,
    parent: Option<VirtualDiskFlatVer2BackingInfo>,
) -> VirtualDiskFlatVer2BackingInfo {
    VirtualDiskFlatVer2BackingInfo {
        file_name: file,
        disk_mode: "persistent".into(),
        split: Some(false),
        write_through: Some(false),
        thin_provisioned: Some(true),
        eagerly_scrub: Some(false),
        parent: parent.map(Into::into),
        ..Default::default()
    }
}
