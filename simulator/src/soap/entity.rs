//! `ManagedEntity`: what all parts of the tree can do.

use std::sync::Arc;

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::RenameRequest;

use super::{Call, PATIENCE, Reply, ok, vm};
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
            let result = match task.check() {
                Ok(()) => destroy(call.world, call.this).await,
                Err(fault) => Err(fault),
            };
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
async fn destroy(world: &Arc<World>, this: &Moref) -> Outcome<()> {
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
        for vm in snapshot.children(&this.value, "vm") {
            put(world, &vm.moref, &parent).await?;
        }
        world.inventory.commit(|t| {
            for child in snapshot.children(&this.value, "resourcePool") {
                t.remove_ref(&this.value, "resourcePool", &child.moref.value);
                t.add_ref(&parent.value, "resourcePool", &child.moref);
                t.set(&child.moref.value, "parent", parent.clone());
            }
        });
        world.update_index(|index| {
            for (_, entry) in &mut index.containers {
                if entry.parent == this.value {
                    entry.parent.clone_from(&parent.value);
                }
            }
        });
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

/// Moves a VM into a pool: its own actor does.
async fn put(world: &World, vm: &Moref, pool: &Moref) -> Outcome<()> {
    let Ok(entry) = world.vm(vm) else {
        // It has gone in the meantime.
        return Ok(());
    };
    let pool = pool.clone();
    entry
        .address
        .ask(PATIENCE, |reply| Message::Adopt(pool, reply))
        .await
        .map_err(|error| Fault::system(error.to_string()))
}

/// Takes away all pools below `pool`; their VMs go to `heir`.
pub(super) async fn remove_below(world: &World, pool: &Moref, heir: &Moref) -> Outcome<()> {
    let snapshot = world.inventory.now();
    for child in snapshot.children(&pool.value, "resourcePool") {
        Box::pin(remove_below(world, &child.moref, heir)).await?;
        for vm in snapshot.children(&child.moref.value, "vm") {
            put(world, &vm.moref, heir).await?;
        }
        let id = &child.moref.value;
        world.update_index(|index| index.containers.retain(|(other, _)| other != id));
        world.inventory.commit(|t| {
            t.remove_ref(&pool.value, "resourcePool", id);
            t.remove(id);
        });
    }
    Ok(())
}
