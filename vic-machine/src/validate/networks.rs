//! Port groups.

use vmomi::ManagedObjectReference as Reference;
use vmomi::client::Client;

use super::{Network, Problems};
use crate::inventory::{Inventory, Node};
use crate::plan::Plan;

const KINDS: [&str; 3] = ["Network", "DistributedVirtualPortgroup", "OpaqueNetwork"];

/// Finds every network that the appliance needs; the bridge may be missing on an ESXi host.
pub(super) fn check(
    client: &Client,
    plan: &Plan,
    inventory: &Inventory,
    datacenter: &Reference,
    problems: &mut Problems,
) -> Vec<(String, Vec<&'static str>, Option<Network>)> {
    let all = inventory.within(datacenter, &KINDS);
    let mut nics = Vec::new();
    for (name, roles) in plan.nics() {
        let found = all.iter().find(|node| node.name == name);
        let is_bridge = roles == ["bridge"];
        match found {
            Some(node) if is_bridge && client.is_vcenter() && node.object.r#type == "Network" => {
                problems.add(bridge_on_vcenter(&all));
            }
            None if is_bridge && client.is_vcenter() => problems.add(bridge_on_vcenter(&all)),
            None if !is_bridge => {
                let role = roles.first().copied().unwrap_or("public");
                problems.add(not_found(&format!("--{role}-network"), &name, &all, plan));
            }
            _ => {}
        }
        let network = found.map(|node| Network {
            object: node.object.clone(),
            name: node.name.clone(),
        });
        nics.push((name, roles, network));
    }
    nics
}

fn not_found(option: &str, name: &str, all: &[&Node], plan: &Plan) -> String {
    let names: Vec<String> = all
        .iter()
        .filter(|node| node.name != plan.bridge.network && !is_uplink(node))
        .map(|node| format!("  {:?}", node.name))
        .collect();
    format!(
        "{option}: network '{name}' not found\nSuggested values for {option}:\n{}",
        names.join("\n")
    )
}

fn bridge_on_vcenter(all: &[&Node]) -> String {
    let names: Vec<String> = all
        .iter()
        .filter(|node| node.object.r#type != "Network" && !is_uplink(node))
        .map(|node| format!("  {:?}", node.name))
        .collect();
    format!(
        "An existing distributed port group or opaque network must be specified for bridge network on vCenter\n\
         Suggested values for --bridge-network:\n{}",
        names.join("\n")
    )
}

/// Ports of a distributed switch to the outside are no place for VMs.
fn is_uplink(node: &Node) -> bool {
    node.name.contains("DVUplinks")
}
