//! A VM: one actor, the single writer of everything about it.
//!
//! ```text
//!              PowerOn                      PowerOff, guest powers off, host loses it
//! (poweredOff) ───────► engine boots ─────► poweredOn ─────────────────────────────► (poweredOff)
//!      │  ▲                                   │  ▲
//!      │  └── Suspend, then PowerOff ─────────┘  └─ guest reboots: the engine boots it again
//!      └─ Destroy, Unregister: the actor ends
//! ```
//! | message | poweredOff | poweredOn | suspended |
//! |---|---|---|---|
//! | `PowerOn` | boots | `InvalidPowerState` | boots |
//! | `PowerOff` | `InvalidPowerState` | kills the guest | poweredOff |
//! | `Reconfigure` | files and record | also hot-adds, hot-removes | as off |
//! | `Destroy`, `Unregister` | done | `InvalidPowerState` | done |
//!
//! What a crash loses: the guest (its handle dies with the actor, and the guest with it). The rest is
//! read again from the `.vmx` file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Address, ChildSpec, Restart, SupervisorMessage};
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::VirtualMachineConfigSpec;

use crate::datastore::DatastorePath;
use crate::engine::{Guest, GuestEvent, GuestInfo};
use crate::fault::Outcome;
use crate::supervision::{self, SHUTDOWN};
use crate::task::Task;
use crate::world::World;

pub(crate) mod create;
pub(crate) mod devices;
mod file;
mod guest;
mod power;
mod reconfigure;
pub(crate) mod record;
mod remove;

pub(crate) use file::disk_fault;
pub(crate) use record::{Home, Record};

/// A VM as others know it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its reference.
    pub(crate) moref: Moref,
    /// Its actor.
    pub(crate) address: Address<Message>,
    /// What the actor takes at its (next) start; empty: it reads the `.vmx` file.
    seed: Mutex<Option<Record>>,
    vmx: Mutex<DatastorePath>,
    home: Mutex<Home>,
}

/// What can be asked of a VM.
#[derive(Debug)]
pub(crate) enum Message {
    /// Boots the VM; the task ends when its PID 1 runs.
    PowerOn(Task),
    /// Cuts the power.
    PowerOff(Task),
    /// Cuts the power and boots again.
    Reset(Task),
    /// Stops the VM so that it can go on later; here that is a power-off that shows `suspended`.
    Suspend(Task),
    /// Changes the configuration.
    Reconfigure(Box<VirtualMachineConfigSpec>, Task),
    /// Changes the name.
    Rename(String, Task),
    /// Takes the VM out of the inventory and deletes its files.
    Destroy(Task),
    /// Takes the VM out of the inventory; its files stay.
    Unregister(RpcReplyPort<Outcome<()>>),
    /// Asks the guest for something (`OS_Halt`, `OS_Reboot`, `OS_Suspend`).
    Ask(&'static str, RpcReplyPort<Outcome<()>>),
    /// Looks again how much room its files take.
    RefreshStorage(RpcReplyPort<()>),
    /// Moves the VM to another folder or pool.
    Move(Place, Task),
    /// Goes to another pool, since its own is taken away.
    Adopt(Moref, RpcReplyPort<()>),
    /// What the guest of a power-on did; that of an earlier one is of no interest any more.
    Guest(u64, Vec<GuestEvent>),
    /// Cuts the power because the simulator ends; answers when the guest is gone.
    Halt(RpcReplyPort<()>),
}

/// Where a VM is moved.
#[derive(Debug)]
pub(crate) enum Place {
    /// Into this folder.
    Folder(Moref),
    /// Into this pool.
    Pool(Moref),
}

/// What the actor knows.
pub(crate) struct State {
    world: Arc<World>,
    record: Record,
    guest: Option<Arc<dyn Guest>>,
    /// Counts the power-ons.
    generation: u64,
    guestinfo: GuestInfo,
}

/// The actor of one VM.
pub(crate) struct Vm;

impl Actor for Vm {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<World>, Arc<Entry>);

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        (world, entry): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let seed = entry
            .seed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let record = match seed {
            Some(record) => record,
            None => {
                // The actor has died: its guest went with it.
                let vmx = entry
                    .vmx
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let home = entry
                    .home
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let record = file::load(&world, entry.moref.clone(), vmx, home)
                    .map_err(|fault| fault.message)?;
                world.inventory.commit(|t| record.publish(&world, t));
                record
            }
        };
        let guestinfo = GuestInfo::new(record.guestinfo());
        Ok(State {
            world,
            record,
            guest: None,
            generation: 0,
            guestinfo,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::PowerOn(task) => state.power_on(&myself, task).await,
            Message::PowerOff(task) => state.power_off(task).await,
            Message::Reset(task) => state.reset(&myself, task).await,
            Message::Suspend(task) => state.suspend(task).await,
            Message::Reconfigure(spec, task) => state.reconfigure(*spec, task).await,
            Message::Rename(name, task) => state.rename(name, task),
            Message::Destroy(task) => {
                if state.destroy(task).await {
                    state.leave(&myself);
                }
            }
            Message::Unregister(reply) => {
                let result = state.unregister();
                let gone = result.is_ok();
                // Nobody may be waiting any more.
                let _ = reply.send(result);
                if gone {
                    state.leave(&myself);
                }
            }
            Message::Ask(command, reply) => {
                let _ = reply.send(state.ask(command));
            }
            Message::RefreshStorage(reply) => {
                let world = state.world.clone();
                world
                    .inventory
                    .commit(|t| state.record.publish_storage(&world, t));
                let _ = reply.send(());
            }
            Message::Move(place, task) => state.relocate(place, task),
            Message::Adopt(pool, reply) => {
                state.adopt(pool);
                let _ = reply.send(());
            }
            Message::Guest(generation, events) => {
                if generation == state.generation {
                    state.guest_events(&myself, events).await;
                }
            }
            Message::Halt(reply) => {
                state.halt().await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.halt().await;
        Ok(())
    }
}

impl State {
    /// Ends the actor and takes it from its supervisor.
    fn leave(&self, myself: &ActorRef<Message>) {
        let id = self.record.moref.value.clone();
        self.world
            .vms
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        let supervisor = self.world.actors.vms.clone();
        let fallback = myself.clone();
        // The supervisor stops this actor, which cannot wait for that in its own handler.
        tokio::spawn(async move {
            let asked = supervisor
                .ask(SHUTDOWN, |reply| SupervisorMessage::RemoveChild(id, reply))
                .await;
            if asked.is_err() {
                fallback.stop(None);
            }
        });
    }
}

/// Starts the actor of a VM whose object is in the inventory already.
pub(crate) async fn spawn(world: &Arc<World>, record: Record) -> Outcome<Arc<Entry>> {
    let entry = Arc::new(Entry {
        moref: record.moref.clone(),
        address: Address::default(),
        vmx: Mutex::new(record.vmx.clone()),
        home: Mutex::new(Home {
            folder: record.folder.clone(),
            pool: record.pool.clone(),
            host: record.host.clone(),
        }),
        seed: Mutex::new(Some(record)),
    });
    world
        .vms
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(entry.moref.value.clone(), entry.clone());
    supervision::add(&world.actors.vms, child(world, &entry)).await?;
    Ok(entry)
}

/// Describes the actor of a VM.
pub(crate) fn child(world: &Arc<World>, entry: &Arc<Entry>) -> ChildSpec {
    let (shared, known) = (world.clone(), entry.clone());
    ChildSpec::new(
        entry.moref.value.clone(),
        Restart::Permanent,
        entry.address.clone(),
        move || (Vm, (shared.clone(), known.clone())),
    )
    .kind("vm")
    .shutdown(SHUTDOWN)
}

/// All VMs by moid.
pub(crate) type Registry = HashMap<String, Arc<Entry>>;
