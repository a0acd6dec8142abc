//! The names of VMs by folder: looked up at once, however many there are, and given to one only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use vmomi::ManagedObjectReference as Moref;

use crate::fault::{Fault, Outcome};

type Key = (String, String);

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<Key, Moref>,
    by_vm: HashMap<String, Key>,
}

/// Who has which name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    inner: Mutex<Inner>,
}

/// A name that is given back unless it is kept.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    names: &'a Names,
    vm: Option<String>,
}

impl Reserved<'_> {
    /// Keeps the name for good.
    pub(crate) fn keep(mut self) {
        self.vm = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.take() {
            self.names.release(&vm);
        }
    }
}

impl Names {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds who has a name.
    pub(crate) fn taken(&self, folder: &str, name: &str) -> Option<Moref> {
        self.lock()
            .by_name
            .get(&(folder.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Finds a VM by name in whatever folder.
    pub(crate) fn find(&self, name: &str) -> Option<Moref> {
        let inner = self.lock();
        inner
            .by_name
            .iter()
            .find(|((_, n), _)| n == name)
            .map(|(_, vm)| vm.clone())
    }

    /// Gives a name to a VM, in place of the one that it had.
    pub(crate) fn reserve(&self, folder: &str, name: &str, vm: &Moref) -> Outcome<Reserved<'_>> {
        let key = (folder.to_owned(), name.to_owned());
        let inner = &mut *self.lock();
        if let Some(other) = inner.by_name.get(&key)
            && other != vm
        {
            return Err(Fault::duplicate_name(name, other));
        }
        if let Some(old) = inner.by_vm.insert(vm.value.clone(), key.clone())
            && old != key
        {
            inner.by_name.remove(&old);
        }
        inner.by_name.insert(key, vm.clone());
        Ok(Reserved {
            names: self,
            vm: Some(vm.value.clone()),
        })
    }

    /// Takes a VM's name back.
    pub(crate) fn release(&self, vm: &str) {
        let inner = &mut *self.lock();
        if let Some(key) = inner.by_vm.remove(vm) {
            inner.by_name.remove(&key);
        }
    }

    /// Moves a VM's name to another folder.
    pub(crate) fn moved(&self, vm: &str, folder: &str) {
        let inner = &mut *self.lock();
        if let Some(key) = inner.by_vm.get_mut(vm)
            && let Some(moref) = inner.by_name.remove(key)
        {
            key.0 = folder.to_owned();
            inner.by_name.insert(key.clone(), moref);
        }
    }
}
