//! What the hosts must allow: firewall, licence, DRS.

use tracing::{info, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::Poly;
use vmomi::client::{Client, Error};
use vmomi::types::{
    ClusterConfigInfoEx, HostFirewallInfo, HostFirewallRuleDirection, KeyAnyValue, KeyValue,
    LicenseManagerLicenseInfo, QueryAssignedLicensesRequest,
};

use super::Problems;
use crate::inventory::Inventory;

/// Where a VCH listens for the serial lines of hosts.
const SERIAL_PORT: i32 = 2377;

/// An ESXi host that a vCenter manages is changed through that vCenter only.
pub(super) async fn not_managed(
    client: &Client,
    inventory: &Inventory,
    problems: &mut Problems,
) -> Result<(), Error> {
    if client.is_vcenter() {
        return Ok(());
    }
    for datacenter in inventory.datacenters() {
        for host in inventory.within(&datacenter.object, &["HostSystem"]) {
            let manager: Option<String> = client
                .property(&host.object, "summary.managementServerIp")
                .await?;
            if let Some(manager) = manager.filter(|manager| !manager.is_empty()) {
                problems.add(format!(
                    "Target is managed by vCenter server {manager:?}, please change --target to that vCenter \
                     server's address or select a standalone ESXi"
                ));
            }
        }
    }
    Ok(())
}

/// Each host must let its VMs' serial lines out.
pub(super) async fn firewall(
    client: &Client,
    inventory: &Inventory,
    hosts: &[Reference],
    force: bool,
    problems: &mut Problems,
) -> Result<(), Error> {
    let (mut good, mut bad, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for host in hosts {
        let path = inventory.path(host);
        match firewall_of(client, host).await? {
            None => unknown.push(path),
            Some(firewall) => {
                let enabled = is_enabled(&firewall);
                info!(
                    "Firewall status: {} on {path}",
                    if enabled { "ENABLED" } else { "DISABLED" }
                );
                if !enabled || lets_out(&firewall) {
                    good.push(path)
                } else {
                    bad.push(path)
                }
            }
        }
    }
    if !good.is_empty() {
        info!("Firewall configuration OK on hosts:");
        good.iter().for_each(|path| info!("{path}"));
    }
    if !unknown.is_empty() {
        warn!("Firewall configuration UNKNOWN on hosts:");
        unknown.iter().for_each(|path| warn!("{path}"));
    }
    if !bad.is_empty() && force {
        warn!("Firewall configuration INCORRECT on hosts:");
        bad.iter().for_each(|path| warn!("{path}"));
    } else if !bad.is_empty() {
        problems.add(format!(
            "Firewall configuration INCORRECT on hosts:\n{}\n\
             Firewall must permit dst {SERIAL_PORT}/tcp outbound to the VCH management interface",
            bad.join("\n")
        ));
    }
    Ok(())
}

async fn firewall_of(client: &Client, host: &Reference) -> Result<Option<HostFirewallInfo>, Error> {
    let system: Option<Reference> = client
        .property(host, "configManager.firewallSystem")
        .await?;
    match system {
        Some(system) => client.property(&system, "firewallInfo").await,
        None => Ok(None),
    }
}

/// A firewall that blocks nothing by default is none.
fn is_enabled(firewall: &HostFirewallInfo) -> bool {
    let policy = &firewall.default_policy;
    policy.incoming_blocked.unwrap_or(true) || policy.outgoing_blocked.unwrap_or(true)
}

fn lets_out(firewall: &HostFirewallInfo) -> bool {
    if !firewall.default_policy.outgoing_blocked.unwrap_or(true) {
        return true;
    }
    firewall
        .ruleset
        .iter()
        .filter(|set| set.enabled)
        .flat_map(|set| &set.rule)
        .any(|rule| {
            let ports = rule.port..=rule.end_port.unwrap_or(rule.port);
            rule.direction == HostFirewallRuleDirection::Outbound
                && rule.protocol.eq_ignore_ascii_case("tcp")
                && (ports.contains(&SERIAL_PORT) || rule.port == 0)
        })
}

/// Each host needs a licence with serial ports over the network, and in a vCenter with distributed switches.
pub(super) async fn licence(
    client: &Client,
    inventory: &Inventory,
    hosts: &[Reference],
    problems: &mut Problems,
) -> Result<(), Error> {
    let Some(manager) = &client.content().license_manager else {
        problems.add("License check FAILED: the target has no license manager");
        return Ok(());
    };
    let assignments: Option<Reference> =
        client.property(manager, "licenseAssignmentManager").await?;
    let mut lacking = Vec::new();
    let mut evaluation = false;
    for host in hosts {
        let licences: Vec<LicenseManagerLicenseInfo> = match (&assignments, client.is_vcenter()) {
            (Some(assignments), true) => {
                let request = QueryAssignedLicensesRequest {
                    entity_id: Some(host.value.clone()),
                };
                let assigned = client.invoke(assignments, request).await?;
                assigned
                    .into_iter()
                    .map(|assignment| assignment.assigned_license)
                    .collect()
            }
            _ => client
                .property(manager, "licenses")
                .await?
                .unwrap_or_default(),
        };
        evaluation |= licences.iter().any(|licence| licence.edition_key == "eval");
        let missing = missing_features(&licences, client.is_vcenter());
        if !missing.is_empty() {
            lacking.push(format!("{} - {}", inventory.path(host), missing.join(", ")));
        }
    }
    if evaluation {
        warn!(
            "Evaluation license detected. VIC may not function if evaluation expires or insufficient license is \
             later assigned."
        );
    }
    if lacking.is_empty() {
        info!("License check OK");
    } else {
        problems.add(format!(
            "License check FAILED on hosts (missing features):\n{}",
            lacking.join("\n")
        ));
    }
    Ok(())
}

/// Features that no licence has, by the names that users know.
fn missing_features(licences: &[LicenseManagerLicenseInfo], vcenter: bool) -> Vec<&'static str> {
    let has = |feature: &str| {
        licences.iter().any(|licence| {
            licence.edition_key == "eval"
                || licence
                    .properties
                    .iter()
                    .any(|property| names(property, feature))
        })
    };
    let mut missing = Vec::new();
    if !has("serialuri") {
        missing.push("serial port over the network");
    }
    if vcenter && !has("dvs") {
        missing.push("distributed switch");
    }
    missing
}

/// A feature is a property of the key `feature` whose value begins with its short name and a version.
fn names(property: &KeyAnyValue, feature: &str) -> bool {
    property.key == "feature"
        && property
            .value
            .as_data::<KeyValue>()
            .is_some_and(|pair| pair.key.split(':').next() == Some(feature))
}

/// Looks for DRS; without it a cluster has no resource pools.
pub(super) async fn drs(
    client: &Client,
    inventory: &Inventory,
    compute: &Reference,
) -> Result<bool, Error> {
    let path = inventory.path(compute);
    if compute.r#type != "ClusterComputeResource" {
        info!("DRS check SKIPPED - target is standalone host");
        return Ok(true);
    }
    let configuration: Option<Poly<vmomi::types::ComputeResourceConfigInfo>> =
        client.property(compute, "configurationEx").await?;
    let enabled = configuration
        .as_ref()
        .and_then(|configuration| configuration.get::<ClusterConfigInfoEx>())
        .and_then(|cluster| cluster.drs_config.enabled)
        .unwrap_or(false);
    if enabled {
        info!("DRS check OK on:");
        info!("{path}");
    } else {
        warn!("DRS is recommended, but is disabled on:");
        warn!("{path}");
        warn!("The VCH gets no resource pool of its own, and its limits are ignored");
    }
    Ok(enabled)
}
