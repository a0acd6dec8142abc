//! Hosts: switches, port groups, the firewall.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    AddPortGroupRequest, AddVirtualSwitchRequest, DisableRulesetRequest, EnableRulesetRequest,
    HostFirewallInfo, RemovePortGroupRequest, RemoveVirtualSwitchRequest,
};

use super::{Call, Reply, ok};
use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::inventory::{Object, Prop};
use crate::model;

pub(super) fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "AddVirtualSwitch" => {
            let args = call.args::<AddVirtualSwitchRequest>()?;
            let taken = switches(call).contains(&args.vswitch_name);
            if taken || args.vswitch_name == "vSwitch0" {
                return Err(Fault::plain("AlreadyExists"));
            }
            call.world
                .update_index(|i| i.switches.push(args.vswitch_name.clone()));
            refresh(call)?;
            ok(())
        }
        "RemoveVirtualSwitch" => {
            let name = &call.args::<RemoveVirtualSwitchRequest>()?.vswitch_name;
            if !switches(call).contains(name) {
                return Err(Fault::plain("NotFound"));
            }
            let used = {
                let index = lock(call);
                index
                    .portgroups
                    .iter()
                    .any(|(_, _, switch, _)| switch == name)
            };
            if used {
                return Err(Fault::in_use(name));
            }
            call.world
                .update_index(|i| i.switches.retain(|s| s != name));
            refresh(call)?;
            ok(())
        }
        "AddPortGroup" => {
            add_portgroup(call)?;
            ok(())
        }
        "RemovePortGroup" => {
            remove_portgroup(call)?;
            ok(())
        }
        "RefreshNetworkSystem"
        | "RefreshFirewall"
        | "RefreshStorageSystem"
        | "RescanAllHba"
        | "RescanVmfs"
        | "RefreshServices" => ok(()),
        "EnableRuleset" => ruleset(call, &call.args::<EnableRulesetRequest>()?.id, true),
        "DisableRuleset" => ruleset(call, &call.args::<DisableRulesetRequest>()?.id, false),
        "QueryDateTime" => ok(now()),
        "QueryMemoryOverhead" => ok(0i64),
        _ => Err(Fault::not_supported()),
    }
}

fn lock<'a>(call: &Call<'a>) -> std::sync::MutexGuard<'a, crate::state::Index> {
    call.world
        .index
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn switches(call: &Call<'_>) -> Vec<String> {
    lock(call).switches.clone()
}

/// The host to which the called system belongs.
fn host(call: &Call<'_>) -> Outcome<Moref> {
    let snapshot = call.world.inventory.now();
    let id = &call.this.value;
    let host = id.split_once('-').map_or("ha-host", |(_, host)| host);
    snapshot
        .find(host)
        .map(|o| o.moref.clone())
        .ok_or_else(|| Fault::not_found(call.this))
}

/// Writes the host's networks anew.
fn refresh(call: &Call<'_>) -> Outcome<()> {
    let host = host(call)?;
    let switches = switches(call);
    let management = call.world.management();
    call.world
        .inventory
        .commit(|t| model::refresh_host_network(t, &host, &switches, &management));
    Ok(())
}

fn named<'a>(
    snapshot: &'a crate::inventory::Snapshot,
    host: &Moref,
    name: &str,
) -> Option<&'a std::sync::Arc<Object>> {
    snapshot.child(&host.value, "network", name)
}

fn add_portgroup(call: &Call<'_>) -> Outcome<()> {
    let world = call.world;
    let spec = &call.args::<AddPortGroupRequest>()?.portgrp;
    if !(0..=4095).contains(&spec.vlan_id) {
        return Err(Fault::invalid_argument("portgrp.vlanId"));
    }
    if spec.vswitch_name != "vSwitch0" && !switches(call).contains(&spec.vswitch_name) {
        return Err(Fault::plain("NotFound"));
    }
    let host = host(call)?;
    let snapshot = world.inventory.now();
    if named(&snapshot, &host, &spec.name).is_some() {
        return Err(Fault::plain("AlreadyExists"));
    }
    let moid = if world.is_vc() {
        world.new_moid("network-")
    } else {
        format!("HaNetwork-{}", spec.name)
    };
    world.update_index(|index| {
        let entry = (
            moid.clone(),
            spec.name.clone(),
            spec.vswitch_name.clone(),
            spec.vlan_id,
        );
        index.portgroups.push(entry);
    });
    place_portgroup(
        call.world,
        &host,
        &moid,
        &spec.name,
        &spec.vswitch_name,
        spec.vlan_id,
    )?;
    refresh(call)
}

/// Shows a port group that somebody made on a host.
pub(crate) fn place_portgroup(
    world: &crate::world::World,
    host: &Moref,
    moid: &str,
    name: &str,
    switch: &str,
    vlan: i32,
) -> Outcome<()> {
    let snapshot = world.inventory.now();
    let datacenter = world
        .datacenter_of(&snapshot, &host.value)
        .ok_or_else(|| Fault::not_found(host))?;
    let folder = snapshot
        .find(&datacenter.value)
        .and_then(|dc| dc.reference("networkFolder").cloned())
        .ok_or_else(|| Fault::not_found(&datacenter))?;
    let compute = snapshot
        .find(&host.value)
        .and_then(|h| h.reference("parent").cloned());
    world.inventory.commit(|t| {
        let moref = if t.snapshot().find(moid).is_some() {
            Moref::new("Network", moid)
        } else {
            model::portgroup(t, &folder, moid, name)
        };
        t.set(moid, ".switch", switch);
        t.set(moid, ".vlan", vlan.to_string());
        for owner in [Some(host), compute.as_ref(), Some(&datacenter)]
            .into_iter()
            .flatten()
        {
            t.add_ref(&owner.value, "network", &moref);
        }
        t.add_ref(moid, "host", host);
    });
    Ok(())
}

fn remove_portgroup(call: &Call<'_>) -> Outcome<()> {
    let world = call.world;
    let name = &call.args::<RemovePortGroupRequest>()?.pg_name;
    let host = host(call)?;
    let snapshot = world.inventory.now();
    let made = {
        let index = lock(call);
        index
            .portgroups
            .iter()
            .find(|(_, n, _, _)| n == name)
            .map(|(id, ..)| id.clone())
    };
    let moid = made.ok_or_else(|| Fault::plain("NotFound"))?;
    let object = snapshot
        .find(&moid)
        .ok_or_else(|| Fault::plain("NotFound"))?;
    if object.refs("vm").is_some_and(|vms| vms.len() > 0) {
        return Err(Fault::in_use(name));
    }
    world.update_index(|index| index.portgroups.retain(|(id, ..)| *id != moid));
    world.inventory.commit(|t| {
        let mut owners = vec![host.clone()];
        owners.extend(
            snapshot
                .find(&host.value)
                .and_then(|h| h.reference("parent").cloned()),
        );
        owners.extend(world.datacenter_of(&snapshot, &host.value));
        for owner in &owners {
            t.remove_ref(&owner.value, "network", &moid);
        }
        if let Some(folder) = object.reference("parent") {
            t.remove_ref(&folder.value, "childEntity", &moid);
        }
        t.remove(&moid);
    });
    refresh(call)
}

fn ruleset(call: &Call<'_>, key: &str, enabled: bool) -> Reply {
    let snapshot = call.world.inventory.now();
    let info = snapshot
        .find(&call.this.value)
        .and_then(|o| match o.props.get("firewallInfo")? {
            Prop::Value(any) => any.as_data::<HostFirewallInfo>().cloned(),
            Prop::Refs(_) => None,
        });
    let mut info = info.ok_or_else(|| Fault::not_found(call.this))?;
    let set = info.ruleset.iter_mut().find(|r| r.key == key);
    set.ok_or_else(|| Fault::plain("NotFound"))?.enabled = enabled;
    call.world
        .inventory
        .commit(|t| t.set(&call.this.value, "firewallInfo", info));
    ok(())
}
