//! The containers' port group, which is made on an ESXi host where it is missing.

use tracing::info;
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::Client;
use vmomi::types::{
    AddPortGroupRequest, AddVirtualSwitchRequest, HostPortGroupSpec, HostVirtualSwitchSpec,
};

use super::undo::{Made, Undo};
use crate::failure::{Failure, Tried};
use crate::inventory::unescape;
use crate::plan::Plan;
use crate::validate::{Network, Placement};

/// Ports of the switch: more containers than one host runs.
const PORTS: i32 = 1024;
/// The switch has no uplink; a VLAN of its own keeps the bridge apart if it ever gets one.
const VLAN: i32 = 1;

/// A NIC of the appliance: its network and the roles on it.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) network: Network,
    pub(super) roles: Vec<&'static str>,
}

/// Makes the bridge if need be, and gives all NICs.
pub(super) async fn ensure(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    undo: &mut Undo,
) -> Result<Vec<Nic>, Failure> {
    let mut nics = Vec::new();
    for (name, roles, found) in &placement.nics {
        let network = match found {
            Some(network) => network.clone(),
            None => make(client, plan, placement, undo).await?.ok_or_else(|| {
                Failure::new(format!("the network {name} is not there after it was made"))
            })?,
        };
        nics.push(Nic {
            network,
            roles: roles.clone(),
        });
    }
    Ok(nics)
}

async fn make(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    undo: &mut Undo,
) -> Result<Option<Network>, Failure> {
    let name = &plan.bridge.network;
    let host = placement
        .hosts
        .first()
        .ok_or_else(|| Failure::new("the target has no host"))?;
    let system: Reference = client
        .property(host, "configManager.networkSystem")
        .await
        .tried("cannot read the host's network system")?
        .ok_or_else(|| Failure::new("the host has no network system"))?;
    info!("Creating VirtualSwitch");
    let request = AddVirtualSwitchRequest {
        vswitch_name: name.clone(),
        spec: Some(HostVirtualSwitchSpec {
            num_ports: PORTS,
            ..Default::default()
        }),
    };
    match client.invoke(&system, request).await {
        Ok(()) => undo.note(Made::Switch(system.clone(), name.clone())),
        Err(error) if error.is_fault("AlreadyExists") => {}
        Err(error) => {
            return Err(Failure::because(
                format!("cannot create the virtual switch {name}"),
                error,
            ));
        }
    }
    info!("Creating Portgroup");
    let portgrp = HostPortGroupSpec {
        name: name.clone(),
        vlan_id: VLAN,
        vswitch_name: name.clone(),
        ..Default::default()
    };
    match client
        .invoke(&system, AddPortGroupRequest { portgrp })
        .await
    {
        Ok(()) => undo.note(Made::PortGroup(system.clone(), name.clone())),
        Err(error) if error.is_fault("AlreadyExists") => {}
        Err(error) => {
            return Err(Failure::because(
                format!("cannot create the port group {name}"),
                error,
            ));
        }
    }
    find(client, placement, name).await
}

async fn find(
    client: &Client,
    placement: &Placement,
    name: &str,
) -> Result<Option<Network>, Failure> {
    let all = client
        .below(&placement.datacenter, &["Network"], &["name"])
        .await
        .tried("cannot read the target's networks")?;
    let found = all
        .iter()
        .find(|network| network.text("name").map(unescape).as_deref() == Some(name));
    Ok(found.map(|network| Network {
        object: network.object.clone(),
        name: name.to_owned(),
    }))
}
