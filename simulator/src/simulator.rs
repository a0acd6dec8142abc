//! A simulator from its start to its end.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ractor::ActorRef;
use strategy::{SupervisorMessage, Tree};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use vmomi::ManagedObjectReference as Moref;

use crate::config::{Config, GuestChoice, Model};
use crate::datastore::{Datastore, Stores};
use crate::diskview::DiskView;
use crate::engine::inert::{InertEngine, InertGuest};
use crate::engine::namespace::{self, NamespaceEngine};
use crate::engine::{EngineError, GuestEngine};
use crate::faults::{FaultRule, Faults};
use crate::inventory::Inventory;
use crate::model::{self, Builder};
use crate::network::{self, Network};
use crate::state::{Index, StateDir, StateError};
use crate::tls::Identity;
use crate::vm::{Message, create};
use crate::vmdk;
use crate::world::World;
use crate::{host, soap, supervision};

/// How long the guests may take to be gone when the simulator ends.
const GOODBYE: Duration = Duration::from_secs(20);

/// Says why a simulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("cannot use the state directory")]
    State(#[source] StateError),
    /// A fault rule cannot be read.
    #[error("cannot read a fault rule: {0}")]
    Rule(String),
    /// A datastore's directory cannot be used.
    #[error("cannot use {path} as a datastore")]
    Datastore {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The disks of the datastores cannot be served.
    #[error("cannot serve disks: {0}")]
    Disks(String),
    /// The guests' network cannot be made.
    #[error("cannot make the guests' network")]
    Network(#[source] std::io::Error),
    /// The engine does not start.
    #[error("cannot run guests")]
    Engine(#[source] EngineError),
    /// The address is taken, or cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A forward cannot be opened.
    #[error("cannot forward a port: {0}")]
    Forward(String),
    /// The tree of actors does not start.
    #[error("cannot start the supervisor: {0}")]
    Supervisor(String),
}

/// A running simulator. Dropping it ends the endpoint at once; [`stop`](Simulator::stop) ends the
/// guests in good order too.
pub struct Simulator {
    world: Arc<World>,
    inert: Option<Arc<InertEngine>>,
    address: SocketAddr,
    inner_address: Option<SocketAddr>,
    thumbprint: String,
    thumbprint_sha256: String,
    certificate: String,
    supervisor: ActorRef<SupervisorMessage>,
    servers: Vec<JoinHandle<()>>,
    _state: StateDir,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
        self.supervisor.kill();
    }
}

/// What runs guests, and the network that they have.
struct Engines {
    engine: Arc<dyn GuestEngine>,
    inert: Option<Arc<InertEngine>>,
    network: Option<Arc<Network>>,
}

impl Simulator {
    /// Starts a simulator; it serves when this returns.
    ///
    /// # Errors
    /// [`StartError`] says which part cannot be had; what was made for it is gone again.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let state = StateDir::open(&config.state).map_err(StartError::State)?;
        let mut index = state.index().map_err(StartError::State)?;
        if index.instance_uuid.is_empty() {
            index.instance_uuid = uuid::Uuid::new_v4().to_string();
        }
        let rules: Vec<FaultRule> = config
            .faults
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, String>>()
            .map_err(StartError::Rule)?;
        let datastores = datastores(&config, &state)?;
        let disks = vmdk::Roots::new(datastores.values().map(|d| d.root.clone()))
            .map_err(|e| StartError::Disks(e.to_string()))?;
        let Engines {
            engine,
            inert,
            network,
        } = engines(&config, &state, &disks).await?;
        let management = network.as_ref().map_or_else(
            || "127.0.0.1".to_owned(),
            |n| n.config().management().to_string(),
        );
        let names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "vic-sim".to_owned(),
            management.clone(),
        ];
        let (certificate, key) = state.certificate(&names).map_err(StartError::State)?;
        let identity = Identity::from_pem(&certificate, &key)
            .map_err(|e| StartError::State(StateError::Certificate(e)))?;
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        let stores = Stores::new(datastores.keys());
        let world = Arc::new(World {
            state: state.path().to_owned(),
            inventory: Inventory::default(),
            faults: Faults::new(rules, config.seed),
            sessions: Default::default(),
            tasks: Default::default(),
            names: Default::default(),
            events: Default::default(),
            datastores,
            disks,
            engine,
            ids: model::ids(matches!(config.model, Model::Vc(_))),
            index: Mutex::new(index),
            vms: RwLock::default(),
            actors: Default::default(),
            hosts: RwLock::default(),
            networks: RwLock::default(),
            stores,
            management,
            network,
            forwards: Mutex::default(),
            next_mac: AtomicI32::new(rand::random::<i32>() & 0x003f_ffff),
            config,
        });
        build(&world, &identity);
        let supervisor = supervision::start(&world)
            .await
            .map_err(|e| StartError::Supervisor(e.to_string()))?;
        create::restore(&world).await;
        let acceptor = TlsAcceptor::from(identity.server.clone());
        let mut servers = vec![tokio::spawn(crate::http::serve(
            world.clone(),
            listener,
            acceptor.clone(),
        ))];
        let mut inner_address = None;
        if let Some(network) = &world.network {
            let inside = SocketAddrV4::new(network.config().management(), address.port());
            for place in [inside, SocketAddrV4::new(*inside.ip(), 443)] {
                let listener =
                    network
                        .listen(place)
                        .await
                        .map_err(|source| StartError::Listen {
                            address: place.into(),
                            source,
                        })?;
                let served = crate::http::serve(world.clone(), listener, acceptor.clone());
                servers.push(tokio::spawn(served));
                inner_address = Some(SocketAddr::from(inside));
                if place.port() == 443 {
                    break;
                }
            }
        }
        let simulator = Simulator {
            inert,
            address,
            inner_address,
            thumbprint: identity.thumbprint,
            thumbprint_sha256: identity.thumbprint_sha256,
            certificate: crate::tls::authority(&certificate).to_owned(),
            supervisor,
            servers,
            _state: state,
            world: world.clone(),
        };
        for forward in world.config.forwards.clone() {
            crate::forward::open(&world, forward)
                .await
                .map_err(StartError::Forward)?;
        }
        Ok(simulator)
    }

    /// The URL of the SOAP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}/sdk", self.address)
    }

    /// Where the endpoint listens on the host.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where guests reach the endpoint, when they have a network.
    #[must_use]
    pub fn inner_address(&self) -> Option<SocketAddr> {
        self.inner_address
    }

    /// The certificate's SHA-1 thumbprint, as vSphere prints it.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The certificate's SHA-256 thumbprint in the same form.
    #[must_use]
    pub fn thumbprint_sha256(&self) -> &str {
        &self.thumbprint_sha256
    }

    /// The certificate of the authority that has signed the endpoint's, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The name of the engine that runs guests.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.world.engine.name()
    }

    /// The guest of a VM (by its instance UUID) on the inert engine, for a test to play its part.
    #[must_use]
    pub fn guest(&self, instance: &str) -> Option<Arc<InertGuest>> {
        self.inert.as_ref()?.console(instance)
    }

    /// Every guest that is powered on from now on, on the inert engine, for a test to play its part.
    #[must_use]
    pub fn power_ons(&self) -> Option<tokio::sync::mpsc::UnboundedReceiver<Arc<InertGuest>>> {
        Some(self.inert.as_ref()?.power_ons())
    }

    /// Adds fault rules.
    ///
    /// # Errors
    /// When a rule cannot be read; none is added then.
    pub fn add_faults(&self, rules: &[&str]) -> Result<(), String> {
        let rules: Result<Vec<FaultRule>, String> = rules.iter().map(|r| r.parse()).collect();
        self.world.faults.add(rules?);
        Ok(())
    }

    /// The fault rules that have not been used up, one per line.
    #[must_use]
    pub fn faults(&self) -> String {
        self.world.faults.describe()
    }

    /// Takes all fault rules away.
    pub fn clear_faults(&self) {
        self.world.faults.clear();
    }

    /// Says how often each method was called, and forgets it.
    #[must_use]
    pub fn take_calls(&self) -> BTreeMap<String, u64> {
        let calls = self.world.faults.calls();
        self.world.faults.forget_calls();
        calls
    }

    /// The live tree of actors, for tests of their supervision.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.world.actors.tree
    }

    /// Powers every guest off, writes everything down, and leaves nothing behind.
    pub async fn stop(mut self) {
        for server in self.servers.drain(..) {
            server.abort();
        }
        let vms: Vec<_> = {
            let vms = self
                .world
                .vms
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            vms.values().cloned().collect()
        };
        let halts = vms.iter().map(|vm| vm.address.ask(GOODBYE, Message::Halt));
        futures_util::future::join_all(halts).await;
        self.world
            .forwards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.world.engine.shutdown().await;
        // A supervisor that has gone already has nothing left to stop.
        let _ = self.supervisor.stop_and_wait(None, Some(GOODBYE)).await;
    }
}

fn datastores(
    config: &Config,
    state: &StateDir,
) -> Result<BTreeMap<String, Arc<Datastore>>, StartError> {
    let mut wanted = config.datastores.clone();
    if wanted.is_empty() {
        let name = if config.model == Model::Esx {
            "datastore1"
        } else {
            "LocalDS_0"
        };
        wanted.push(crate::config::DatastoreConfig {
            name: name.into(),
            path: None,
        });
    }
    let mut datastores = BTreeMap::new();
    for (number, store) in wanted.into_iter().enumerate() {
        let root = store
            .path
            .unwrap_or_else(|| state.path().join("datastores").join(&store.name));
        let root = std::fs::create_dir_all(&root)
            .and_then(|()| root.canonicalize())
            .map_err(|source| StartError::Datastore {
                path: root.clone(),
                source,
            })?;
        let moid = format!("datastore-{}", number + 1);
        let store = Datastore {
            name: store.name,
            moid,
            root,
        };
        datastores.insert(store.name.clone(), Arc::new(store));
    }
    Ok(datastores)
}

async fn engines(
    config: &Config,
    state: &StateDir,
    disks: &vmdk::Roots,
) -> Result<Engines, StartError> {
    let namespace = match config.guest {
        GuestChoice::Inert => false,
        GuestChoice::Namespace => {
            namespace::preflight().map_err(StartError::Engine)?;
            true
        }
        GuestChoice::Auto => match namespace::preflight() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "guests will not run: power state only");
                false
            }
        },
    };
    if !namespace {
        let inert = Arc::new(InertEngine::new());
        return Ok(Engines {
            engine: inert.clone(),
            inert: Some(inert),
            network: None,
        });
    }
    let network = Network::start(network::Config {
        host_ports: config.host_ports.clone(),
        ..Default::default()
    })
    .await
    .map_err(StartError::Network)?;
    let view = DiskView::start(disks.clone()).map_err(|e| StartError::Disks(e.to_string()))?;
    let program = match &config.helper {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(StartError::Network)?,
    };
    let engine = NamespaceEngine::start(namespace::Config {
        program,
        network: network.clone(),
        disks: Some(view),
        console: Some(state.path().join("console")),
        walls: namespace::walls::Walls::from_environment(),
    })
    .await
    .map_err(StartError::Engine)?;
    Ok(Engines {
        engine: Arc::new(engine),
        inert: None,
        network: Some(network),
    })
}

/// Fills the inventory: the model, then what somebody made in an earlier life.
fn build(world: &Arc<World>, identity: &Identity) {
    let index: Index = world
        .index
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    world.inventory.commit(|t| {
        let mut builder = Builder::new(
            t,
            &world.config,
            &world.ids,
            &world.datastores,
            &identity.thumbprint,
            &index.instance_uuid,
            &world.management,
            &index,
        );
        model::build(&mut builder);
    });
    let snapshot = world.inventory.now();
    for (moid, entry) in &index.containers {
        let parent = match snapshot.find(&entry.parent) {
            Some(parent) => parent.moref.clone(),
            None => match world.inventory.now().find(&entry.parent) {
                Some(parent) => parent.moref.clone(),
                None => continue,
            },
        };
        let moref = Moref::new(&entry.kind, moid);
        if entry.kind == "Folder" {
            let types = ["Folder", "VirtualMachine", "VirtualApp"].map(str::to_owned);
            soap::add_folder(world, &moref, &entry.name, &parent, &types);
        } else {
            soap::add_pool(world, &moref, &entry.name, &parent, model::pool_config());
        }
    }
    let mut hosts = Vec::new();
    snapshot.objects.for_each(&mut |_, o| {
        if o.moref.r#type == "HostSystem" {
            hosts.push(o.moref.clone());
        }
    });
    for host in &hosts {
        for (moid, name, switch, vlan) in &index.portgroups {
            if let Err(fault) = host::place_portgroup(world, host, moid, name, switch, *vlan) {
                tracing::warn!(
                    name,
                    why = fault.message,
                    "a port group cannot be shown again"
                );
            }
        }
        world.inventory.commit(|t| {
            model::refresh_host_network(t, host, &index.switches, &world.management);
        });
    }
}
