//! Everything that the parts of one simulator share. Nothing here is global to the process: two
//! simulators in one process know nothing of each other.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use strategy::Address;
use vmomi::ManagedObjectReference as Moref;

use crate::config::{Config, Model};
use crate::datastore::{Datastore, DatastorePath, Stores};
use crate::engine::GuestEngine;
use crate::event::Events;
use crate::fault::{Fault, Outcome};
use crate::faults::Faults;
use crate::inventory::{Inventory, Snapshot};
use crate::names::Names;
use crate::network::Network;
use crate::session::Sessions;
use crate::state::{self, Index};
use crate::supervision::Actors;
use crate::task::Tasks;
use crate::{host, portgroup, vm};

/// The moids of the objects that there is one of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) root_folder: String,
    pub(crate) property_collector: String,
    pub(crate) session_manager: String,
    pub(crate) view_manager: String,
    pub(crate) search_index: String,
    pub(crate) task_manager: String,
    pub(crate) event_manager: String,
    pub(crate) file_manager: String,
    pub(crate) disk_manager: String,
    pub(crate) namespace_manager: String,
    pub(crate) license_manager: String,
    pub(crate) license_assignment: String,
    pub(crate) option_manager: String,
    pub(crate) authorization_manager: String,
    pub(crate) user_directory: String,
    pub(crate) diagnostic_manager: String,
    pub(crate) perf_manager: String,
    pub(crate) guest_operations: String,
    pub(crate) account_manager: String,
    pub(crate) dvs_manager: String,
    pub(crate) extension_manager: String,
    pub(crate) custom_fields: String,
}

/// What all parts share.
pub(crate) struct World {
    pub(crate) config: Config,
    /// The state directory.
    pub(crate) state: PathBuf,
    pub(crate) inventory: Inventory,
    pub(crate) faults: Faults,
    pub(crate) sessions: Sessions,
    pub(crate) tasks: Tasks,
    pub(crate) names: Names,
    pub(crate) events: Events,
    pub(crate) datastores: BTreeMap<String, Arc<Datastore>>,
    pub(crate) disks: crate::vmdk::Roots,
    pub(crate) engine: Arc<dyn GuestEngine>,
    pub(crate) ids: Ids,
    pub(crate) index: Mutex<Index>,
    pub(crate) vms: RwLock<vm::Registry>,
    /// The tree of actors.
    pub(crate) actors: Actors,
    /// The actors of the hosts, by moid.
    pub(crate) hosts: RwLock<HashMap<String, Address<host::Message>>>,
    /// The actors of the networks, by moid.
    pub(crate) networks: RwLock<HashMap<String, Address<portgroup::Message>>>,
    /// The actors of the datastores.
    pub(crate) stores: Stores,
    /// The address that this vSphere reports for itself.
    pub(crate) management: String,
    /// The network of the guests, when they have one.
    pub(crate) network: Option<Arc<Network>>,
    /// Ports published by a control message, for as long as the simulator runs.
    pub(crate) forwards: Mutex<Vec<crate::network::Forward>>,
    pub(crate) next_mac: AtomicI32,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Says whether this is a vCenter.
    pub(crate) fn is_vc(&self) -> bool {
        matches!(self.config.model, Model::Vc(_))
    }

    /// Says whether these credentials are the right ones.
    pub(crate) fn may_log_in(&self, user: &str, password: &str) -> bool {
        user.eq_ignore_ascii_case(&self.config.user) && password == self.config.password
    }

    /// Makes a moid that was never used before.
    pub(crate) fn new_moid(&self, prefix: &str) -> String {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.last_moid += 1;
        if self.is_vc() || prefix != "vm-" {
            format!("{prefix}{}", index.last_moid)
        } else {
            index.last_moid.to_string()
        }
    }

    /// Changes the index and writes it.
    pub(crate) fn update_index(&self, change: impl FnOnce(&mut Index)) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut index);
        if let Err(error) = state::write_index(&self.state, &index) {
            tracing::error!(%error, "cannot write the index of the state directory");
        }
    }

    /// The address that this vSphere reports for itself.
    pub(crate) fn management(&self) -> String {
        self.management.clone()
    }

    /// Finds a VM.
    pub(crate) fn vm(&self, moref: &Moref) -> Outcome<Arc<vm::Entry>> {
        let vms = self.vms.read().unwrap_or_else(PoisonError::into_inner);
        vms.get(&moref.value)
            .cloned()
            .ok_or_else(|| Fault::not_found(moref))
    }

    /// Finds the actor of a host.
    pub(crate) fn host(&self, moref: &Moref) -> Outcome<Address<host::Message>> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts
            .get(&moref.value)
            .cloned()
            .ok_or_else(|| Fault::not_found(moref))
    }

    /// Finds the real place of a datastore path.
    pub(crate) fn locate(&self, path: &DatastorePath) -> Outcome<PathBuf> {
        let store = self
            .datastores
            .get(&path.datastore)
            .ok_or_else(|| Fault::datastore(&path.datastore))?;
        store
            .real(&path.path)
            .ok_or_else(|| Fault::datastore_path(&path.to_string()))
    }

    /// Reads a datastore path as a client writes it.
    pub(crate) fn path(&self, text: &str) -> Outcome<DatastorePath> {
        text.parse().map_err(|_| Fault::datastore_path(text))
    }

    /// Reads and locates a datastore path.
    pub(crate) fn real(&self, text: &str) -> Outcome<PathBuf> {
        self.locate(&self.path(text)?)
    }

    /// Writes a real place as a datastore path.
    pub(crate) fn display(&self, real: &std::path::Path) -> Option<DatastorePath> {
        // A parent is written relative to its child: `../base/base.vmdk`.
        let mut plain = PathBuf::new();
        for part in real.components() {
            match part {
                std::path::Component::ParentDir => drop(plain.pop()),
                other => plain.push(other),
            }
        }
        self.datastores.values().find_map(|store| {
            let below = plain.strip_prefix(&store.root).ok()?;
            Some(DatastorePath::new(&store.name, below.to_string_lossy()))
        })
    }

    /// Finds the datacenter in which an entity lies.
    pub(crate) fn datacenter_of(&self, snapshot: &Snapshot, moid: &str) -> Option<Moref> {
        let mut at = snapshot.find(moid)?;
        loop {
            if at.moref.r#type == "Datacenter" {
                return Some(at.moref.clone());
            }
            at = snapshot.find(&at.reference("parent")?.value)?;
        }
    }

    /// Makes a hardware address in the range of generated ones.
    pub(crate) fn new_mac(&self) -> String {
        let number = self.next_mac.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let prefix = if self.is_vc() { "00:50:56" } else { "00:0c:29" };
        format!(
            "{prefix}:{:02x}:{:02x}:{:02x}",
            number[1], number[2], number[3]
        )
    }

    /// Publishes a port of a VM on the host's loopback: `hostport=vmname:port`.
    pub(crate) async fn forward(self: &Arc<Self>, text: &str) -> Result<SocketAddr, String> {
        crate::forward::open(self, text.parse()?).await
    }
}
