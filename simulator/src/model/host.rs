//! What belongs to a host: its managers, its firewall, its switches and its own adapter.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    HostConfigInfo, HostConfigManager, HostDatastoreSystemCapabilities, HostDateTimeInfo,
    HostDateTimeSystemTimeZone, HostFileSystemMountInfo, HostFileSystemVolumeInfo,
    HostFirewallDefaultPolicy, HostFirewallInfo, HostFirewallRule, HostFirewallRuleDirection,
    HostFirewallRuleset, HostFirewallRulesetIpList, HostIpConfig, HostNetworkInfo, HostPortGroup,
    HostPortGroupSpec, HostService, HostServiceInfo, HostVirtualNic, HostVirtualNicManagerInfo,
    HostVirtualNicSpec, HostVirtualSwitch, HostVirtualSwitchSpec, VirtualNicManagerNetConfig,
};

use super::{Builder, none_of, storage};
use crate::inventory::{Prop, Transaction};

pub(super) fn managers(b: &mut Builder<'_, '_>, host: &str) -> HostConfigManager {
    let volumes = HostFileSystemVolumeInfo {
        volume_type_list: vec!["VMFS".into(), "NFS".into()],
        mount_info: b
            .datastores
            .values()
            .filter_map(|store| {
                let volume = storage::describe(store).1.vmfs?;
                Some(HostFileSystemMountInfo {
                    mount_info: storage::mounted(&store.moid),
                    volume: volume.into(),
                    ..Default::default()
                })
            })
            .collect(),
        ..Default::default()
    };
    let vnic = vec![vnic(b.management)];
    let nics = HostVirtualNicManagerInfo {
        net_config: vec![VirtualNicManagerNetConfig {
            nic_type: "management".into(),
            multi_select_allowed: true,
            candidate_vnic: vnic.clone(),
            selected_vnic: vnic,
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut add = |r#type: &str, name: &str, props: Vec<(&'static str, Prop)>| {
        let id = if host == "ha-host" {
            name.to_owned()
        } else {
            format!("{name}-{host}")
        };
        Some(b.t.create(Moref::new(r#type, id), props))
    };
    HostConfigManager {
        network_system: add("HostNetworkSystem", "networkSystem", vec![]),
        firewall_system: add(
            "HostFirewallSystem",
            "firewallSystem",
            vec![("firewallInfo", Prop::value(firewall()))],
        ),
        datastore_system: add(
            "HostDatastoreSystem",
            "datastoreSystem",
            vec![(
                "capabilities",
                Prop::value(HostDatastoreSystemCapabilities::default()),
            )],
        ),
        storage_system: add(
            "HostStorageSystem",
            "storageSystem",
            vec![("fileSystemVolumeInfo", Prop::value(volumes))],
        ),
        service_system: add(
            "HostServiceSystem",
            "serviceSystem",
            vec![("serviceInfo", Prop::value(services()))],
        ),
        date_time_system: add(
            "HostDateTimeSystem",
            "dateTimeSystem",
            vec![("dateTimeInfo", Prop::value(date_time()))],
        ),
        virtual_nic_manager: add(
            "HostVirtualNicManager",
            "virtualNicManager",
            vec![("info", Prop::value(nics))],
        ),
        advanced_option: add(
            "OptionManager",
            "ha-adv-options",
            vec![
                (
                    "setting",
                    Prop::value(none_of::<vmomi::types::OptionValue>()),
                ),
                (
                    "supportedOption",
                    Prop::value(none_of::<vmomi::types::OptionDef>()),
                ),
            ],
        ),
        ..Default::default()
    }
}

/// The firewall of a host, with the rule by which VMs reach serial port concentrators.
pub(super) fn firewall() -> HostFirewallInfo {
    let rule = |port: i32, end: Option<i32>, out: bool| HostFirewallRule {
        port,
        end_port: end,
        direction: if out {
            HostFirewallRuleDirection::Outbound
        } else {
            HostFirewallRuleDirection::Inbound
        },
        protocol: "tcp".into(),
        ..Default::default()
    };
    let set =
        |key: &str, label: &str, rules: Vec<HostFirewallRule>, enabled: bool| HostFirewallRuleset {
            key: key.into(),
            label: label.into(),
            rule: rules,
            enabled,
            allowed_hosts: Some(HostFirewallRulesetIpList {
                all_ip: true,
                ..Default::default()
            }),
            ..Default::default()
        };
    HostFirewallInfo {
        default_policy: HostFirewallDefaultPolicy {
            incoming_blocked: Some(true),
            outgoing_blocked: Some(true),
            ..Default::default()
        },
        ruleset: vec![
            set(
                "sshServer",
                "SSH Server",
                vec![rule(22, None, false)],
                false,
            ),
            set(
                "vSPC",
                "VM serial port connected to vSPC",
                vec![rule(0, Some(65535), true)],
                true,
            ),
            set(
                "vic-engine",
                "vic-engine",
                vec![rule(2377, None, true)],
                true,
            ),
            set(
                "httpClient",
                "httpClient",
                vec![rule(80, None, true), rule(443, None, true)],
                true,
            ),
        ],
        ..Default::default()
    }
}

/// What a host says of its switches, port groups and its own adapter.
fn host_network(
    portgroups: &[(String, String, i32)],
    switches: &[String],
    management: &str,
) -> HostNetworkInfo {
    let port = |name: &str, switch: &str, vlan: i32| HostPortGroup {
        key: Some(format!("key-vim.host.PortGroup-{name}")),
        spec: HostPortGroupSpec {
            name: name.into(),
            vlan_id: vlan,
            vswitch_name: switch.into(),
            ..Default::default()
        },
        ..Default::default()
    };
    let switch = |name: &str| HostVirtualSwitch {
        name: name.into(),
        key: format!("key-vim.host.VirtualSwitch-{name}"),
        num_ports: 1024,
        num_ports_available: 1024,
        mtu: Some(1500),
        spec: HostVirtualSwitchSpec {
            num_ports: 1024,
            mtu: Some(1500),
            ..Default::default()
        },
        ..Default::default()
    };
    let mut groups = vec![port("Management Network", "vSwitch0", 0)];
    groups.extend(
        portgroups
            .iter()
            .map(|(name, s, vlan)| port(name, s, *vlan)),
    );
    let mut all = vec![switch("vSwitch0")];
    all.extend(switches.iter().map(|s| switch(s)));
    HostNetworkInfo {
        vswitch: all,
        portgroup: groups,
        vnic: vec![vnic(management)],
        ..Default::default()
    }
}

/// The host's own adapter.
fn vnic(management: &str) -> HostVirtualNic {
    HostVirtualNic {
        device: "vmk0".into(),
        key: "key-vim.host.VirtualNic-vmk0".into(),
        portgroup: "Management Network".into(),
        spec: HostVirtualNicSpec {
            ip: Some(HostIpConfig {
                dhcp: false,
                ip_address: Some(management.to_owned()),
                subnet_mask: Some("255.255.255.0".into()),
                ..Default::default()
            }),
            mac: Some("00:50:56:ff:ff:01".into()),
            portgroup: Some("Management Network".into()),
            mtu: Some(1500),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// What runs on a host beside its VMs.
fn services() -> HostServiceInfo {
    let service = |key: &str, label: &str, running: bool| HostService {
        key: key.into(),
        label: label.into(),
        running,
        policy: if running { "on" } else { "off" }.into(),
        ..Default::default()
    };
    HostServiceInfo {
        service: vec![
            service("TSM-SSH", "SSH", false),
            service("ntpd", "NTP Daemon", true),
        ],
        ..Default::default()
    }
}

fn date_time() -> HostDateTimeInfo {
    let utc = || "UTC".to_owned();
    HostDateTimeInfo {
        time_zone: HostDateTimeSystemTimeZone {
            key: utc(),
            name: utc(),
            description: utc(),
            gmt_offset: 0,
            ..Default::default()
        },
        system_clock_protocol: Some("ntp".into()),
        ..Default::default()
    }
}

/// Writes a host's networks anew, from the port groups that it has.
pub(crate) fn refresh_host_network(
    t: &mut Transaction,
    host: &Moref,
    switches: &[String],
    management: &str,
) {
    let snapshot = t.snapshot().clone();
    let groups: Vec<(String, String, i32)> = snapshot
        .children(&host.value, "network")
        .into_iter()
        .filter(|o| o.moref.r#type == "Network")
        .map(|o| {
            let switch = o.text(".switch").unwrap_or("vSwitch0").to_owned();
            let vlan = o.text(".vlan").and_then(|v| v.parse().ok()).unwrap_or(0);
            (o.text("name").unwrap_or_default().to_owned(), switch, vlan)
        })
        .collect();
    let info = host_network(&groups, switches, management);
    let id = if host.value == "ha-host" {
        "networkSystem".to_owned()
    } else {
        format!("networkSystem-{}", host.value)
    };
    t.set(&id, "networkInfo", info.clone());
    if let Some(Prop::Value(config)) = snapshot
        .find(&host.value)
        .and_then(|o| o.props.get("config"))
        && let Some(config) = config.as_data::<HostConfigInfo>()
    {
        let config = HostConfigInfo {
            network: Some(info),
            ..config.clone()
        };
        t.set(&host.value, "config", config);
    }
}
