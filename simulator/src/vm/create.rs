//! New VMs: made from a specification, or registered from a `.vmx` file.

use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};

use vmomi::types::{
    VirtualMachineConfigSpec, VirtualMachinePowerState, VmCreatedEvent, VmRegisteredEvent,
};
use vmomi::{Any, ManagedObjectReference as Moref};

use super::reconfigure::{apply, blocking};
use super::{Home, Record, file};
use crate::datastore::{DatastorePath, remove};
use crate::event::Place;
use crate::fault::{Fault, Outcome};
use crate::inventory::Snapshot;
use crate::state::IndexEntry;
use crate::task::Task;
use crate::world::World;

/// Refuses names that cannot be, or that a sibling has.
pub(crate) fn check_name(world: &World, folder: &Moref, name: &str) -> Outcome<()> {
    if name.is_empty() || name.chars().count() > 80 {
        return Err(Fault::invalid_name(name));
    }
    match world.names.taken(&folder.value, name) {
        Some(other) => Err(Fault::duplicate_name(name, &other)),
        None => Ok(()),
    }
}

/// Finds where a new VM shall lie.
pub(crate) fn home(
    world: &World,
    folder: &Moref,
    pool: Option<&Moref>,
    host: Option<&Moref>,
) -> Outcome<Home> {
    let snapshot = world.inventory.now();
    let known = |moref: &Moref| {
        snapshot
            .find(&moref.value)
            .map(|o| o.moref.clone())
            .ok_or_else(|| Fault::not_found(moref))
    };
    let host = match host {
        Some(host) => known(host)?,
        None => {
            let pool = pool.ok_or_else(|| Fault::invalid_argument("pool"))?;
            least_loaded(&snapshot, pool).ok_or_else(|| Fault::invalid_argument("pool"))?
        }
    };
    let pool = match pool {
        Some(pool) => known(pool)?,
        None => snapshot
            .find(&host.value)
            .and_then(|h| snapshot.find(&h.reference("parent")?.value))
            .and_then(|c| c.reference("resourcePool").cloned())
            .ok_or_else(|| Fault::invalid_argument("pool"))?,
    };
    Ok(Home {
        folder: known(folder)?,
        pool,
        host,
    })
}

/// The host of a pool that has the fewest VMs.
fn least_loaded(snapshot: &Snapshot, pool: &Moref) -> Option<Moref> {
    let owner = snapshot.find(&pool.value)?.reference("owner")?;
    let hosts = snapshot.children(&owner.value, "host");
    let host = hosts
        .into_iter()
        .min_by_key(|h| h.refs("vm").map_or(0, |vms| vms.len()))?;
    Some(host.moref.clone())
}

/// Makes a VM; the task ends when it is registered.
pub(crate) async fn create(
    world: Arc<World>,
    spec: VirtualMachineConfigSpec,
    home: Home,
    task: Task,
) {
    let result = match task.check() {
        Ok(()) => try_create(&world, spec, home).await,
        Err(fault) => Err(fault),
    };
    match result {
        Ok(record) => publish(&world, record, task, true).await,
        Err(fault) => task.end(Err(fault)),
    }
}

async fn try_create(
    world: &Arc<World>,
    spec: VirtualMachineConfigSpec,
    home: Home,
) -> Outcome<Record> {
    let name = spec.name.clone().unwrap_or_default();
    check_name(world, &home.folder, &name)?;
    let wanted = spec
        .files
        .as_ref()
        .and_then(|f| f.vm_path_name.clone())
        .unwrap_or_default();
    let wanted = world.path(&wanted)?;
    if !world.datastores.contains_key(&wanted.datastore) {
        return Err(Fault::datastore(&wanted.datastore));
    }
    let moref = Moref::new("VirtualMachine", world.new_moid("vm-"));
    let reserved = world.names.reserve(&home.folder.value, &name, &moref)?;
    let (shared, label) = (world.clone(), name.clone());
    let (vmx, made) = blocking(move || make_directory(&shared, &wanted, &label)).await?;
    let mut record = Record::new(moref, &name, vmx.clone(), home);
    record.set_files(world);
    let outcome = apply(world, &mut record, spec, None).await;
    let outcome = match outcome {
        Ok(()) => file::try_save(world, &record),
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(()) => {
            reserved.keep();
            Ok(record)
        }
        Err(fault) => {
            if made && let Ok(dir) = world.locate(&vmx.parent()) {
                // What was made for the VM goes with it; what cannot go is left, as on vSphere.
                let _ = blocking(move || remove(&dir).map_err(|e| Fault::io("", &e))).await;
            }
            Err(fault)
        }
    }
}

/// Makes the VM's directory and says how its `.vmx` file is called; also whether the directory is
/// new.
fn make_directory(
    world: &World,
    wanted: &DatastorePath,
    name: &str,
) -> Outcome<(DatastorePath, bool)> {
    if wanted.path.ends_with(".vmx") {
        let real = world.locate(wanted)?;
        if real.exists() {
            return Err(Fault::file_exists(wanted));
        }
        let dir = world.locate(&wanted.parent())?;
        let new = !dir.exists();
        std::fs::create_dir_all(&dir).map_err(|e| Fault::cannot_create(wanted, e))?;
        return Ok((wanted.clone(), new));
    }
    // A slash cannot be part of a file's name, nor can a name hide.
    let stem: String = name
        .chars()
        .map(|c| if matches!(c, '/' | '\0') { '_' } else { c })
        .collect();
    let stem = if stem.starts_with('.') {
        format!("_{stem}")
    } else {
        stem
    };
    let base = if wanted.path.is_empty() {
        wanted.join(&stem)
    } else {
        wanted.clone()
    };
    for number in 0..1000 {
        let dir = if number == 0 {
            base.clone()
        } else {
            DatastorePath::new(&base.datastore, format!("{}_{number}", base.path))
        };
        let real = world.locate(&dir)?;
        if let Some(parent) = real.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Fault::cannot_create(&dir, e))?;
        }
        match std::fs::create_dir(&real) {
            Ok(()) => return Ok((dir.join(&format!("{stem}.vmx")), true)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // A directory that was made for the VM beforehand is used as it is.
                let vmx = dir.join(&format!("{stem}.vmx"));
                let has_vm = std::fs::read_dir(&real)
                    .map_err(|e| Fault::io(&dir, &e))?
                    .flatten()
                    .any(|entry| entry.path().extension().is_some_and(|x| x == "vmx"));
                if !has_vm {
                    return Ok((vmx, false));
                }
            }
            Err(e) => return Err(Fault::cannot_create(&dir, e)),
        }
    }
    Err(Fault::file_exists(base))
}

/// Registers the VM of a `.vmx` file.
pub(crate) async fn register(
    world: Arc<World>,
    vmx: DatastorePath,
    name: Option<String>,
    home: Home,
    task: Task,
) {
    let result = match task.check() {
        Ok(()) => try_register(&world, vmx, name, home).await,
        Err(fault) => Err(fault),
    };
    match result {
        Ok(record) => publish(&world, record, task, false).await,
        Err(fault) => task.end(Err(fault)),
    }
}

async fn try_register(
    world: &Arc<World>,
    vmx: DatastorePath,
    name: Option<String>,
    home: Home,
) -> Outcome<Record> {
    let taken = {
        let index = world.index.lock().unwrap_or_else(PoisonError::into_inner);
        let path = vmx.to_string();
        index.vms.values().any(|e| e.vmx == path)
    };
    if taken {
        return Err(Fault::plain("AlreadyExists"));
    }
    let moref = Moref::new("VirtualMachine", world.new_moid("vm-"));
    let (shared, id) = (world.clone(), moref.clone());
    let mut record = blocking(move || file::load(&shared, id, vmx, home)).await?;
    if let Some(name) = name.filter(|n| !n.is_empty()) {
        record.config.name = name;
    }
    check_name(world, &record.folder, record.name())?;
    world
        .names
        .reserve(&record.folder.value, record.name(), &moref)?
        .keep();
    Ok(record)
}

/// Shows a new VM, starts its actor, and ends the task.
async fn publish(world: &Arc<World>, record: Record, task: Task, created: bool) {
    let moref = record.moref.clone();
    world.update_index(|index| {
        index.vms.insert(moref.value.clone(), entry(&record));
    });
    world.inventory.commit(|t| record.register(world, t));
    if let Err(fault) = super::spawn(world, record.clone()).await {
        return task.end(Err(fault));
    }
    world.inventory.commit(|t| {
        let name = record.name().to_owned();
        let place = Place::of(world, t.snapshot(), &moref, &name);
        if created {
            let event = VmCreatedEvent::default();
            world
                .events
                .post(world, t, place, event.into(), format!("Created {name}"));
        } else {
            let event = VmRegisteredEvent::default();
            world
                .events
                .post(world, t, place, event.into(), format!("Registered {name}"));
        }
        task.end_in(t, Ok(Some(Any::from(moref.clone()))));
    });
}

/// What the index remembers of a VM.
pub(crate) fn entry(record: &Record) -> IndexEntry {
    IndexEntry {
        vmx: record.vmx.to_string(),
        folder: record.folder.value.clone(),
        pool: record.pool.value.clone(),
        host: record.host.value.clone(),
    }
}

/// Registers the VMs that the index remembers, when a simulator starts on an old state directory.
pub(crate) async fn restore(world: &Arc<World>) {
    let known = {
        let index = world.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.vms.clone()
    };
    for (moid, entry) in known {
        if let Err(fault) = restore_one(world, &moid, &entry).await {
            tracing::warn!(
                vmx = entry.vmx,
                why = fault.message,
                "a VM cannot be registered again"
            );
            world.update_index(|index| {
                index.vms.remove(&moid);
            });
        }
    }
}

async fn restore_one(world: &Arc<World>, moid: &str, entry: &IndexEntry) -> Outcome<()> {
    let snapshot = world.inventory.now();
    // A folder, pool or host that the model no longer has is replaced by one that it has.
    let find = |moid: &str, r#type: &str| {
        let mut found = snapshot.find(moid).map(|o| o.moref.clone());
        if found.is_none() {
            snapshot.objects.for_each(&mut |_, o| {
                if found.is_none() && o.moref.r#type == r#type {
                    found = Some(o.moref.clone());
                }
            });
        }
        found.unwrap_or_default()
    };
    let home = Home {
        folder: find(&entry.folder, "Folder"),
        pool: find(&entry.pool, "ResourcePool"),
        host: find(&entry.host, "HostSystem"),
    };
    let vmx = world.path(&entry.vmx)?;
    let moref = Moref::new("VirtualMachine", moid);
    let mut record = file::load(world, moref.clone(), vmx, home)?;
    if record.runtime.power_state != VirtualMachinePowerState::Suspended {
        record.runtime.power_state = VirtualMachinePowerState::PoweredOff;
    }
    world
        .names
        .reserve(&record.folder.value, record.name(), &moref)?
        .keep();
    world.inventory.commit(|t| record.register(world, t));
    super::spawn(world, record).await.map(drop)
}
