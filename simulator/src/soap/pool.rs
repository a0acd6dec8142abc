//! `ResourcePool`, `ComputeResource` and `ClusterComputeResource`.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::ArrayUpdateOperation;
use vmomi::types::{
    ClusterConfigInfoEx, ClusterConfigSpecEx, ComputeResourceConfigInfo, CreateResourcePoolRequest,
    MoveIntoResourcePoolRequest, ReconfigureComputeResourceRequest, ResourceConfigSpec,
    ResourcePoolSummary, UpdateConfigRequest,
};

use super::{Call, Reply, entity, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::Prop;
use crate::model::{entity_props, pool_props};
use crate::state::ContainerEntry;
use crate::task::Task;
use crate::vm::{Message, Place};
use crate::world::World;

pub(super) async fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    match call.method {
        "CreateResourcePool" => ok(create(call)?),
        "DestroyChildren" => {
            entity::remove_below(world, call.this, call.this).await?;
            ok(())
        }
        "UpdateConfig" => {
            let args = call.args::<UpdateConfigRequest>()?;
            update(world, call.this, args)?;
            ok(())
        }
        "MoveIntoResourcePool" => {
            let args = call.args::<MoveIntoResourcePoolRequest>()?;
            for moref in &args.list {
                let vm = world.vm(moref)?;
                let task = Task::begin(world, "MoveIntoResourcePool", moref, call.user(), None);
                vm.address
                    .tell(Message::Move(Place::Pool(call.this.clone()), task));
            }
            ok(())
        }
        "RefreshRuntime" | "RefreshRecommendation" => ok(()),
        "ReconfigureComputeResource_Task" => {
            let args = call.args::<ReconfigureComputeResourceRequest>()?;
            let task = call.task();
            let moref = task.moref();
            let result = task
                .check()
                .and_then(|()| reconfigure(world, call.this, args));
            task.end(result.map(|()| None));
            ok(moref)
        }
        _ => Err(Fault::not_supported()),
    }
}

fn create(call: &Call<'_>) -> Outcome<Moref> {
    let world = call.world;
    let args = call.args::<CreateResourcePoolRequest>()?;
    if args.name.is_empty() {
        return Err(Fault::invalid_name(&args.name));
    }
    let snapshot = world.inventory.now();
    if let Some(other) = snapshot.child(&call.this.value, "resourcePool", &args.name) {
        return Err(Fault::duplicate_name(&args.name, &other.moref));
    }
    let prefix = if world.is_vc() { "resgroup-" } else { "pool" };
    let moref = Moref::new("ResourcePool", world.new_moid(prefix));
    add_pool(world, &moref, &args.name, call.this, args.spec.clone());
    world.update_index(|index| {
        let entry = ContainerEntry {
            kind: "ResourcePool".into(),
            name: args.name.clone(),
            parent: call.this.value.clone(),
        };
        index.containers.push((moref.value.clone(), entry));
    });
    Ok(moref)
}

/// Shows a pool that somebody made.
pub(crate) fn add_pool(
    world: &World,
    moref: &Moref,
    name: &str,
    parent: &Moref,
    mut config: ResourceConfigSpec,
) {
    let snapshot = world.inventory.now();
    let owner = snapshot
        .find(&parent.value)
        .and_then(|p| p.reference("owner").cloned());
    config.entity = Some(moref.clone());
    let mut props = pool_props(name, &owner.unwrap_or_default(), config);
    props.extend(entity_props(name, Some(parent)));
    world.inventory.commit(|t| {
        t.create(moref.clone(), props);
        t.add_ref(&parent.value, "resourcePool", moref);
    });
}

fn update(world: &World, this: &Moref, args: &UpdateConfigRequest) -> Outcome<()> {
    let snapshot = world.inventory.now();
    let object = snapshot
        .find(&this.value)
        .ok_or_else(|| Fault::not_found(this))?;
    let name = args
        .name
        .clone()
        .or_else(|| object.text("name").map(str::to_owned));
    let config = args.config.clone();
    let summary = match object.props.get("summary") {
        Some(Prop::Value(any)) => any.as_data::<ResourcePoolSummary>().cloned(),
        _ => None,
    };
    world.inventory.commit(|t| {
        let mut summary = summary.unwrap_or_default();
        if let Some(config) = config {
            summary.config = config.clone();
            t.set(&this.value, "config", config);
        }
        if let Some(name) = name {
            summary.name = name.clone();
            t.set(&this.value, "name", name);
        }
        t.set(&this.value, "summary", summary);
    });
    Ok(())
}

/// Changes a cluster: the groups of VMs and hosts, and whether DRS is on.
fn reconfigure(
    world: &World,
    this: &Moref,
    args: &ReconfigureComputeResourceRequest,
) -> Outcome<()> {
    let snapshot = world.inventory.now();
    let object = snapshot
        .find(&this.value)
        .ok_or_else(|| Fault::not_found(this))?;
    let Some(Prop::Value(any)) = object.props.get("configurationEx") else {
        return Err(Fault::not_supported());
    };
    let Some(spec) = args.spec.get::<ClusterConfigSpecEx>() else {
        let Some(mut config) = any.as_data::<ComputeResourceConfigInfo>().cloned() else {
            return Err(Fault::not_supported());
        };
        if let Some(placement) = args.spec.vm_swap_placement() {
            config.vm_swap_placement = placement.clone();
        }
        world
            .inventory
            .commit(|t| t.set(&this.value, "configurationEx", config));
        return Ok(());
    };
    let mut config = any
        .as_data::<ClusterConfigInfoEx>()
        .cloned()
        .ok_or_else(Fault::not_supported)?;
    if let Some(drs) = &spec.drs_config {
        if drs.enabled.is_some() {
            config.drs_config.enabled = drs.enabled;
        }
        if drs.default_vm_behavior.is_some() {
            config.drs_config.default_vm_behavior = drs.default_vm_behavior.clone();
        }
    }
    for change in &spec.group_spec {
        let named = |name: &str| config.group.iter().position(|g| g.name() == name);
        match (&change.operation, &change.info) {
            (ArrayUpdateOperation::Add, Some(info)) => {
                if named(info.name()).is_some() {
                    return Err(Fault::duplicate_name(info.name(), this));
                }
                config.group.push(info.clone());
            }
            (ArrayUpdateOperation::Edit, Some(info)) => {
                let at = named(info.name()).ok_or_else(|| Fault::invalid_argument("groupSpec"))?;
                config.group[at] = info.clone();
            }
            (ArrayUpdateOperation::Remove, _) => {
                let key = change.remove_key.as_ref().and_then(|k| k.as_str());
                let at = key
                    .and_then(named)
                    .ok_or_else(|| Fault::invalid_argument("groupSpec.removeKey"))?;
                config.group.remove(at);
            }
            _ => return Err(Fault::invalid_argument("groupSpec")),
        }
    }
    world
        .inventory
        .commit(|t| t.set(&this.value, "configurationEx", config));
    Ok(())
}
