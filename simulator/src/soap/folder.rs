//! `Folder` and `Datacenter`.

use vmomi::types::{
    ClusterAttemptedVmInfo, ClusterPowerOnVmResult, CreateFolderRequest, CreateVMRequest,
    MoveIntoFolderRequest, PowerOnMultiVMRequest, RegisterVMRequest,
};
use vmomi::{Any, ManagedObjectReference as Moref};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::{Object, Prop};
use crate::model;
use crate::state::ContainerEntry;
use crate::task::Task;
use crate::vm::{Message, Place, create};

pub(super) async fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    match call.method {
        "CreateFolder" => ok(create_folder(call)?),
        "CreateVM_Task" => {
            let args = call.args::<CreateVMRequest>()?;
            holds(call, "VirtualMachine")?;
            let home = create::home(world, call.this, Some(&args.pool), args.host.as_ref())?;
            let task = call.task();
            let moref = task.moref();
            tokio::spawn(create::create(
                world.clone(),
                args.config.clone(),
                home,
                task,
            ));
            ok(moref)
        }
        "RegisterVM_Task" => {
            let args = call.args::<RegisterVMRequest>()?;
            holds(call, "VirtualMachine")?;
            let home = create::home(world, call.this, args.pool.as_ref(), args.host.as_ref())?;
            let vmx = world.path(&args.path)?;
            let task = call.task();
            let moref = task.moref();
            let name = args.name.clone();
            tokio::spawn(create::register(world.clone(), vmx, name, home, task));
            ok(moref)
        }
        "MoveIntoFolder_Task" => {
            let args = call.args::<MoveIntoFolderRequest>()?;
            let [only] = &args.list[..] else {
                return Err(Fault::not_supported());
            };
            let vm = world.vm(only)?;
            holds(call, "VirtualMachine")?;
            let task = call.task();
            let moref = task.moref();
            vm.address
                .tell(Message::Move(Place::Folder(call.this.clone()), task));
            ok(moref)
        }
        "PowerOnMultiVM_Task" => power_on_many(call).await,
        _ => Err(Fault::not_supported()),
    }
}

/// Says whether the folder may hold objects of this type.
fn holds(call: &Call<'_>, r#type: &str) -> Outcome<()> {
    let snapshot = call.world.inventory.now();
    let folder = snapshot
        .find(&call.this.value)
        .ok_or_else(|| Fault::not_found(call.this))?;
    if child_types(folder).iter().any(|t| t == r#type) {
        Ok(())
    } else {
        Err(Fault::not_supported())
    }
}

fn child_types(folder: &Object) -> Vec<String> {
    match folder.props.get("childType") {
        Some(Prop::Value(any)) => any.as_ref().clone().into_vec().unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn create_folder(call: &Call<'_>) -> Outcome<Moref> {
    let world = call.world;
    let name = &call.args::<CreateFolderRequest>()?.name;
    if name.is_empty() || name.chars().count() > 80 {
        return Err(Fault::invalid_name(name));
    }
    if !world.is_vc() {
        return Err(Fault::not_supported());
    }
    holds(call, "Folder")?;
    let snapshot = world.inventory.now();
    if let Some(other) = snapshot.child(&call.this.value, "childEntity", name) {
        return Err(Fault::duplicate_name(name, &other.moref));
    }
    let types = snapshot
        .find(&call.this.value)
        .map(|o| child_types(o))
        .unwrap_or_default();
    let moref = Moref::new("Folder", world.new_moid("group-v"));
    add_folder(world, &moref, name, call.this, &types);
    world.update_index(|index| {
        let entry = ContainerEntry {
            kind: "Folder".into(),
            name: name.clone(),
            parent: call.this.value.clone(),
        };
        index.containers.push((moref.value.clone(), entry));
    });
    Ok(moref)
}

/// Shows a folder that somebody made.
pub(crate) fn add_folder(
    world: &crate::world::World,
    moref: &Moref,
    name: &str,
    parent: &Moref,
    types: &[String],
) {
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let mut props = model::folder_props(&types);
    props.extend(model::entity_props(name, Some(parent)));
    world.inventory.commit(|t| {
        t.create(moref.clone(), props);
        t.add_ref(&parent.value, "childEntity", moref);
    });
}

/// Powers VMs on; each has a task of its own, which the result names.
async fn power_on_many(call: &Call<'_>) -> Reply {
    let world = call.world;
    let args = call.args::<PowerOnMultiVMRequest>()?;
    if !world.is_vc() {
        return Err(Fault::not_supported());
    }
    let task = call.task();
    let moref = task.moref();
    if let Err(fault) = task.check() {
        task.end(Err(fault));
        return ok(moref);
    }
    let mut attempted = Vec::new();
    for vm in &args.vm {
        let entry = world.vm(vm)?;
        let own = Task::begin(world, "PowerOnVM_Task", vm, call.user(), None);
        attempted.push(ClusterAttemptedVmInfo {
            vm: vm.clone(),
            task: Some(own.moref()),
            ..Default::default()
        });
        entry.address.tell(Message::PowerOn(own));
    }
    let result = ClusterPowerOnVmResult {
        attempted,
        ..Default::default()
    };
    task.end(Ok(Some(Any::from(result))));
    ok(moref)
}
