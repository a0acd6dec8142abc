//! Tasks: what a `*_Task` method returns, and how it ends.
//!
//! A task is an object of the inventory like any other, so it is watched like any other. Ended tasks
//! are kept for a while, then forgotten, the oldest first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmomi::types::{TaskInfo, TaskInfoState, TaskReasonUser};
use vmomi::{Any, ManagedObjectReference as Moref};

use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::inventory::{Prop, Transaction, class};
use crate::world::World;

/// How many ended tasks are kept: enough for a client that asks late.
const KEPT: usize = 500;

/// The numbers of tasks, and those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    last: AtomicU64,
    ended: Mutex<VecDeque<(String, Option<String>)>>,
}

/// A task that runs. Dropped before it has ended, it ends with a fault.
#[derive(Debug)]
pub(crate) struct Task {
    world: Arc<World>,
    info: Option<Box<TaskInfo>>,
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
        let number = world.tasks.last.fetch_add(1, Ordering::Relaxed) + 1;
        let key = if world.is_vc() {
            format!("task-{number}")
        } else {
            format!("haTask-{}-vim.{}-{number}", entity.value, entity.r#type)
        };
        let moref = Moref::new("Task", &key);
        let snapshot = world.inventory.now();
        let moment = now();
        let info = TaskInfo {
            key,
            task: moref.clone(),
            name: Some(method.to_owned()),
            description_id: description_id(&entity.r#type, method),
            // Managers are called too, but only what is part of the tree is an entity.
            entity: class::is_entity(&entity.r#type).then(|| entity.clone()),
            entity_name: snapshot
                .find(&entity.value)
                .and_then(|o| o.text("name"))
                .map(str::to_owned),
            state: TaskInfoState::Running,
            cancelable: false,
            reason: TaskReasonUser {
                user_name: user.to_owned(),
                ..Default::default()
            }
            .into(),
            queue_time: moment,
            start_time: Some(moment),
            event_chain_id: number as i32,
            ..Default::default()
        };
        world.inventory.commit(|t| {
            t.create(moref.clone(), vec![("info", Prop::value(info.clone()))]);
            t.add_ref(&world.ids.task_manager, "recentTask", &moref);
            if class::is_entity(&entity.r#type) {
                t.add_ref(&entity.value, "recentTask", &moref);
            }
        });
        Task {
            world: world.clone(),
            info: Some(Box::new(info)),
            doomed,
        }
    }

    /// The reference that the client gets.
    pub(crate) fn moref(&self) -> Moref {
        self.info
            .as_ref()
            .map(|i| i.task.clone())
            .unwrap_or_default()
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
    pub(crate) fn end_in(mut self, t: &mut Transaction, result: Outcome<Option<Any>>) {
        if let Some(info) = self.info.take() {
            finish(&self.world, t, *info, result);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(info) = self.info.take() {
            let fault = Fault::system("the operation was interrupted");
            self.world
                .inventory
                .commit(|t| finish(&self.world, t, *info, Err(fault)));
        }
    }
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
