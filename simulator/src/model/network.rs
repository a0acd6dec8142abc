//! Networks as objects: standard port groups, distributed switches and their port groups.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    DVPortgroupConfigInfo, DVSCapability, DVSSummary, DistributedVirtualSwitchProductSpec,
    NetworkSummary, VMwareDVSConfigInfo,
};

use super::Builder;
use crate::clock::now;
use crate::inventory::{Prop, Transaction, Tree};

/// The properties of a standard port group.
fn props(moref: &Moref, name: &str) -> Vec<(&'static str, Prop)> {
    let summary = NetworkSummary {
        network: Some(moref.clone()),
        name: name.into(),
        accessible: true,
        ..Default::default()
    };
    vec![
        ("summary", Prop::value(summary)),
        ("host", Prop::Refs(Tree::default())),
        ("vm", Prop::Refs(Tree::default())),
    ]
}

/// Adds a standard port group to a running inventory.
pub(crate) fn portgroup(t: &mut Transaction, folder: &Moref, moid: &str, name: &str) -> Moref {
    let moref = Moref::new("Network", moid);
    let mut all = props(&moref, name);
    all.extend(super::entity_props(name, Some(folder)));
    let moref = t.create(moref, all);
    t.add_ref(&folder.value, "childEntity", &moref);
    moref
}

/// Adds the standard port groups; returns them.
pub(super) fn standard(b: &mut Builder<'_, '_>, folder: &Moref, names: &[String]) -> Vec<Moref> {
    names
        .iter()
        .map(|name| {
            let moid = b.moid(&format!("HaNetwork-{name}"), "network-");
            let moref = Moref::new("Network", &moid);
            let props = props(&moref, name);
            b.entity("Network", moid, name, Some((folder, "childEntity")), props)
        })
        .collect()
}

/// Adds a distributed switch and its port groups; returns the port groups.
pub(super) fn distributed(
    b: &mut Builder<'_, '_>,
    folder: &Moref,
    name: &str,
    portgroups: &[String],
) -> Vec<Moref> {
    let moid = b.moid("", "dvs-");
    let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).to_string();
    let product = DistributedVirtualSwitchProductSpec {
        name: Some("DVS".into()),
        vendor: Some("VMware, Inc.".into()),
        version: Some("8.0.0".into()),
        ..Default::default()
    };
    let config = VMwareDVSConfigInfo {
        uuid: uuid.clone(),
        name: name.into(),
        max_ports: i32::MAX,
        product_info: product.clone(),
        create_time: now(),
        max_mtu: 1500,
        ..Default::default()
    };
    let summary = DVSSummary {
        name: name.into(),
        uuid: uuid.clone(),
        product_info: Some(product),
        portgroup_name: portgroups.to_vec(),
        ..Default::default()
    };
    let switch = b.entity(
        "VmwareDistributedVirtualSwitch",
        moid,
        name,
        Some((folder, "childEntity")),
        vec![
            ("uuid", Prop::value(uuid)),
            ("capability", Prop::value(DVSCapability::default())),
            ("summary", Prop::value(summary)),
            ("config", Prop::value(config)),
            ("portgroup", Prop::Refs(Tree::default())),
            (
                "networkResourcePool",
                Prop::value(super::none_of::<vmomi::types::DVSNetworkResourcePool>()),
            ),
        ],
    );
    portgroups
        .iter()
        .map(|name| {
            let moid = b.moid("", "dvportgroup-");
            let moref = Moref::new("DistributedVirtualPortgroup", &moid);
            let mut props = props(&moref, name);
            props.extend([
                ("key", Prop::value(moid.clone())),
                (
                    "config",
                    Prop::value(DVPortgroupConfigInfo {
                        key: moid.clone(),
                        name: name.clone(),
                        num_ports: 1024,
                        distributed_virtual_switch: Some(switch.clone()),
                        r#type: "earlyBinding".into(),
                        auto_expand: Some(true),
                        ..Default::default()
                    }),
                ),
                ("portKeys", Prop::value(Vec::<String>::new())),
            ]);
            let moref = b.entity(
                "DistributedVirtualPortgroup",
                moid,
                name,
                Some((folder, "childEntity")),
                props,
            );
            b.t.add_ref(&switch.value, "portgroup", &moref);
            moref
        })
        .collect()
}
