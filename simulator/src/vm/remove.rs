//! The end of a VM: destroyed with its files, or unregistered without; and its move elsewhere.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{VirtualMachinePowerState as Power, VmRemovedEvent};

use super::reconfigure::blocking;
use super::{Place, Record, State};
use crate::datastore::{DatastorePath, remove};
use crate::event::Place as EventPlace;
use crate::fault::{Fault, Outcome};
use crate::inventory::Transaction;
use crate::task::Task;

impl State {
    /// Says whether the VM is off.
    fn check_off(&self) -> Outcome<()> {
        if self.record.is_on() {
            return Err(Fault::power_state(
                Some(Power::PoweredOff),
                Power::PoweredOn,
            ));
        }
        Ok(())
    }

    /// Deletes the VM and its files: its directory, and its disks wherever they are. The parents
    /// of its disks stay.
    pub(super) async fn destroy(&mut self, task: Task) -> bool {
        let result = match task.check().and_then(|()| self.check_off()) {
            Ok(()) => self.delete_files().await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = result {
            task.end(Err(fault));
            return false;
        }
        self.forget(|t| task.end_in(t, Ok(None)));
        tracing::debug!(vm = self.record.name(), "destroyed");
        true
    }

    async fn delete_files(&self) -> Outcome<()> {
        let world = self.world.clone();
        let home = self.record.vmx.parent();
        let disks: Vec<DatastorePath> = self
            .record
            .disks()
            .into_iter()
            .filter_map(|(_, _, _, file)| file.parse().ok())
            .collect();
        let vmx = self.record.vmx.clone();
        blocking(move || {
            for disk in disks
                .iter()
                .filter(|d| home.path.is_empty() || d.parent() != home)
            {
                let real = world.locate(disk)?;
                if let Err(error) = crate::vmdk::delete(&real) {
                    // The VM goes all the same: a disk that is not there needs no deleting.
                    tracing::warn!(%disk, %error, "cannot delete a disk of a VM that is destroyed");
                }
            }
            let path = if home.path.is_empty() { &vmx } else { &home };
            match remove(&world.locate(path)?) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Fault::io(path, &error))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) fn unregister(&mut self) -> Outcome<()> {
        self.check_off()?;
        self.forget(|_| ());
        Ok(())
    }

    /// Takes the VM out of the inventory, in the same moment as `then`.
    fn forget(&mut self, then: impl FnOnce(&mut Transaction)) {
        let world = self.world.clone();
        let record = &self.record;
        let id = record.moref.value.clone();
        world.update_index(|index| {
            index.vms.remove(&id);
        });
        world.names.release(&id);
        world.inventory.commit(|t| {
            let name = record.name().to_owned();
            let place = EventPlace::of(&world, t.snapshot(), &record.moref, &name);
            let event = VmRemovedEvent::default();
            world
                .events
                .post(&world, t, place, event.into(), format!("Removed {name}"));
            record.unregister(t);
            then(t);
        });
    }

    pub(super) fn relocate(&mut self, place: Place, task: Task) {
        if let Err(fault) = task.check() {
            return task.end(Err(fault));
        }
        let world = self.world.clone();
        let old = self.record.clone();
        match place {
            Place::Folder(folder) => {
                if let Err(fault) = super::create::check_name(&world, &folder, self.record.name()) {
                    return task.end(Err(fault));
                }
                world.names.moved(&old.moref.value, &folder.value);
                self.record.folder = folder;
            }
            Place::Pool(pool) => self.record.pool = pool,
        }
        self.show_move(&old, |t| task.end_in(t, Ok(None)));
    }

    /// Goes to another pool, since its own is taken away.
    pub(super) fn adopt(&mut self, pool: Moref) {
        let old = self.record.clone();
        self.record.pool = pool;
        self.show_move(&old, |_| ());
    }

    /// Writes down and shows where the VM is now, in the same moment as `then`.
    fn show_move(&self, old: &Record, then: impl FnOnce(&mut Transaction)) {
        let (world, record) = (&self.world, &self.record);
        self.keep_home();
        world.update_index(|index| {
            index
                .vms
                .insert(record.moref.value.clone(), super::create::entry(record));
        });
        world.inventory.commit(|t| {
            moved(t, old, record);
            then(t);
        });
    }

    /// A successor of this actor begins where the VM is now.
    fn keep_home(&self) {
        let Ok(entry) = self.world.vm(&self.record.moref) else {
            return;
        };
        let home = super::Home {
            folder: self.record.folder.clone(),
            pool: self.record.pool.clone(),
            host: self.record.host.clone(),
        };
        *entry
            .home
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = home;
    }
}

fn moved(t: &mut Transaction, old: &Record, new: &Record) {
    let id = &new.moref.value;
    t.remove_ref(&old.folder.value, "childEntity", id);
    t.add_ref(&new.folder.value, "childEntity", &new.moref);
    t.set(id, "parent", new.folder.clone());
    t.remove_ref(&old.pool.value, "vm", id);
    t.add_ref(&new.pool.value, "vm", &new.moref);
    t.set(id, "resourcePool", new.pool.clone());
}
