//! Datacenter, cluster or host, and resource pool.

use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error};
use vmomi::types::FindChildRequest;

use super::Problems;
use crate::inventory::{Inventory, Node};

/// The cluster or host, and the pool in it.
#[derive(Clone, Debug)]
pub(crate) struct Compute {
    pub(crate) object: Reference,
    pub(crate) pool: Reference,
    pub(crate) hosts: Vec<Reference>,
}

const COMPUTES: [&str; 2] = ["ComputeResource", "ClusterComputeResource"];
const POOLS: [&str; 2] = ["ResourcePool", "VirtualApp"];

/// The datacenter that the target names, or the only one.
pub(crate) fn datacenter<'a>(
    inventory: &'a Inventory,
    wanted: Option<&str>,
    problems: &mut Problems,
) -> Option<&'a Node> {
    let all = inventory.datacenters();
    let found = match wanted {
        Some(name) => all.iter().find(|node| node.name == name),
        None if all.len() == 1 => all.first(),
        None => None,
    };
    if found.is_none() {
        let what = match wanted {
            Some(name) => format!("Datacenter {name:?} in --target is not found"),
            None => "Datacenter must be specified in --target".to_owned(),
        };
        let names = all.iter().map(|node| format!("  {}", node.name));
        problems.add(suggest(what, "Suggested datacenters:", names));
    }
    found.copied()
}

/// The pool that `--compute-resource` names, or the only one.
///
/// # Errors
/// When there is none, or several: the text lists what could be given.
pub(crate) fn choose(
    client: &Client,
    inventory: &Inventory,
    datacenter: &Reference,
    wanted: Option<&str>,
) -> Result<Compute, String> {
    let computes = inventory.within(datacenter, &COMPUTES);
    let suggestion = |what: String| {
        let names = computes
            .iter()
            .map(|node| format!("  {}", inventory.path(&node.object)));
        suggest(what, "Suggested values for --compute-resource:", names)
    };
    let Some(wanted) = wanted
        .map(|text| text.trim_end_matches('/'))
        .filter(|text| !text.is_empty())
    else {
        return match computes.as_slice() {
            [only] => {
                of_compute(only).ok_or_else(|| suggestion("the target has no resource pool".into()))
            }
            _ => Err(suggestion("Please specify a --compute-resource".into())),
        };
    };
    let mut found: Vec<Compute> = computes
        .iter()
        .filter(|node| names_compute(inventory, node, wanted))
        .filter_map(|node| of_compute(node))
        .collect();
    if found.is_empty() {
        let pools = inventory.within(datacenter, &POOLS);
        let named = pools
            .iter()
            .filter(|node| inventory.path_ends_with(&node.object, wanted));
        found.extend(named.filter_map(|node| of_pool(inventory, node)));
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] if !client.is_vcenter() && matches!(wanted, "/" | "Resources") => computes
            .first()
            .and_then(|node| of_compute(node))
            .ok_or_else(|| suggestion("no pool".into())),
        [] => Err(suggestion(format!(
            "The compute resource {wanted:?} is not found"
        ))),
        _ => Err(suggestion(format!(
            "The compute resource {wanted:?} is ambiguous"
        ))),
    }
}

/// Whether a cluster or standalone host is meant, by its own path or by that of its only host.
fn names_compute(inventory: &Inventory, node: &Node, wanted: &str) -> bool {
    let own = inventory.path_ends_with(&node.object, wanted);
    let hosts: Vec<Reference> = node.properties.get("host").unwrap_or_default();
    own || (hosts.len() == 1 && inventory.path_ends_with(&hosts[0], wanted))
}

fn of_compute(node: &Node) -> Option<Compute> {
    Some(Compute {
        object: node.object.clone(),
        pool: node.properties.get("resourcePool")?,
        hosts: node.properties.get("host").unwrap_or_default(),
    })
}

fn of_pool(inventory: &Inventory, node: &Node) -> Option<Compute> {
    let owner: Reference = node.properties.get("owner")?;
    let compute = of_compute(inventory.get(&owner)?)?;
    Some(Compute {
        pool: node.object.clone(),
        ..compute
    })
}

/// Looks whether a VCH or another VM of this name is in the pool of this name.
pub(super) async fn name_is_free(
    client: &Client,
    pool: &Reference,
    name: &str,
    problems: &mut Problems,
) -> Result<(), Error> {
    for found in vms_named(client, pool, name).await? {
        problems.add(format!(
            "{name:?} already exists in this resource pool: {}",
            found.value
        ));
    }
    Ok(())
}

/// VMs of this name in the pool of this name, or beside it.
async fn vms_named(client: &Client, pool: &Reference, name: &str) -> Result<Vec<Reference>, Error> {
    let Some(index) = &client.content().search_index else {
        return Ok(Vec::new());
    };
    let child = |entity: Reference| FindChildRequest {
        entity,
        name: name.to_owned(),
    };
    let mut found = Vec::new();
    let inner = client.invoke(index, child(pool.clone())).await?;
    if let Some(own) = inner {
        if own.r#type == "VirtualMachine" {
            found.push(own);
        } else if let Some(vm) = client.invoke(index, child(own)).await? {
            found.push(vm);
        }
    }
    Ok(found)
}

fn suggest(what: String, heading: &str, names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        what
    } else {
        format!("{what}\n{heading}\n{}", names.join("\n"))
    }
}
