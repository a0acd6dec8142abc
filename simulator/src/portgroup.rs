//! A network (a port group): one actor, which alone decides about its end.
//!
//! | message | nothing uses it | VMs are on it |
//! |---|---|---|
//! | `Remove` | leaves every list in one moment; the actor ends | `ResourceInUse` |
//!
//! What a crash loses: nothing; the network is in the inventory and in the index.

use std::sync::{Arc, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Address, ChildSpec, Restart};
use vmomi::ManagedObjectReference as Moref;

use crate::fault::{Fault, Outcome};
use crate::supervision::{self, SHUTDOWN};
use crate::world::World;

/// What can be asked of a network.
#[derive(Debug)]
pub(crate) enum Message {
    /// Takes the network away, unless somebody uses it.
    Remove(RpcReplyPort<Outcome<()>>),
}

/// Describes the actor of a network.
pub(crate) fn child(world: &Arc<World>, network: &Moref) -> ChildSpec {
    let address = {
        let mut all = world
            .networks
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let address: &mut Address<Message> = all.entry(network.value.clone()).or_default();
        address.clone()
    };
    let (world, moref) = (world.clone(), network.clone());
    ChildSpec::new(
        network.value.clone(),
        Restart::Permanent,
        address,
        move || (PortGroup, (world.clone(), moref.clone())),
    )
    .kind("network")
}

/// Starts the actor of a network that is new in the inventory; one that runs is left alone.
pub(crate) async fn spawn(world: &Arc<World>, network: &Moref) -> Outcome<()> {
    supervision::add(&world.actors.networks, child(world, network)).await
}

/// Takes a network away, and ends its actor.
pub(crate) async fn remove(world: &Arc<World>, network: &Moref) -> Outcome<()> {
    let address = {
        let all = world
            .networks
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.get(&network.value).cloned()
    };
    let address = address.ok_or_else(|| Fault::not_found(network))?;
    address
        .ask(SHUTDOWN, Message::Remove)
        .await
        .map_err(|error| Fault::system(error.to_string()))??;
    world
        .networks
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&network.value);
    supervision::remove(&world.actors.networks, network.value.clone()).await
}

struct PortGroup;

struct State {
    world: Arc<World>,
    network: Moref,
}

impl Actor for PortGroup {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<World>, Moref);

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        (world, network): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { world, network })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Remove(reply) = message;
        // Whoever asked may have left.
        let _ = reply.send(state.remove());
        Ok(())
    }
}

impl State {
    fn remove(&self) -> Outcome<()> {
        let (world, moid) = (&self.world, &self.network.value);
        let own = {
            let index = world.index.lock().unwrap_or_else(PoisonError::into_inner);
            index.portgroups.iter().any(|(id, ..)| id == moid)
        };
        if !own {
            // It came with the model: the hosts' own traffic is on it.
            return Err(self.in_use());
        }
        world.inventory.commit(|t| {
            let snapshot = t.snapshot().clone();
            let object = snapshot
                .find(moid)
                .ok_or_else(|| Fault::not_found(&self.network))?;
            if object.refs("vm").is_some_and(|vms| vms.len() > 0) {
                return Err(self.in_use());
            }
            let mut owners = Vec::new();
            for host in snapshot.children(moid, "host") {
                owners.push(host.moref.clone());
                owners.extend(host.reference("parent").cloned());
            }
            owners.extend(world.datacenter_of(&snapshot, moid));
            for owner in &owners {
                t.remove_ref(&owner.value, "network", moid);
            }
            if let Some(folder) = object.reference("parent") {
                t.remove_ref(&folder.value, "childEntity", moid);
            }
            t.remove(moid);
            Ok(())
        })?;
        world.update_index(|index| index.portgroups.retain(|(id, ..)| id != moid));
        Ok(())
    }

    fn in_use(&self) -> Fault {
        let snapshot = self.world.inventory.now();
        let name = snapshot
            .find(&self.network.value)
            .and_then(|o| o.text("name"))
            .unwrap_or_default()
            .to_owned();
        Fault::in_use(&name)
    }
}
