//! The tree of actors: whatever has an identity and a life is one, under a supervisor of its kind.
//!
//! ```text
//! sim
//! ├─ sessions      session(key): Temporary; a session that dies takes what belongs to it along, its client logs in again
//! │   └─ session
//! │       └─ collector(moid)   the first one: Permanent, restarts empty; others: Temporary
//! ├─ tasks         task(moid): Temporary; a task that dies ends with a fault, a task that has ended leaves
//! ├─ hosts         host(moid): Permanent; the single writer of a host's switches, port groups and firewall
//! ├─ datastores    datastore(moid): Permanent; what changes files on it, one job per path at a time
//! ├─ networks      network(moid): Permanent; its own end, which nothing may use then
//! └─ vms           vm(moid): Permanent; read again from its .vmx file
//! ```
//! Strategy, intensity and back-off are [`Policy::default`] everywhere: one for one. A supervisor that
//! is started again makes its list anew from what the simulator knows; sessions and tasks are not
//! made again. Reads ask no actor: they are served from the inventory's snapshots.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr};
use strategy::{Address, ChildSpec, Policy, Supervisor, SupervisorArgs, SupervisorMessage, Tree};
use vmomi::ManagedObjectReference as Moref;

use crate::fault::{Fault, Outcome};
use crate::world::World;
use crate::{datastore, host, portgroup, vm};

/// How long a child may take to start or to stop: long enough to kill a guest.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(10);

/// The live tree and its branches.
#[derive(Debug, Default)]
pub(crate) struct Actors {
    /// Which actors there are.
    pub(crate) tree: Tree,
    pub(crate) sessions: Address<SupervisorMessage>,
    pub(crate) tasks: Address<SupervisorMessage>,
    pub(crate) hosts: Address<SupervisorMessage>,
    pub(crate) datastores: Address<SupervisorMessage>,
    pub(crate) networks: Address<SupervisorMessage>,
    pub(crate) vms: Address<SupervisorMessage>,
}

/// Starts the tree over an inventory that is there already; VMs come later.
pub(crate) async fn start(world: &Arc<World>) -> Result<ActorRef<SupervisorMessage>, SpawnErr> {
    let actors = &world.actors;
    let children = vec![
        branch(world, "sessions", &actors.sessions, |_| Vec::new()),
        branch(world, "tasks", &actors.tasks, |_| Vec::new()),
        branch(world, "hosts", &actors.hosts, |world| {
            all(world, "HostSystem", |host| host::child(world, host))
        }),
        branch(world, "datastores", &actors.datastores, |world| {
            let stores = world.datastores.values();
            stores.map(|store| datastore::child(world, store)).collect()
        }),
        branch(world, "networks", &actors.networks, |world| {
            all(world, "Network", |network| portgroup::child(world, network))
        }),
        branch(world, "vms", &actors.vms, |world| {
            let vms = world.vms.read().unwrap_or_else(PoisonError::into_inner);
            vms.values().map(|entry| vm::child(world, entry)).collect()
        }),
    ];
    let args = SupervisorArgs::fixed("sim", Policy::default(), &actors.tree, children);
    let (root, _) = Actor::spawn(None, Supervisor, args).await?;
    Ok(root)
}

fn branch(
    world: &Arc<World>,
    kind: &'static str,
    address: &Address<SupervisorMessage>,
    children: impl Fn(&Arc<World>) -> Vec<ChildSpec> + Send + Sync + 'static,
) -> ChildSpec {
    let shared = world.clone();
    let args = SupervisorArgs {
        path: format!("sim/{kind}"),
        policy: Policy::default(),
        tree: world.actors.tree.clone(),
        children: Arc::new(move || {
            let children = children(&shared);
            Box::pin(async move { Ok(children) })
        }),
    };
    ChildSpec::only(kind, address.clone(), move || (Supervisor, args.clone())).shutdown(SHUTDOWN)
}

/// One child for each object of this type, subtypes included.
fn all(world: &World, r#type: &str, child: impl Fn(&Moref) -> ChildSpec) -> Vec<ChildSpec> {
    let mut children = Vec::new();
    world.inventory.now().objects.for_each(&mut |_, object| {
        if crate::inventory::class::is_a(&object.moref.r#type, r#type) {
            children.push(child(&object.moref));
        }
    });
    children
}

/// Adds a child to a branch, and waits until it runs.
pub(crate) async fn add(branch: &Address<SupervisorMessage>, child: ChildSpec) -> Outcome<()> {
    branch
        .ask(SHUTDOWN, |reply| SupervisorMessage::AddChild(child, reply))
        .await
        .map_err(|error| Fault::system(error.to_string()))?
        .map_err(Fault::system)
}

/// Stops a child of a branch, and waits until it has ended.
pub(crate) async fn remove(branch: &Address<SupervisorMessage>, id: String) -> Outcome<()> {
    branch
        .ask(SHUTDOWN * 2, |reply| {
            SupervisorMessage::RemoveChild(id, reply)
        })
        .await
        .map_err(|error| Fault::system(error.to_string()))
}
