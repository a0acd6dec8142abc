//! A host: one actor, the single writer of its switches, its port groups and its firewall.
//!
//! | message | what it does |
//! |---|---|
//! | `AddSwitch`, `RemoveSwitch` | a standard switch; one that port groups need stays |
//! | `AddPortGroup`, `RemovePortGroup` | a network on a switch; one that VMs use stays |
//! | `Refresh` | shows its networks as they are now |
//! | `Ruleset` | switches a rule set of the firewall on or off |
//!
//! What a crash loses: nothing; all of it is in the index of the state directory and in the inventory,
//! and the networks are shown anew at the next start.

use std::sync::{Arc, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Address, ChildSpec, Restart};
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{HostFirewallInfo, HostPortGroupSpec};

use crate::fault::{Fault, Outcome};
use crate::inventory::Prop;
use crate::world::World;
use crate::{model, portgroup};

/// The switch that every host has.
const FIRST_SWITCH: &str = "vSwitch0";

/// What can be asked of a host.
#[derive(Debug)]
pub(crate) enum Message {
    /// Makes a standard switch.
    AddSwitch(String, RpcReplyPort<Outcome<()>>),
    /// Takes a standard switch away.
    RemoveSwitch(String, RpcReplyPort<Outcome<()>>),
    /// Makes a port group.
    AddPortGroup(Box<HostPortGroupSpec>, RpcReplyPort<Outcome<()>>),
    /// Takes a port group away.
    RemovePortGroup(String, RpcReplyPort<Outcome<()>>),
    /// Looks at its networks again.
    Refresh(RpcReplyPort<()>),
    /// Switches a rule set of the firewall (its object, the rule set's key).
    Ruleset(Moref, String, bool, RpcReplyPort<Outcome<()>>),
}

/// Describes the actor of a host.
pub(crate) fn child(world: &Arc<World>, host: &Moref) -> ChildSpec {
    let address = {
        let mut hosts = world.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let address: &mut Address<Message> = hosts.entry(host.value.clone()).or_default();
        address.clone()
    };
    let (world, moref) = (world.clone(), host.clone());
    ChildSpec::new(host.value.clone(), Restart::Permanent, address, move || {
        (Host, (world.clone(), moref.clone()))
    })
    .kind("host")
}

struct Host;

struct State {
    world: Arc<World>,
    host: Moref,
}

impl Actor for Host {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<World>, Moref);

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        (world, host): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let state = State { world, host };
        // A predecessor may have died between the index and the inventory.
        state.refresh();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Whoever asked may have left.
        match message {
            Message::AddSwitch(name, reply) => {
                let _ = reply.send(state.add_switch(name));
            }
            Message::RemoveSwitch(name, reply) => {
                let _ = reply.send(state.remove_switch(&name));
            }
            Message::AddPortGroup(spec, reply) => {
                let _ = reply.send(state.add_portgroup(&spec).await);
            }
            Message::RemovePortGroup(name, reply) => {
                let _ = reply.send(state.remove_portgroup(&name).await);
            }
            Message::Refresh(reply) => {
                state.refresh();
                let _ = reply.send(());
            }
            Message::Ruleset(system, key, enabled, reply) => {
                let _ = reply.send(state.ruleset(&system, &key, enabled));
            }
        }
        Ok(())
    }
}

impl State {
    fn switches(&self) -> Vec<String> {
        let index = self
            .world
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        index.switches.clone()
    }

    /// Writes the host's networks anew.
    fn refresh(&self) {
        let (switches, management) = (self.switches(), self.world.management());
        self.world
            .inventory
            .commit(|t| model::refresh_host_network(t, &self.host, &switches, &management));
    }

    fn add_switch(&self, name: String) -> Outcome<()> {
        if name == FIRST_SWITCH || self.switches().contains(&name) {
            return Err(Fault::plain("AlreadyExists"));
        }
        self.world.update_index(|index| index.switches.push(name));
        self.refresh();
        Ok(())
    }

    fn remove_switch(&self, name: &str) -> Outcome<()> {
        let (known, used) = {
            let index = self
                .world
                .index
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            (
                index.switches.iter().any(|s| s == name),
                index.portgroups.iter().any(|(_, _, s, _)| s == name),
            )
        };
        if !known {
            return Err(Fault::plain("NotFound"));
        }
        if used {
            return Err(Fault::in_use(name));
        }
        self.world
            .update_index(|index| index.switches.retain(|s| s != name));
        self.refresh();
        Ok(())
    }

    async fn add_portgroup(&self, spec: &HostPortGroupSpec) -> Outcome<()> {
        let world = &self.world;
        if !(0..=4095).contains(&spec.vlan_id) {
            return Err(Fault::invalid_argument("portgrp.vlanId"));
        }
        if spec.name.is_empty() {
            return Err(Fault::invalid_argument("portgrp.name"));
        }
        if spec.vswitch_name != FIRST_SWITCH && !self.switches().contains(&spec.vswitch_name) {
            return Err(Fault::plain("NotFound"));
        }
        let snapshot = world.inventory.now();
        if snapshot
            .child(&self.host.value, "network", &spec.name)
            .is_some()
        {
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
        let moref = place_portgroup(
            world,
            &self.host,
            &moid,
            &spec.name,
            &spec.vswitch_name,
            spec.vlan_id,
        )?;
        portgroup::spawn(world, &moref).await?;
        self.refresh();
        Ok(())
    }

    async fn remove_portgroup(&self, name: &str) -> Outcome<()> {
        let made = {
            let index = self
                .world
                .index
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let found = index.portgroups.iter().find(|(_, n, _, _)| n == name);
            found.map(|(id, ..)| id.clone())
        };
        let moid = made.ok_or_else(|| Fault::plain("NotFound"))?;
        portgroup::remove(&self.world, &Moref::new("Network", moid)).await?;
        self.refresh();
        Ok(())
    }

    fn ruleset(&self, system: &Moref, key: &str, enabled: bool) -> Outcome<()> {
        let snapshot = self.world.inventory.now();
        let info =
            snapshot
                .find(&system.value)
                .and_then(|o| match o.props.get("firewallInfo")? {
                    Prop::Value(any) => any.as_data::<HostFirewallInfo>().cloned(),
                    Prop::Refs(_) => None,
                });
        let mut info = info.ok_or_else(|| Fault::not_found(system))?;
        let set = info.ruleset.iter_mut().find(|r| r.key == key);
        set.ok_or_else(|| Fault::plain("NotFound"))?.enabled = enabled;
        self.world
            .inventory
            .commit(|t| t.set(&system.value, "firewallInfo", info));
        Ok(())
    }
}

/// Shows a port group that somebody made on a host.
pub(crate) fn place_portgroup(
    world: &World,
    host: &Moref,
    moid: &str,
    name: &str,
    switch: &str,
    vlan: i32,
) -> Outcome<Moref> {
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
    Ok(world.inventory.commit(|t| {
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
        moref
    }))
}
