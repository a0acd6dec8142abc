//! Shelves of snapshots: what reads see, without a message.
//!
//! The actor that owns a thing is its only writer. A reader takes a lock for as long as it takes to clone some
//! `Arc`s; nobody holds it across an await.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::oneshot;

use crate::container::{ContainerSnapshot, ExecSnapshot, ExitOutcome, Phase, WaitCondition};
use crate::error::Error;
use crate::ids::{ContainerId, ExecId, ImageId, NetworkId};
use crate::image::ImageSnapshot;
use crate::network::NetworkSnapshot;
use crate::volume::VolumeSnapshot;

/// Everything that can be read. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    containers: RwLock<Containers>,
    images: RwLock<Arc<BTreeMap<ImageId, Arc<ImageSnapshot>>>>,
    networks: RwLock<BTreeMap<NetworkId, Arc<NetworkSnapshot>>>,
    volumes: RwLock<BTreeMap<String, Arc<VolumeSnapshot>>>,
}

#[derive(Debug, Default)]
struct Containers {
    by_id: BTreeMap<ContainerId, Arc<ContainerSnapshot>>,
    names: BTreeMap<String, ContainerId>,
    execs: BTreeMap<ExecId, ContainerId>,
    waiters: BTreeMap<ContainerId, Vec<Waiter>>,
}

/// Somebody who waits for a container. On the shelf and not in the actor, so that no restart loses it.
#[derive(Debug)]
struct Waiter {
    condition: WaitCondition,
    exits: u64,
    sender: oneshot::Sender<ExitOutcome>,
}

impl Waiter {
    fn is_met(&self, now: &ContainerSnapshot) -> bool {
        match self.condition {
            WaitCondition::NotRunning => {
                !now.is_running() && now.phase != Phase::Starting || now.exits > self.exits
            }
            WaitCondition::NextExit => now.exits > self.exits,
            WaitCondition::Removed => false,
        }
    }
}

fn outcome(status_code: i64) -> ExitOutcome {
    ExitOutcome {
        status_code,
        error: None,
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// All containers, newest first.
    pub fn containers(&self) -> Vec<Arc<ContainerSnapshot>> {
        let mut all: Vec<_> = read(&self.inner.containers)
            .by_id
            .values()
            .cloned()
            .collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then(b.id.cmp(&a.id)));
        all
    }

    /// The container of this id.
    pub fn container(&self, id: &ContainerId) -> Option<Arc<ContainerSnapshot>> {
        read(&self.inner.containers).by_id.get(id).cloned()
    }

    /// The container that a client means: full id, exact name (with or without slash), unique prefix of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::AmbiguousPrefix`].
    pub fn find_container(&self, wanted: &str) -> Result<Arc<ContainerSnapshot>, Error> {
        let shelf = read(&self.inner.containers);
        let missing = || Error::NoSuchContainer(wanted.to_owned());
        let by_id = ContainerId::from_str(wanted).ok();
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(id) = by_id.or_else(|| shelf.names.get(name).copied())
            && let Some(found) = shelf.by_id.get(&id)
        {
            return Ok(found.clone());
        }
        if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut found = shelf
            .by_id
            .values()
            .filter(|c| c.id.to_string().starts_with(wanted));
        let first = found.next().cloned().ok_or_else(missing)?;
        match found.next() {
            Some(_) => Err(Error::AmbiguousPrefix(wanted.to_owned())),
            None => Ok(first),
        }
    }

    /// The exec of this id, with its container.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`].
    pub fn find_exec(
        &self,
        id: &str,
    ) -> Result<(Arc<ContainerSnapshot>, Arc<crate::container::ExecSnapshot>), Error> {
        let missing = || Error::NoSuchExec(id.to_owned());
        let exec = ExecId::from_str(id).map_err(|_| missing())?;
        let shelf = read(&self.inner.containers);
        let container = shelf
            .execs
            .get(&exec)
            .and_then(|c| shelf.by_id.get(c))
            .ok_or_else(missing)?;
        let found = container.execs.get(&exec).cloned().ok_or_else(missing)?;
        Ok((container.clone(), found))
    }

    /// All images, by id.
    pub fn images(&self) -> Arc<BTreeMap<ImageId, Arc<ImageSnapshot>>> {
        read(&self.inner.images).clone()
    }

    /// The image that a client means: id, bare hex, unique prefix, reference, reference with digest.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] with the familiar, tagged form of `wanted`.
    pub fn find_image(&self, wanted: &str) -> Result<Arc<ImageSnapshot>, Error> {
        crate::image::find(&self.images(), wanted)
    }

    /// All networks.
    pub fn networks(&self) -> Vec<Arc<NetworkSnapshot>> {
        read(&self.inner.networks).values().cloned().collect()
    }

    /// The network that a client means: full id, name (`default` is `bridge`), unique prefix of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`]; [`Error::Invalid`] when a prefix fits several.
    pub fn find_network(&self, wanted: &str) -> Result<Arc<NetworkSnapshot>, Error> {
        let name = if wanted == "default" {
            "bridge"
        } else {
            wanted
        };
        let all = self.networks();
        if let Some(found) = all
            .iter()
            .find(|n| n.id.to_string() == name || n.name == name)
        {
            return Ok(found.clone());
        }
        let mut found = all
            .iter()
            .filter(|n| !name.is_empty() && n.id.to_string().starts_with(name));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Error::Invalid(format!("network {wanted} is ambiguous"))),
            _ => Err(Error::NoSuchNetwork(wanted.to_owned())),
        }
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Arc<VolumeSnapshot>> {
        read(&self.inner.volumes).values().cloned().collect()
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub fn find_volume(&self, name: &str) -> Result<Arc<VolumeSnapshot>, Error> {
        read(&self.inner.volumes)
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    /// The containers that have this volume mounted, running or not.
    pub fn users_of_volume(&self, name: &str) -> Vec<ContainerId> {
        read(&self.inner.containers)
            .by_id
            .values()
            .filter(|c| c.mounts.iter().any(|m| m.volume.as_deref() == Some(name)))
            .map(|c| c.id)
            .collect()
    }

    /// Registers a waiter; no exit after this call is missed, whatever happens to the container's actor.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`].
    pub fn wait(
        &self,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<ExitOutcome>, Error> {
        let shelf = &mut *write(&self.inner.containers);
        let now = shelf
            .by_id
            .get(id)
            .ok_or_else(|| Error::NoSuchContainer(id.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            condition,
            exits: now.exits,
            sender,
        };
        if waiter.is_met(now) {
            // The receiver is in our hands.
            let _ = waiter.sender.send(outcome(now.exit_code));
        } else {
            let waiting = shelf.waiters.entry(*id).or_default();
            waiting.retain(|w| !w.sender.is_closed());
            waiting.push(waiter);
        }
        Ok(receiver)
    }

    /// Publishes a container, and wakes those who waited for this.
    pub fn put_container(&self, mut snapshot: Arc<ContainerSnapshot>) {
        let shelf = &mut *write(&self.inner.containers);
        if let Some(old) = shelf.by_id.get(&snapshot.id)
            && snapshot.execs.is_empty()
            && !old.execs.is_empty()
        {
            // Its execs are others' to publish.
            Arc::make_mut(&mut snapshot).execs.clone_from(&old.execs);
        }
        if let Some(waiting) = shelf.waiters.get_mut(&snapshot.id) {
            for waiter in std::mem::take(waiting) {
                if waiter.is_met(&snapshot) {
                    // The waiter may have left.
                    let _ = waiter.sender.send(outcome(snapshot.exit_code));
                } else {
                    waiting.push(waiter);
                }
            }
        }
        let old = shelf.by_id.insert(snapshot.id, snapshot.clone());
        if let Some(old) = old {
            if old.name != snapshot.name && shelf.names.get(&old.name) == Some(&old.id) {
                shelf.names.remove(&old.name);
            }
            for gone in old.execs.keys().filter(|e| !snapshot.execs.contains_key(e)) {
                shelf.execs.remove(gone);
            }
        }
        shelf.names.insert(snapshot.name.clone(), snapshot.id);
        for exec in snapshot.execs.keys() {
            shelf.execs.insert(*exec, snapshot.id);
        }
    }

    /// The exec of this id.
    pub fn exec(&self, id: &ExecId) -> Option<Arc<ExecSnapshot>> {
        let shelf = read(&self.inner.containers);
        let container = shelf.by_id.get(shelf.execs.get(id)?)?;
        container.execs.get(id).cloned()
    }

    /// Publishes an exec with its container. Of a container that is not on the shelf, nobody sees execs.
    pub fn put_exec(&self, exec: Arc<ExecSnapshot>) {
        let shelf = &mut *write(&self.inner.containers);
        if let Some(container) = shelf.by_id.get_mut(&exec.container) {
            shelf.execs.insert(exec.id, exec.container);
            Arc::make_mut(container).execs.insert(exec.id, exec);
        }
    }

    /// Takes an exec off the shelf.
    pub fn remove_exec(&self, id: &ExecId) {
        let shelf = &mut *write(&self.inner.containers);
        if let Some(container) = shelf.execs.remove(id)
            && let Some(container) = shelf.by_id.get_mut(&container)
        {
            Arc::make_mut(container).execs.remove(id);
        }
    }

    /// Takes a container off the shelf: it is gone, its name is free, whoever waited for it is told.
    pub fn remove_container(&self, id: &ContainerId, exit_code: i64) {
        let shelf = &mut *write(&self.inner.containers);
        for waiter in shelf.waiters.remove(id).unwrap_or_default() {
            // The waiter may have left.
            let _ = waiter.sender.send(outcome(exit_code));
        }
        if let Some(old) = shelf.by_id.remove(id) {
            shelf.execs.retain(|_, c| c != id);
            if shelf.names.get(&old.name) == Some(id) {
                shelf.names.remove(&old.name);
            }
        }
    }

    /// Reserves a name for a container, before there is anything to publish.
    ///
    /// # Errors
    /// [`Error::NameTaken`].
    pub(crate) fn reserve_name(&self, name: &str, id: ContainerId) -> Result<(), Error> {
        let shelf = &mut *write(&self.inner.containers);
        match shelf.names.get(name) {
            Some(holder) if *holder != id => Err(Error::NameTaken {
                name: name.to_owned(),
                holder: *holder,
            }),
            _ => {
                shelf.names.insert(name.to_owned(), id);
                Ok(())
            }
        }
    }

    /// Gives a reserved name back, unless its container was published under it.
    pub(crate) fn release_name(&self, name: &str, id: ContainerId) {
        let shelf = &mut *write(&self.inner.containers);
        let published = shelf.by_id.get(&id).is_some_and(|c| c.name == name);
        if !published && shelf.names.get(name) == Some(&id) {
            shelf.names.remove(name);
        }
    }

    /// Publishes all images at once.
    pub fn set_images(&self, images: BTreeMap<ImageId, Arc<ImageSnapshot>>) {
        *write(&self.inner.images) = Arc::new(images);
    }

    /// Publishes a network.
    pub fn put_network(&self, snapshot: NetworkSnapshot) {
        write(&self.inner.networks).insert(snapshot.id, Arc::new(snapshot));
    }

    /// Shows, or no longer shows, a container in its network.
    pub(crate) fn set_endpoint(
        &self,
        network: NetworkId,
        container: ContainerId,
        place: Option<crate::network::Endpoint>,
    ) {
        let networks = &mut *write(&self.inner.networks);
        let Some(old) = networks.get_mut(&network) else {
            return;
        };
        if old.endpoints.get(&container) == place.as_ref() {
            return;
        }
        let mut changed = (**old).clone();
        match place {
            Some(place) => changed.endpoints.insert(container, place),
            None => changed.endpoints.remove(&container),
        };
        *old = Arc::new(changed);
    }

    /// Publishes a volume.
    pub fn put_volume(&self, snapshot: Arc<VolumeSnapshot>) {
        write(&self.inner.volumes).insert(snapshot.name.clone(), snapshot);
    }

    /// Takes a volume off the shelf.
    pub fn remove_volume(&self, name: &str) {
        write(&self.inner.volumes).remove(name);
    }
}
