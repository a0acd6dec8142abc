//! `SearchIndex`.

use std::sync::Arc;

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    FindAllByDnsNameRequest, FindAllByIpRequest, FindAllByUuidRequest, FindByDatastorePathRequest,
    FindByDnsNameRequest, FindByInventoryPathRequest, FindByIpRequest, FindByUuidRequest,
    FindChildRequest, GuestInfo, VirtualMachineConfigInfo,
};

use super::{Call, Reply, ok};
use crate::fault::Fault;
use crate::inventory::{Object, Prop, Snapshot};

/// The lists in which an object's children are.
const LISTS: [&str; 4] = ["childEntity", "host", "resourcePool", "vm"];

pub(super) fn call(call: &Call<'_>) -> Reply {
    let snapshot = call.world.inventory.now();
    match call.method {
        "FindByInventoryPath" => {
            let args = call.args::<FindByInventoryPathRequest>()?;
            ok(by_path(call, &snapshot, &args.inventory_path))
        }
        "FindChild" => {
            let args = call.args::<FindChildRequest>()?;
            let entity = snapshot
                .find(&args.entity.value)
                .ok_or_else(|| Fault::not_found(&args.entity))?;
            ok(child(&snapshot, entity, &args.name).map(|o| o.moref.clone()))
        }
        "FindByUuid" => {
            let args = call.args::<FindByUuidRequest>()?;
            let all = by_uuid(&snapshot, &args.uuid, args.vm_search, args.instance_uuid);
            ok(within(&snapshot, all, args.datacenter.as_ref())
                .into_iter()
                .next())
        }
        "FindAllByUuid" => {
            let args = call.args::<FindAllByUuidRequest>()?;
            let all = by_uuid(&snapshot, &args.uuid, args.vm_search, args.instance_uuid);
            ok(within(&snapshot, all, args.datacenter.as_ref()))
        }
        "FindByDatastorePath" => {
            let args = call.args::<FindByDatastorePathRequest>()?;
            let path = call.world.path(&args.path)?.to_string();
            let all = vms(&snapshot, |o| {
                config(o).is_some_and(|c| c.files.vm_path_name.as_deref() == Some(&path))
            });
            ok(within(&snapshot, all, Some(&args.datacenter))
                .into_iter()
                .next())
        }
        "FindByIp" => {
            let args = call.args::<FindByIpRequest>()?;
            let all = vms(&snapshot, |o| has_address(o, &args.ip));
            ok(within(&snapshot, all, args.datacenter.as_ref())
                .into_iter()
                .next())
        }
        "FindAllByIp" => {
            let args = call.args::<FindAllByIpRequest>()?;
            let all = vms(&snapshot, |o| has_address(o, &args.ip));
            ok(within(&snapshot, all, args.datacenter.as_ref()))
        }
        "FindByDnsName" => {
            let args = call.args::<FindByDnsNameRequest>()?;
            let all = vms(&snapshot, |o| has_name(o, &args.dns_name));
            ok(within(&snapshot, all, args.datacenter.as_ref())
                .into_iter()
                .next())
        }
        "FindAllByDnsName" => {
            let args = call.args::<FindAllByDnsNameRequest>()?;
            let all = vms(&snapshot, |o| has_name(o, &args.dns_name));
            ok(within(&snapshot, all, args.datacenter.as_ref()))
        }
        _ => Err(Fault::not_supported()),
    }
}

fn config(object: &Object) -> Option<&VirtualMachineConfigInfo> {
    match object.props.get("config")? {
        Prop::Value(any) => any.as_data(),
        Prop::Refs(_) => None,
    }
}

fn guest(object: &Object) -> Option<&GuestInfo> {
    match object.props.get("guest")? {
        Prop::Value(any) => any.as_data(),
        Prop::Refs(_) => None,
    }
}

fn has_address(object: &Object, address: &str) -> bool {
    guest(object).is_some_and(|g| {
        g.ip_address.as_deref() == Some(address)
            || g.net
                .iter()
                .any(|n| n.ip_address.iter().any(|a| a == address))
    })
}

fn has_name(object: &Object, name: &str) -> bool {
    guest(object).is_some_and(|g| g.host_name.as_deref() == Some(name))
}

fn vms(snapshot: &Snapshot, wanted: impl Fn(&Object) -> bool) -> Vec<Arc<Object>> {
    let mut found = Vec::new();
    snapshot.objects.for_each(&mut |_, object| {
        if object.moref.r#type == "VirtualMachine" && wanted(object) {
            found.push(object.clone());
        }
    });
    found
}

fn by_uuid(snapshot: &Snapshot, uuid: &str, vm: bool, instance: Option<bool>) -> Vec<Arc<Object>> {
    let same = |other: &str| other.eq_ignore_ascii_case(uuid);
    if vm {
        return vms(snapshot, |o| {
            config(o).is_some_and(|c| {
                if instance == Some(true) {
                    c.instance_uuid.as_deref().is_some_and(same)
                } else {
                    same(&c.uuid)
                }
            })
        });
    }
    let mut found = Vec::new();
    snapshot.objects.for_each(&mut |_, object| {
        if object.moref.r#type == "HostSystem"
            && let Some(Prop::Value(any)) = object.props.get("hardware")
            && let Some(info) = any.as_data::<vmomi::types::HostHardwareInfo>()
            && same(&info.system_info.uuid)
        {
            found.push(object.clone());
        }
    });
    found
}

fn within(snapshot: &Snapshot, found: Vec<Arc<Object>>, datacenter: Option<&Moref>) -> Vec<Moref> {
    found
        .into_iter()
        .filter(|o| datacenter.is_none_or(|dc| snapshot.lies_in(o, &dc.value)))
        .map(|o| o.moref.clone())
        .collect()
}

/// Finds a child by name.
fn child<'a>(snapshot: &'a Snapshot, parent: &Object, name: &str) -> Option<&'a Arc<Object>> {
    let wanted = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    if parent.moref.r#type == "Datacenter" {
        return ["vmFolder", "hostFolder", "datastoreFolder", "networkFolder"]
            .iter()
            .filter_map(|list| snapshot.find(&parent.reference(list)?.value))
            .find(|o| o.text("name") == Some(&wanted));
    }
    if let Some(pool) = parent.reference("resourcePool")
        && parent.moref.r#type != "VirtualMachine"
        && let Some(pool) = snapshot.find(&pool.value)
        && pool.text("name") == Some(&wanted)
    {
        return Some(pool);
    }
    LISTS.iter().find_map(|list| {
        let found = snapshot.child(&parent.moref.value, list, &wanted)?;
        // The VMs of a host are not its children.
        (parent.moref.r#type != "HostSystem").then_some(found)
    })
}

fn by_path(call: &Call<'_>, snapshot: &Snapshot, path: &str) -> Option<Moref> {
    let mut at = snapshot.find(&call.world.ids.root_folder)?;
    let mut parts = path.split('/').filter(|p| !p.is_empty()).peekable();
    // ESX clients begin with the root folder's own name.
    if parts.peek().copied() == at.text("name") {
        parts.next();
    }
    for part in parts {
        at = child(snapshot, at, part)?;
    }
    Some(at.moref.clone())
}
