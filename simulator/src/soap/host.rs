//! Hosts: switches, port groups, the firewall.

use ractor::RpcReplyPort;
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    AddPortGroupRequest, AddVirtualSwitchRequest, DisableRulesetRequest, EnableRulesetRequest,
    RemovePortGroupRequest, RemoveVirtualSwitchRequest,
};

use super::{Call, PATIENCE, Reply, ok};
use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::host::Message;
use crate::portgroup;

pub(super) async fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "AddVirtualSwitch" => {
            let name = call.args::<AddVirtualSwitchRequest>()?.vswitch_name.clone();
            ask(call, |reply| Message::AddSwitch(name, reply)).await
        }
        "RemoveVirtualSwitch" => {
            let args = call.args::<RemoveVirtualSwitchRequest>()?;
            let name = args.vswitch_name.clone();
            ask(call, |reply| Message::RemoveSwitch(name, reply)).await
        }
        "AddPortGroup" => {
            let spec = Box::new(call.args::<AddPortGroupRequest>()?.portgrp.clone());
            ask(call, |reply| Message::AddPortGroup(spec, reply)).await
        }
        "RemovePortGroup" => {
            let name = call.args::<RemovePortGroupRequest>()?.pg_name.clone();
            ask(call, |reply| Message::RemovePortGroup(name, reply)).await
        }
        "RefreshNetworkSystem"
        | "RefreshFirewall"
        | "RefreshStorageSystem"
        | "RescanAllHba"
        | "RescanVmfs"
        | "RefreshServices" => ok(()),
        "EnableRuleset" => {
            let key = call.args::<EnableRulesetRequest>()?.id.clone();
            ruleset(call, key, true).await
        }
        "DisableRuleset" => {
            let key = call.args::<DisableRulesetRequest>()?.id.clone();
            ruleset(call, key, false).await
        }
        "QueryDateTime" => ok(now()),
        "QueryMemoryOverhead" => ok(0i64),
        _ => Err(Fault::not_supported()),
    }
}

/// Methods of networks, whichever hosts have them.
pub(super) async fn network(call: &Call<'_>) -> Reply {
    match (call.method, call.this.r#type.as_str()) {
        ("DestroyNetwork", "Network") => {
            let hosts = call.world.inventory.now();
            let hosts = hosts.children(&call.this.value, "host");
            let hosts: Vec<Moref> = hosts.into_iter().map(|h| h.moref.clone()).collect();
            portgroup::remove(call.world, call.this).await?;
            for host in hosts {
                let address = call.world.host(&host)?;
                // A host that dies meanwhile looks at its networks when it is there again.
                let _ = address.ask(PATIENCE, Message::Refresh).await;
            }
            ok(())
        }
        _ => Err(Fault::not_supported()),
    }
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

/// Asks the actor of the host.
async fn ask(call: &Call<'_>, message: impl FnOnce(RpcReplyPort<Outcome<()>>) -> Message) -> Reply {
    let address = call.world.host(&host(call)?)?;
    let answer = address.ask(PATIENCE, message).await;
    answer.map_err(|e| Fault::system(e.to_string()))??;
    ok(())
}

async fn ruleset(call: &Call<'_>, key: String, enabled: bool) -> Reply {
    let system = call.this.clone();
    ask(call, |reply| Message::Ruleset(system, key, enabled, reply)).await
}
