//! `ManagedEntity`: what all parts of the tree can do.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::RenameRequest;

use super::{Call, Reply, ok, vm};
use crate::fault::{Fault, Outcome};
use crate::inventory::{Object, Snapshot};
use crate::vm::Message;
use crate::world::World;

pub(super) async fn call(call: &Call<'_>) -> Reply {
    match (call.method, call.this.r#type.as_str()) {
        ("Destroy_Task", "VirtualMachine") => vm::tell(call, Message::Destroy),
        ("Rename_Task", "VirtualMachine") => {
            let name = call.args::<RenameRequest>()?.new_name.clone();
            vm::tell(call, |task| Message::Rename(name, task))
        }
        ("Rename_Task", "Folder" | "ResourcePool") => {
            let name = call.args::<RenameRequest>()?.new_name.clone();
            let task = call.task();
            let moref = task.moref();
            let result = task
                .check()
                .and_then(|()| rename(call.world, call.this, &name));
            task.end(result.map(|()| None));
            ok(moref)
        }
        ("Destroy_Task", "Folder" | "ResourcePool") => {
            let task = call.task();
            let moref = task.moref();
            let result = task.check().and_then(|()| destroy(call.world, call.this));
            task.end(result.map(|()| None));
            ok(moref)
        }
        ("Reload", _) => ok(()),
        _ => Err(Fault::not_supported()),
    }
}

/// Says whether an object came with the model, or was made by somebody.
fn is_own(world: &World, moid: &str) -> bool {
    let index = world
        .index
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    index.containers.iter().any(|(id, _)| id == moid)
}

fn rename(world: &World, this: &Moref, name: &str) -> Outcome<()> {
    if !is_own(world, &this.value) {
        return Err(Fault::not_supported());
    }
    let snapshot = world.inventory.now();
    let object = snapshot
        .find(&this.value)
        .ok_or_else(|| Fault::not_found(this))?;
    let (parent, list) = parent(object).ok_or_else(Fault::not_supported)?;
    if let Some(other) = snapshot.child(&parent.value, list, name)
        && other.moref != *this
    {
        return Err(Fault::duplicate_name(name, &other.moref));
    }
    world.update_index(|index| {
        if let Some((_, entry)) = index
            .containers
            .iter_mut()
            .find(|(id, _)| *id == this.value)
        {
            entry.name = name.to_owned();
        }
    });
    world.inventory.commit(|t| t.set(&this.value, "name", name));
    Ok(())
}

/// The parent of a folder or a pool, and the parent's list that holds it.
fn parent(object: &Object) -> Option<(Moref, &'static str)> {
    let list = match object.moref.r#type.as_str() {
        "ResourcePool" => "resourcePool",
        _ => "childEntity",
    };
    Some((object.reference("parent")?.clone(), list))
}

/// Takes away a folder that is empty, or a pool, whose content goes to its parent.
fn destroy(world: &World, this: &Moref) -> Outcome<()> {
    if !is_own(world, &this.value) {
        return Err(Fault::not_supported());
    }
    let snapshot = world.inventory.now();
    let object = snapshot
        .find(&this.value)
        .ok_or_else(|| Fault::not_found(this))?;
    let (parent, list) = parent(object).ok_or_else(Fault::not_supported)?;
    if this.r#type == "Folder" && !is_empty(&snapshot, this) {
        return Err(Fault::in_use(object.text("name").unwrap_or_default()));
    }
    if this.r#type == "ResourcePool" {
        empty_pool(world, &snapshot, this, &parent);
    }
    world.update_index(|index| index.containers.retain(|(id, _)| *id != this.value));
    world.inventory.commit(|t| {
        t.remove_ref(&parent.value, list, &this.value);
        t.remove(&this.value);
    });
    Ok(())
}

fn is_empty(snapshot: &Snapshot, folder: &Moref) -> bool {
    snapshot.children(&folder.value, "childEntity").is_empty()
}

/// Moves the VMs and pools of a pool to its parent.
pub(super) fn empty_pool(world: &World, snapshot: &Snapshot, pool: &Moref, parent: &Moref) {
    world.inventory.commit(|t| {
        for (list, property) in [("vm", "resourcePool"), ("resourcePool", "parent")] {
            for child in snapshot.children(&pool.value, list) {
                t.remove_ref(&pool.value, list, &child.moref.value);
                t.add_ref(&parent.value, list, &child.moref);
                t.set(&child.moref.value, property, parent.clone());
            }
        }
    });
}
