//! Tasks: what a `*_Task` method returns, and how it ends.
//!
//! ```text
//! begin ─► running ── end (by who does the work) ──────────────► success | error
//!             └────── cancelled, or its actor or worker dies ──► error
//! CreateTask ─► queued ─ SetTaskState ─► running ─ SetTaskState ─► success | error
//! ```
//! A task is an object of the inventory like any other, so it is watched like any other, and an actor
//! while it runs. Its last state is written once: by whoever takes the [`Pen`] first. So it can be
//! written in the same moment as what the task did. Ended tasks are kept for a while, then forgotten,
//! the oldest first.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::ActorRef;
use strategy::{Address, ChildSpec, Restart, SupervisorMessage};
use vmomi::types::{TaskInfo, TaskInfoState, TaskReasonUser};
use vmomi::{Any, ManagedObjectReference as Moref};

use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::inventory::{Prop, Transaction, class};
use crate::supervision::SHUTDOWN;
use crate::world::World;

pub(crate) mod history;
mod life;

pub(crate) use life::Message;

use life::Life;

/// How many ended tasks are kept: enough for a client that asks late.
const KEPT: usize = 500;

/// The numbers of tasks, those that run, and those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    last: AtomicU64,
    /// The actors of the tasks that have not ended.
    live: Mutex<HashMap<String, Address<Message>>>,
    ended: Mutex<VecDeque<(String, Option<String>)>>,
    /// Who collects tasks.
    pub(crate) history: history::Collectors,
}

impl Tasks {
    /// Finds the actor of a task that has not ended.
    pub(crate) fn live(&self, moid: &str) -> Option<Address<Message>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(moid).cloned()
    }
}

/// What writes a task's state; who takes the info out of it writes the last one.
#[derive(Debug, Default)]
struct Pen(Mutex<Paper>);

#[derive(Debug, Default)]
struct Paper {
    /// `None`: the task has ended.
    info: Option<Box<TaskInfo>>,
    /// The actor, to be told of the end.
    actor: Option<ActorRef<Message>>,
}

impl Pen {
    fn lock(&self) -> MutexGuard<'_, Paper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state of a task that has not ended; says whether it has not.
    fn change(&self, t: &mut Transaction, change: impl FnOnce(&mut TaskInfo)) -> bool {
        let mut paper = self.lock();
        let Some(info) = &mut paper.info else {
            return false;
        };
        change(info);
        let info = (**info).clone();
        t.set(&info.key.clone(), "info", info);
        true
    }

    /// Ends the task, unless it has ended.
    fn end(&self, world: &World, t: &mut Transaction, result: Outcome<Option<Any>>) {
        let mut paper = self.lock();
        let Some(info) = paper.info.take() else {
            return;
        };
        if let Some(actor) = paper.actor.take() {
            // An actor that has gone need not be told.
            let _ = actor.send_message(Message::Ended);
        }
        drop(paper);
        finish(world, t, *info, result);
    }
}

/// A task whose work somebody does. Dropped before it has ended, it ends with a fault.
#[derive(Debug)]
pub(crate) struct Task {
    world: Arc<World>,
    pen: Arc<Pen>,
    moref: Moref,
    /// The fault with which the task shall end by rule.
    doomed: Option<String>,
}

impl Task {
    /// Begins a task on `entity`.
    pub(crate) fn begin(
        world: &Arc<World>,
        method: &str,
        entity: &Moref,
        user: &str,
        doomed: Option<String>,
    ) -> Task {
        let mut info = new(world, entity, user);
        info.name = Some(method.to_owned());
        info.description_id = description_id(&entity.r#type, method);
        info.state = TaskInfoState::Running;
        info.start_time = Some(info.queue_time);
        let moref = info.task.clone();
        let pen = start(world, info, false);
        Task {
            world: world.clone(),
            pen,
            moref,
            doomed,
        }
    }

    /// The reference that the client gets.
    pub(crate) fn moref(&self) -> Moref {
        self.moref.clone()
    }

    /// The fault with which the task shall end by rule, to be asked before the work begins.
    pub(crate) fn check(&self) -> Outcome<()> {
        match &self.doomed {
            Some(name) => Err(Fault::plain(name)),
            None => Ok(()),
        }
    }

    /// Ends the task.
    pub(crate) fn end(self, result: Outcome<Option<Any>>) {
        let world = self.world.clone();
        world.inventory.commit(|t| self.end_in(t, result));
    }

    /// Ends the task in the same moment as the changes of `t`.
    pub(crate) fn end_in(self, t: &mut Transaction, result: Outcome<Option<Any>>) {
        self.pen.end(&self.world, t, result);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Not while a transaction may be open: a task that has ended is left alone.
        if self.pen.lock().info.is_some() {
            self.world
                .inventory
                .commit(|t| self.pen.end(&self.world, t, Err(interrupted())));
        }
    }
}

fn interrupted() -> Fault {
    Fault::system("the operation was interrupted")
}

/// Makes a task that is driven by who asked for it, through its actor.
pub(crate) fn create(
    world: &Arc<World>,
    entity: &Moref,
    user: &str,
    kind: &str,
    cancelable: bool,
) -> TaskInfo {
    let mut info = new(world, entity, user);
    info.description_id = kind.to_owned();
    info.state = TaskInfoState::Queued;
    info.cancelable = cancelable;
    start(world, info.clone(), true);
    info
}

/// What is true of every new task.
fn new(world: &World, entity: &Moref, user: &str) -> TaskInfo {
    let number = world.tasks.last.fetch_add(1, Ordering::Relaxed) + 1;
    let key = if world.is_vc() {
        format!("task-{number}")
    } else {
        format!("haTask-{}-vim.{}-{number}", entity.value, entity.r#type)
    };
    let snapshot = world.inventory.now();
    TaskInfo {
        task: Moref::new("Task", &key),
        key,
        // Managers are called too, but only what is part of the tree is an entity.
        entity: class::is_entity(&entity.r#type).then(|| entity.clone()),
        entity_name: snapshot
            .find(&entity.value)
            .and_then(|o| o.text("name"))
            .map(str::to_owned),
        reason: TaskReasonUser {
            user_name: user.to_owned(),
            ..Default::default()
        }
        .into(),
        queue_time: now(),
        event_chain_id: i32::try_from(number).unwrap_or(i32::MAX),
        ..Default::default()
    }
}

/// Shows a task, and starts its actor; `driven`: by messages.
fn start(world: &Arc<World>, info: TaskInfo, driven: bool) -> Arc<Pen> {
    let moref = info.task.clone();
    let entity = info.entity.clone();
    let pen = Arc::new(Pen(Mutex::new(Paper {
        info: Some(Box::new(info.clone())),
        actor: None,
    })));
    let address = Address::default();
    world
        .tasks
        .live
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(moref.value.clone(), address.clone());
    world.inventory.commit(|t| {
        t.create(moref.clone(), vec![("info", Prop::value(info))]);
        t.add_ref(&world.ids.task_manager, "recentTask", &moref);
        if let Some(entity) = &entity {
            t.add_ref(&entity.value, "recentTask", &moref);
        }
        world.tasks.history.refresh(world, t);
    });
    let (shared, own) = (world.clone(), pen.clone());
    let child = ChildSpec::new(moref.value, Restart::Temporary, address, move || {
        (Life, (shared.clone(), own.clone(), driven))
    })
    .kind("task")
    .shutdown(SHUTDOWN);
    // The client need not wait until the actor runs.
    let (reply, _) = tokio::sync::oneshot::channel();
    let added = SupervisorMessage::AddChild(child, reply.into());
    world.actors.tasks.tell(added);
    pen
}

fn finish(world: &World, t: &mut Transaction, mut info: TaskInfo, result: Outcome<Option<Any>>) {
    info.complete_time = Some(now());
    match result {
        Ok(result) => {
            info.state = TaskInfoState::Success;
            info.result = result;
        }
        Err(fault) => {
            info.state = TaskInfoState::Error;
            info.error = Some(fault.localized());
        }
    }
    let entity = info.entity.as_ref().map(|e| e.value.clone());
    let id = info.key.clone();
    t.set(&id, "info", info);
    world
        .tasks
        .live
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&id);
    let mut ended = world
        .tasks
        .ended
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    ended.push_back((id, entity));
    while ended.len() > KEPT {
        if let Some((id, entity)) = ended.pop_front() {
            t.remove_ref(&world.ids.task_manager, "recentTask", &id);
            if let Some(entity) = entity {
                t.remove_ref(&entity, "recentTask", &id);
            }
            t.remove(&id);
        }
    }
    world.tasks.history.refresh(world, t);
}

/// `VirtualMachine.powerOn` for `PowerOnVM_Task`: the name by which translations are found.
fn description_id(r#type: &str, method: &str) -> String {
    let name = method.trim_end_matches("_Task");
    let name = match (r#type, name) {
        ("VirtualMachine", "ReconfigVM") => "reconfigure",
        ("VirtualMachine", n) => n.strip_suffix("VM").unwrap_or(n),
        (_, "CreateVM") => "createVm",
        (_, "RegisterVM") => "registerVm",
        (_, n) => n,
    };
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    format!(
        "{type}.{}{}",
        first.map(String::from).unwrap_or_default(),
        chars.as_str()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_named_as_the_api_names_them() {
        assert_eq!(
            description_id("VirtualMachine", "PowerOnVM_Task"),
            "VirtualMachine.powerOn"
        );
        assert_eq!(
            description_id("VirtualMachine", "ReconfigVM_Task"),
            "VirtualMachine.reconfigure"
        );
        assert_eq!(description_id("Folder", "CreateVM_Task"), "Folder.createVm");
    }
}
