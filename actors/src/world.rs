//! The tree: which actors there are and who supervises whom. Page one of ARCHITECTURE.md, as code.
//!
//! ```text
//! vch
//! ├─ vsphere, events, appliance, volumes, bridge, watch, serial
//! ├─ images      repository, layer(chain)…
//! └─ containers  container(id)…  └─ link
//! ```
//! All one for one: no child's crash concerns a sibling, because all are found again by their lasting addresses.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use ractor::{Actor, ActorCell, ActorRef};
use strategy::{
    Address, ChildSpec, Policy, Restart, Supervisor, SupervisorArgs, SupervisorMessage, Tree,
};
use vmomi::client::Config;

use crate::Engine;
use crate::appliance::Appliance;
use crate::containers;
use crate::context::{Context, Settings};
use crate::error::Error;
use crate::events::Events;
use crate::image::disk::DiskAccess;
use crate::image::repository::Repository;
use crate::network::Bridge;
use crate::serial::{self, Serial};
use crate::system::SystemInfo;
use crate::volume::Volumes;
use crate::vsphere::{self, SessionActor, Vsphere};
use crate::watch::Watch;

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
}

impl World {
    /// Starts all actors; answers when each has been started once (those that cannot yet are tried again).
    ///
    /// # Errors
    /// [`Error::Failed`] when even the root cannot start.
    pub async fn start(args: Args) -> Result<Self, Error> {
        let tree = Tree::default();
        let vsphere = Vsphere::new(&args.settings.datacenter);
        let context = Context::new(args.settings, vsphere.clone(), args.disks, tree.clone());
        let addresses = context.addresses().clone();
        let serial = Address::default();
        let session = vsphere::Args {
            config: args.vsphere,
            vsphere,
        };
        let hub = serial::Args {
            context: context.clone(),
            listen: args.serial,
            bound: Arc::new(OnceLock::new()),
        };
        let children = vec![
            ChildSpec::new(
                "vsphere",
                Restart::Permanent,
                Address::default(),
                move || (SessionActor, session.clone()),
            ),
            ChildSpec::new(
                "events",
                Restart::Permanent,
                addresses.events.clone(),
                || (Events, ()),
            ),
            with(&context, "appliance", addresses.appliance.clone(), || {
                Appliance
            }),
            supervisor("images", addresses.images.clone(), images(&context)),
            with(&context, "volumes", addresses.volumes.clone(), || Volumes),
            with(&context, "bridge", addresses.bridge.clone(), || Bridge),
            supervisor(
                "containers",
                addresses.containers.clone(),
                SupervisorArgs {
                    path: "vch/containers".into(),
                    policy: policy(),
                    tree: tree.clone(),
                    children: containers::children(&context),
                },
            ),
            with(&context, "watch", addresses.watch.clone(), || Watch),
            ChildSpec::new("serial", Restart::Permanent, serial.clone(), move || {
                (Serial, hub.clone())
            }),
        ];
        let root = SupervisorArgs::fixed("vch", policy(), &tree, children);
        let (root, _) = Supervisor::spawn(None, Supervisor, root)
            .await
            .map_err(|why| Error::failed("start the root supervisor", &why))?;
        tree.enter("vch", root.get_cell(), Default::default());
        let engine = Engine::over(context, args.system);
        Ok(Self {
            engine,
            tree,
            root,
            serial,
        })
    }

    /// Adds a persona under the root.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot start.
    pub async fn add(&self, child: ChildSpec) -> Result<(), Error> {
        ractor::call!(self.root, SupervisorMessage::AddChild, child)
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
        // An actor that hangs is killed at the end of its time by its supervisor.
        let _ = self
            .root
            .stop_and_wait(None, Some(std::time::Duration::from_secs(10)))
            .await;
    }
}

/// The images' supervisor: the repository, and layers and pulls as they come.
fn images(context: &Context) -> SupervisorArgs {
    let context = context.clone();
    let tree = context.tree().clone();
    let children: strategy::Children = Arc::new(move || {
        context.leave_all_layers();
        let address = context.addresses().repository.clone();
        let repository = with(&context, "repository", address, || Repository);
        Box::pin(async move { Ok(vec![repository]) })
    });
    SupervisorArgs {
        path: "vch/images".into(),
        policy: policy(),
        tree,
        children,
    }
}

fn policy() -> Policy {
    Policy::default()
}

fn with<A>(context: &Context, id: &str, address: Address<A::Msg>, actor: fn() -> A) -> ChildSpec
where
    A: Actor<Arguments = Context>,
{
    let context = context.clone();
    ChildSpec::new(id, Restart::Permanent, address, move || {
        (actor(), context.clone())
    })
}

fn supervisor(id: &str, address: Address<SupervisorMessage>, args: SupervisorArgs) -> ChildSpec {
    ChildSpec::new(id, Restart::Permanent, address, move || {
        (Supervisor, args.clone())
    })
}
