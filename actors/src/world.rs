//! The tree: which actors there are and who supervises whom. Page one of ARCHITECTURE.md, as code.
//!
//! ```text
//! vch
//! ├─ vsphere     └─ watch
//! ├─ events, appliance
//! ├─ images      repository, layer(chain)…, pull…
//! ├─ volumes     volume(name)…
//! ├─ networks    network(name)…
//! ├─ containers  container(id)…  └─ link, exec(id)…
//! ├─ serial
//! └─ personas    docker
//! ```
//! All one for one: no child's crash concerns a sibling, because all are found again by their lasting addresses.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ractor::{Actor, ActorCell, ActorRef};
use strategy::{
    Address, ChildSpec, Children, Policy, Supervisor, SupervisorArgs, SupervisorMessage, Tree,
};
use tokio::task::AbortHandle;
use vmomi::client::Config;

use crate::Engine;
use crate::appliance::Appliance;
use crate::containers;
use crate::context::{Context, Settings};
use crate::error::Error;
use crate::events::Events;
use crate::image::disk::DiskAccess;
use crate::image::repository::Repository;
use crate::network;
use crate::serial::{self, Serial};
use crate::system::SystemInfo;
use crate::volume::Volumes;
use crate::vsphere::{self, SessionActor, Vsphere};

/// Every kind of actor that there is, as the live tree names them.
pub const KINDS: [&str; 20] = [
    "vch",
    "vsphere",
    "watch",
    "events",
    "appliance",
    "images",
    "repository",
    "layer",
    "pull",
    "volumes",
    "volume",
    "networks",
    "network",
    "containers",
    "container",
    "link",
    "exec",
    "serial",
    "personas",
    "docker",
];

/// What a world is made from.
#[derive(Debug, Clone)]
pub struct Args {
    /// The settings.
    pub settings: Settings,
    /// Where and as whom to log in.
    pub vsphere: Config,
    /// Access to our own VM's disks.
    pub disks: Arc<dyn DiskAccess>,
    /// Where serial lines come in.
    pub serial: SocketAddr,
    /// Facts for `docker info`.
    pub system: SystemInfo,
    /// Strategy, intensity and back-off of all supervisors.
    pub policy: Policy,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    /// What personas hold.
    pub engine: Engine,
    /// The live tree.
    pub tree: Tree,
    root: ActorRef<SupervisorMessage>,
    serial: Address<serial::Message>,
    personas: Personas,
    /// The task that looks at the resource pool.
    looking: AbortHandle,
}

/// The personas and their supervisor.
#[derive(Debug, Clone, Default)]
struct Personas {
    specs: Arc<Mutex<Vec<ChildSpec>>>,
    address: Address<SupervisorMessage>,
}

impl World {
    /// Starts all actors; answers when each has been started once (those that cannot yet are tried again).
    ///
    /// # Errors
    /// [`Error::Failed`] when even the root cannot start.
    pub async fn start(args: Args) -> Result<Self, Error> {
        let tree = Tree::default();
        let vsphere = Vsphere::new(&args.settings.datacenter);
        let context = Context::new(
            args.settings,
            vsphere.clone(),
            args.disks,
            tree.clone(),
            args.policy,
        );
        context.set_system(args.system);
        let addresses = context.addresses().clone();
        let serial = Address::default();
        let session = vsphere::Args {
            config: args.vsphere,
            context: context.clone(),
        };
        let hub = serial::Args {
            context: context.clone(),
            listen: args.serial,
            bound: Arc::new(OnceLock::new()),
            busy: serial.busy().clone(),
        };
        let events = addresses.events.busy().clone();
        let personas = Personas::default();
        let children = vec![
            ChildSpec::only("vsphere", vsphere.session().clone(), move || {
                (SessionActor, session.clone())
            }),
            ChildSpec::only("events", addresses.events.clone(), move || {
                (Events, events.clone())
            }),
            with(&context, "appliance", addresses.appliance.clone(), || {
                Appliance
            }),
            supervisor(
                "images",
                addresses.images.clone(),
                &context,
                images(&context),
            ),
            with(&context, "volumes", addresses.volumes.clone(), || Volumes),
            supervisor(
                "networks",
                Address::default(),
                &context,
                network::children(&context),
            ),
            supervisor(
                "containers",
                addresses.containers.clone(),
                &context,
                containers::children(&context),
            ),
            ChildSpec::only("serial", serial.clone(), move || (Serial, hub.clone())),
            supervisor(
                "personas",
                personas.address.clone(),
                &context,
                personas.children(),
            ),
        ];
        let root = SupervisorArgs::fixed("vch", context.policy(), &tree, children);
        let (root, _) = Supervisor::spawn(None, Supervisor, root)
            .await
            .map_err(|why| Error::failed("start the root supervisor", &why))?;
        tree.enter("vch", "vch", root.get_cell(), Default::default());
        let looking = crate::system::keep(&context).await;
        let engine = Engine::over(context);
        Ok(Self {
            engine,
            tree,
            root,
            serial,
            personas,
            looking: looking.abort_handle(),
        })
    }

    /// Adds a persona.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot start.
    pub async fn add(&self, child: ChildSpec) -> Result<(), Error> {
        let specs = &self.personas.specs;
        specs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(child.clone());
        let deadline = std::time::Duration::from_secs(30);
        let added = self.personas.address.ask(deadline, |reply| {
            SupervisorMessage::AddChild(child.clone(), reply)
        });
        added
            .await
            .map_err(|why| Error::failed("add a persona", &why))?
            .map_err(|why| Error::internal("add a persona", why))
    }

    /// Where serial lines come in.
    ///
    /// # Errors
    /// [`Error::Failed`] when the hub does not answer.
    pub async fn serial_address(&self) -> Result<SocketAddr, Error> {
        let deadline = std::time::Duration::from_secs(5);
        let asked = self.serial.ask(deadline, serial::Message::Address).await;
        asked.map_err(|why| Error::failed("ask the serial hub", &why))
    }

    /// The root, to be watched for its end.
    pub fn root(&self) -> ActorCell {
        self.root.get_cell()
    }

    /// Stops all actors. Containers keep running.
    pub async fn stop(self) {
        self.looking.abort();
        // An actor that hangs is killed at the end of its time by its supervisor.
        let _ = self
            .root
            .stop_and_wait(None, Some(std::time::Duration::from_secs(10)))
            .await;
    }
}

impl Personas {
    /// All that were added, at each start of their supervisor.
    fn children(&self) -> Children {
        let specs = self.specs.clone();
        Arc::new(move || {
            let specs = specs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Box::pin(async move { Ok(specs) })
        })
    }
}

/// The images' supervisor's children: the repository; layers and pulls as they come.
fn images(context: &Context) -> Children {
    let context = context.clone();
    Arc::new(move || {
        context.leave_all_layers();
        let address = context.addresses().repository.clone();
        let repository = with(&context, "repository", address, || Repository);
        Box::pin(async move { Ok(vec![repository]) })
    })
}

fn with<A>(
    context: &Context,
    id: &'static str,
    address: Address<A::Msg>,
    actor: fn() -> A,
) -> ChildSpec
where
    A: Actor<Arguments = Context>,
{
    let context = context.clone();
    ChildSpec::only(id, address, move || (actor(), context.clone()))
}

/// A supervisor below the root.
fn supervisor(
    id: &'static str,
    address: Address<SupervisorMessage>,
    context: &Context,
    children: Children,
) -> ChildSpec {
    let args = SupervisorArgs {
        path: format!("vch/{id}"),
        policy: context.policy(),
        tree: context.tree().clone(),
        children,
    };
    ChildSpec::only(id, address, move || (Supervisor, args.clone()))
}
