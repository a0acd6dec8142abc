//! What all actors of one virtual container host share: settings, shelves, addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use strategy::{Address, Policy, SupervisorMessage, Tree};
use tether_protocol::config::{ApplianceConfig, Cidr};
use tether_protocol::session::{Identity, Process};
use vmomi::ManagedObjectReference;

use crate::appliance;
use crate::container;
use crate::containers::abandoned::Abandoned;
use crate::error::Error;
use crate::events;
use crate::ids::{ContainerId, ExecId};
use crate::image::{self, disk::DiskAccess};
use crate::network;
use crate::snapshot::Snapshots;
use crate::system::{Capacity, SystemInfo};
use crate::volume;
use crate::vsphere::Vsphere;

/// What the configuration document says, in the form that the actors use.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VCH's name.
    pub name: String,
    /// Datastore of images and containers.
    pub datastore: String,
    /// Folder of the image store, without the datastore.
    pub image_folder: String,
    /// The default volume store: datastore and folder; none: volumes are refused.
    pub volume_store: Option<(String, String)>,
    /// Datastore path of bootstrap.iso.
    pub bootstrap_iso: String,
    /// Where guests reach the serial hub.
    pub serial_uri: String,
    /// Name of the bridge port group.
    pub bridge_network: String,
    /// First bridge network: address with prefix.
    pub bridge: network::Pool,
    /// CPUs of a container that asks for none.
    pub default_cpus: u32,
    /// Memory in bytes of a container that asks for none.
    pub default_memory: u64,
    /// Size of a container's disk in bytes.
    pub disk_size: u64,
    /// Debug level.
    pub debug: u32,
    /// The VCH's key on the links.
    pub identity: Identity,
    /// Resource pool of containers.
    pub pool: ManagedObjectReference,
    /// Folder of containers' VMs.
    pub folder: ManagedObjectReference,
    /// The datacenter.
    pub datacenter: String,
    /// The appliance's own VM; none: this program does not run in one.
    pub own_vm: Option<ManagedObjectReference>,
    /// Where blobs of a pull are spooled until their layer's turn.
    pub spool: std::path::PathBuf,
    /// Deadline of one vSphere request.
    pub request_deadline: std::time::Duration,
    /// Registries that may speak http or show any certificate.
    pub insecure_registries: Vec<String>,
    /// More CA certificates of registries, PEM.
    pub registry_ca: String,
}

impl Settings {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names what is missing or wrong.
    pub fn read(config: &ApplianceConfig) -> Result<Self, Error> {
        let bad = |what: &str| Error::Invalid(format!("configuration: {what}"));
        let store = |url: &str| {
            let path = url.strip_prefix("ds://")?;
            let (datastore, folder) = path.split_once('/').unwrap_or((path, ""));
            Some((datastore.to_owned(), folder.trim_matches('/').to_owned()))
        };
        let (datastore, folder) = store(&config.storage.image_store)
            .ok_or_else(|| bad("storage.image_store is not ds://…"))?;
        let image_folder = if folder.is_empty() {
            format!("{}-images", config.name)
        } else {
            folder
        };
        let volume_store = config
            .storage
            .volume_stores
            .iter()
            .find(|s| s.label == "default")
            .and_then(|s| store(&s.url))
            .map(|(ds, folder)| {
                (
                    ds,
                    if folder.is_empty() {
                        format!("{}-volumes", config.name)
                    } else {
                        folder
                    },
                )
            });
        let identity = Identity::from_base64(&config.link.key.0)
            .map_err(|why| Error::failed("read link.key", &why))?;
        let range = config.network.bridge_range;
        let width = match config.network.bridge_width {
            0 => 16,
            width => u8::try_from(width).map_err(|_| bad("network.bridge_width"))?,
        };
        let default = |value: u32, default: u32| if value == 0 { default } else { value };
        Ok(Self {
            bridge: bridge_pool(range, width).ok_or_else(|| bad("network.bridge_range"))?,
            name: config.name.clone(),
            datastore,
            image_folder,
            volume_store,
            bootstrap_iso: config.bootstrap_iso.clone(),
            serial_uri: config.serial_uri.clone(),
            bridge_network: config.network.bridge_network.clone(),
            default_cpus: default(config.default_cpus, 2),
            default_memory: u64::from(default(config.default_memory_mb, 2048)) << 20,
            disk_size: match config.storage.base_image_kb {
                0 => 8 << 30,
                kb => kb << 10,
            },
            debug: config.executor.debug,
            identity,
            pool: reference("ResourcePool", &config.resource_pool),
            folder: reference("Folder", &config.connect.vm_folder),
            datacenter: config.connect.datacenter.clone(),
            own_vm: (!config.executor.id.is_empty())
                .then(|| reference("VirtualMachine", &config.executor.id)),
            spool: std::env::temp_dir(),
            request_deadline: std::time::Duration::from_secs(30),
            insecure_registries: config.registry.insecure.clone(),
            registry_ca: config.registry.ca.clone(),
        })
    }

    /// A datastore path in the image store.
    pub fn image_path(&self, below: &str) -> String {
        format!("[{}] {}/{below}", self.datastore, self.image_folder)
    }

    /// A state document's datastore path.
    pub fn state_path(&self, document: &str) -> String {
        format!("[{}] {}/state/{document}", self.datastore, self.name)
    }
}

fn reference(kind: &str, id: &str) -> ManagedObjectReference {
    ManagedObjectReference {
        r#type: kind.to_owned(),
        value: id.to_owned(),
    }
}

fn bridge_pool(range: Option<Cidr>, width: u8) -> Option<network::Pool> {
    let first = match range.map(|r| r.ip) {
        None => Ipv4Addr::new(172, 16, 0, 0),
        Some(std::net::IpAddr::V4(first)) => first,
        Some(std::net::IpAddr::V6(_)) => return None,
    };
    (1..=30).contains(&width).then_some(())?;
    let mask = u32::MAX << (32 - width);
    let network = Ipv4Addr::from(u32::from(first) & mask);
    Some(network::Pool {
        network,
        prefix_len: width,
        gateway: Ipv4Addr::from(u32::from(network) + 1),
    })
}

/// Shared by all actors of one host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    snapshots: Snapshots,
    vsphere: Vsphere,
    tree: Tree,
    disks: Arc<dyn DiskAccess>,
    system: RwLock<Arc<SystemInfo>>,
    addresses: Addresses,
    containers: RwLock<Containers>,
    layers: RwLock<Layers>,
    needs: image::need::Needs,
    abandoned: Abandoned,
    promises: network::Promises,
    leases: Arc<appliance::Leases>,
    writer: String,
    policy: Policy,
}

/// The lasting addresses of the actors of which there is one.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Fan-out of events.
    pub events: Address<events::Message>,
    /// Our own VM's disks.
    pub appliance: Address<appliance::Message>,
    /// Names, tags and digests.
    pub repository: Address<image::repository::Message>,
    /// The supervisor of layers and pulls.
    pub images: Address<SupervisorMessage>,
    /// All volumes.
    pub volumes: Address<volume::Message>,
    /// The networks, by id.
    pub networks: network::Addresses,
    /// The supervisor of containers.
    pub containers: Address<SupervisorMessage>,
    /// The standing watch.
    pub watch: Address<crate::watch::Message>,
}

#[derive(Debug, Default)]
struct Containers {
    addresses: BTreeMap<ContainerId, Address<container::Message>>,
    by_vm: BTreeMap<String, ContainerId>,
    execs: BTreeMap<ExecId, ExecEntry>,
}

/// An exec: its container, its number there, its address.
type ExecEntry = (ContainerId, Process, Address<container::exec::Message>);

/// The addresses of layers, by chain id.
type Layers = BTreeMap<String, Address<image::layer::Message>>;

impl Context {
    /// A context without any running actor.
    pub fn new(
        settings: Settings,
        vsphere: Vsphere,
        disks: Arc<dyn DiskAccess>,
        tree: Tree,
        policy: Policy,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                snapshots: Snapshots::default(),
                vsphere,
                tree,
                disks,
                system: RwLock::default(),
                addresses: Addresses::default(),
                containers: RwLock::default(),
                layers: RwLock::default(),
                needs: image::need::Needs::default(),
                abandoned: Abandoned::default(),
                promises: network::Promises::default(),
                leases: Arc::default(),
                writer: format!("{:016x}", rand::random::<u64>()),
                policy,
            }),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// What can be read without a message.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// vSphere.
    pub fn vsphere(&self) -> &Vsphere {
        &self.inner.vsphere
    }

    /// Strategy, intensity and back-off of every supervisor: one for one throughout, because all actors are found again
    /// by their lasting addresses.
    pub fn policy(&self) -> Policy {
        self.inner.policy
    }

    /// The live tree.
    pub fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    /// Access to disks that are attached to our own VM.
    pub fn disks(&self) -> &Arc<dyn DiskAccess> {
        &self.inner.disks
    }

    /// The actors of which there is one.
    pub fn addresses(&self) -> &Addresses {
        &self.inner.addresses
    }

    /// The leases of our own VM's slots.
    pub(crate) fn leases(&self) -> &Arc<appliance::Leases> {
        &self.inner.leases
    }

    /// This program's name as the writer of state documents: another one in each process.
    pub fn writer(&self) -> &str {
        &self.inner.writer
    }

    /// A network's address.
    pub fn network(&self, id: crate::ids::NetworkId) -> Option<&Address<network::Message>> {
        self.inner.addresses.networks.0.get(&id)
    }

    /// The addresses that are promised to containers which are being made.
    pub(crate) fn promises(&self) -> &network::Promises {
        &self.inner.promises
    }

    /// Facts about the host.
    pub fn system(&self) -> Arc<SystemInfo> {
        let system = self.inner.system.read();
        system.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the facts about the host that its configuration gives.
    pub(crate) fn set_system(&self, system: SystemInfo) {
        let place = self.inner.system.write();
        *place.unwrap_or_else(PoisonError::into_inner) = Arc::new(system);
    }

    /// Completes the facts about the host by what vSphere shows.
    pub(crate) fn set_capacity(&self, found: &Capacity) {
        self.set_system(SystemInfo {
            cpus: found.cpus,
            cpu_mhz: found.cpu_mhz,
            memory: found.memory,
            operating_system: found.product.clone(),
            ..(*self.system()).clone()
        });
    }

    /// Publishes an event; never waits.
    pub fn emit(&self, event: events::Event) {
        self.inner
            .addresses
            .events
            .tell(events::Message::Publish(event));
    }

    /// A container's address.
    pub fn container(&self, id: ContainerId) -> Option<Address<container::Message>> {
        self.read().addresses.get(&id).cloned()
    }

    /// The container that a VM is.
    pub fn container_of_vm(&self, vm: &str) -> Option<ContainerId> {
        self.read().by_vm.get(vm).copied()
    }

    /// The address for a container, made if there is none.
    pub(crate) fn enter_container(&self, id: ContainerId, vm: &str) -> Address<container::Message> {
        let containers = &mut *self.write();
        containers.by_vm.insert(vm.to_owned(), id);
        containers.addresses.entry(id).or_default().clone()
    }

    /// Forgets a container that is gone.
    pub(crate) fn leave_container(&self, id: ContainerId) {
        let containers = &mut *self.write();
        if let Some(address) = containers.addresses.remove(&id) {
            // Whoever still waits for an actor there is told.
            address.close();
        }
        containers.by_vm.retain(|_, owner| *owner != id);
        containers.execs.retain(|_, (of, _, address)| {
            if *of == id {
                address.close();
            }
            *of != id
        });
    }

    /// An exec's address.
    pub fn exec(&self, id: ExecId) -> Option<Address<container::exec::Message>> {
        let containers = self.read();
        containers
            .execs
            .get(&id)
            .map(|(.., address)| address.clone())
    }

    /// The execs of a container, with their numbers on its link.
    pub(crate) fn execs_of(&self, container: ContainerId) -> Vec<(ExecId, Process)> {
        self.read()
            .execs
            .iter()
            .filter(|(_, (of, ..))| *of == container)
            .map(|(id, (_, number, _))| (*id, *number))
            .collect()
    }

    /// The address for an exec, made if there is none.
    pub(crate) fn enter_exec(
        &self,
        id: ExecId,
        container: ContainerId,
        number: Process,
    ) -> Address<container::exec::Message> {
        let containers = &mut *self.write();
        let new = || (container, number, Address::default());
        containers.execs.entry(id).or_insert_with(new).2.clone()
    }

    /// Forgets an exec that is gone.
    pub(crate) fn leave_exec(&self, id: ExecId) {
        self.write().execs.remove(&id);
    }

    /// The address of a layer, and whether it is new: then its actor has to be started.
    pub(crate) fn layer(&self, chain: &str) -> (Address<image::layer::Message>, bool) {
        let layers = &mut *self
            .inner
            .layers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match layers.get(chain) {
            Some(address) if !address.is_closed() => (address.clone(), false),
            _ => {
                let address = Address::default();
                layers.insert(chain.to_owned(), address.clone());
                (address, true)
            }
        }
    }

    /// Forgets all layers: their supervisor was restarted, and they with it are gone.
    pub(crate) fn leave_all_layers(&self) {
        let layers = &mut *self
            .inner
            .layers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, address) in std::mem::take(layers) {
            // Whoever waits there for an actor waits in vain.
            address.close();
        }
    }

    /// Containers that nobody was promised.
    pub(crate) fn abandoned(&self) -> &Abandoned {
        &self.inner.abandoned
    }

    /// Who needs which layer.
    pub(crate) fn needs(&self) -> &image::need::Needs {
        &self.inner.needs
    }

    /// Gives a layer's address up, behind which no actor could be started.
    pub(crate) fn leave_layer(&self, chain: &str, address: &Address<image::layer::Message>) {
        let layers = &mut *self
            .inner
            .layers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Whoever waits there for an actor is told.
        address.close();
        if layers
            .get(chain)
            .is_some_and(|known| known.is_same(address))
        {
            layers.remove(chain);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Containers> {
        self.inner
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Containers> {
        self.inner
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
