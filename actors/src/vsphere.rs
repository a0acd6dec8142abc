//! vSphere: the session actor, and the calls that actors make, by intent.
//!
//! ```text
//!  session: connecting ── login ──▶ up (the client logs in again by itself)    crash: all wait for the next login
//! ```
//! The session actor owns the client, and the watch is its child; [`Vsphere`] is the handle by which everybody calls.
//! What a crash loses: nothing, calls under way end by themselves.

pub mod document;
pub mod files;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use strategy::{Address, BusyGuard, ChildSpec, Nursery, SupervisorMessage};
use tether_protocol::config::StateKeys;
use tokio::sync::watch;
use vmomi::ManagedObjectReference;
use vmomi::client::{Client, Config, Retry};
use vmomi::types::{
    CopyVirtualDiskRequest, CreateVMRequest, DeleteVirtualDiskRequest, DestroyRequest,
    FindByUuidRequest, ObjectSpec, OptionValue, PowerOffVMRequest, PowerOnVMRequest,
    PropertyFilterSpec, PropertySpec, ReconfigVMRequest, ShutdownGuestRequest, TaskInfo,
    TraversalSpec, VirtualDevice, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation,
    VirtualDisk, VirtualDiskFlatVer2BackingInfo, VirtualMachineConfigSpec,
    VirtualMachinePowerState,
};

use crate::context::Context;
use crate::error::Error;
use crate::watch::Watch;

/// What is read of a container's VM, and watched.
pub const VM_PROPERTIES: [&str; 4] = [
    "name",
    "runtime.powerState",
    "config.extraConfig",
    "config.files.vmPathName",
];

/// How long a call waits for a session.
const SESSION_WAIT: Duration = Duration::from_secs(10);

/// How often a task is asked for again that passing troubles have kept from its end, and how often we look whether
/// one has been carried out whose answer was lost: within about two seconds.
const AGAIN: Retry = Retry {
    attempts: 6,
    first: Duration::from_millis(50),
    longest: Duration::from_secs(1),
};

/// Whether a call may be made again whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twice {
    /// It comes to the same.
    Harmless,
    /// It does not: the caller looks what has become of it.
    Harmful,
}

/// How long a logout may take when the program ends.
const LOGOUT: Duration = Duration::from_secs(2);

/// The handle by which actors call vSphere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vsphere {
    client: Arc<watch::Sender<Option<(u64, Client)>>>,
    datacenter: Arc<str>,
    session: Address<Message>,
}

/// A client that is lent for some calls: the session is busy until it is given back.
#[derive(Debug)]
pub struct Lent {
    client: Client,
    _busy: BusyGuard,
}

impl std::ops::Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A VM's properties that matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VmFacts {
    /// The managed object's id.
    pub vm: String,
    /// Its name.
    pub name: String,
    /// `poweredOn`, `poweredOff`, `suspended`.
    pub power: String,
    /// All of extraConfig.
    pub keys: BTreeMap<String, String>,
    /// Its VMX file as a datastore path.
    pub path: String,
}

impl VmFacts {
    /// Takes the values of properties into account; false when none of them concerns us.
    pub fn update(&mut self, path: &str, value: Option<&vmomi::Any>) -> bool {
        let Some(value) = value else { return false };
        match path {
            "name" => self.name = value.as_str().unwrap_or_default().to_owned(),
            "runtime.powerState" => {
                let power: Result<VirtualMachinePowerState, _> = value.clone().to();
                self.power = power.map(|p| p.as_str().to_owned()).unwrap_or_default();
            }
            "config.extraConfig" => {
                let options: Vec<OptionValue> = value.clone().to().unwrap_or_default();
                self.keys = options
                    .into_iter()
                    .filter_map(|o| Some((o.key, o.value?.as_str()?.to_owned())))
                    .collect();
            }
            "config.files.vmPathName" => self.path = value.as_str().unwrap_or_default().to_owned(),
            _ => return false,
        }
        true
    }
}

impl From<vmomi::client::Properties> for VmFacts {
    fn from(properties: vmomi::client::Properties) -> Self {
        let mut facts = Self {
            vm: properties.object.value,
            ..Self::default()
        };
        for (path, value) in &properties.values {
            facts.update(path, Some(value));
        }
        facts
    }
}

impl Vsphere {
    /// A handle without a session yet. The datacenter is needed for datastore paths (inventory path; a single
    /// host has only one).
    pub fn new(datacenter: &str) -> Self {
        Self {
            client: Arc::new(watch::Sender::new(None)),
            datacenter: datacenter.into(),
            session: Address::default(),
        }
    }

    /// The session actor's address.
    pub(crate) fn session(&self) -> &Address<Message> {
        &self.session
    }

    /// The session's client; waits a little while there is none.
    ///
    /// # Errors
    /// [`Error::Failed`], retryable, when there is no session in time.
    pub async fn client(&self) -> Result<Lent, Error> {
        let busy = self.session.busy().request();
        let mut session = self.client.subscribe();
        let found = tokio::time::timeout(SESSION_WAIT, session.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(session)) => session
                .as_ref()
                .map(|(_, client)| Lent {
                    client: client.clone(),
                    _busy: busy,
                })
                .ok_or_else(no_session),
            _ => Err(no_session()),
        }
    }

    /// Tells of every change of the session.
    pub(crate) fn sessions(&self) -> watch::Receiver<Option<(u64, Client)>> {
        self.client.subscribe()
    }

    /// Reads what matters of one VM; `None` when there is no such VM.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn vm(&self, vm: &str) -> Result<Option<VmFacts>, Error> {
        let client = self.client().await?;
        match client.properties(&[vm_reference(vm)], &VM_PROPERTIES).await {
            Ok(found) => Ok(found.into_iter().next().map(VmFacts::from)),
            Err(why) if why.is_fault("ManagedObjectNotFound") => Ok(None),
            Err(why) => Err(failed("look up a VM", &why)),
        }
    }

    /// Reads what matters of all VMs in a resource pool.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn vms(&self, pool: &ManagedObjectReference) -> Result<Vec<VmFacts>, Error> {
        let client = self.client().await?;
        let found = client.retrieve(vec![pool_spec(pool)]).await;
        let found = found.map_err(|why| failed("list the VMs", &why))?;
        Ok(found.into_iter().map(VmFacts::from).collect())
    }

    /// The VM with an instance UUID.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn find_vm(&self, instance_uuid: &str) -> Result<Option<String>, Error> {
        let client = self.client().await?;
        let Some(index) = client.content().search_index.clone() else {
            return Ok(None);
        };
        let request = FindByUuidRequest {
            datacenter: None,
            uuid: instance_uuid.to_owned(),
            vm_search: true,
            instance_uuid: Some(true),
        };
        let found = client.invoke(&index, request).await;
        Ok(found
            .map_err(|why| failed("look for a VM", &why))?
            .map(|vm| vm.value))
    }

    /// Makes a VM.
    ///
    /// # Errors
    /// vSphere's. When it is not known whether the VM was made, it is looked for by its instance UUID.
    pub async fn create_vm(
        &self,
        folder: &ManagedObjectReference,
        pool: &ManagedObjectReference,
        config: VirtualMachineConfigSpec,
    ) -> Result<String, Error> {
        let uuid = config.instance_uuid.clone().unwrap_or_default();
        let request = CreateVMRequest {
            config,
            pool: pool.clone(),
            host: None,
        };
        match self
            .task(
                "create a VM",
                folder,
                request,
                Twice::Harmful,
                is_never_done,
            )
            .await
        {
            Ok(Some(info)) => info
                .result
                .as_ref()
                .and_then(|r| r.as_reference())
                .map(|vm| vm.value.clone())
                .ok_or_else(|| Error::internal("create a VM", "the task has no result")),
            Ok(None) => Err(Error::internal("create a VM", "the task has no result")),
            Err(why) if why.is_retryable() => {
                // It may be under way still: looked for more than once.
                for attempt in 1..AGAIN.attempts {
                    if let Ok(Some(vm)) = self.find_vm(&uuid).await {
                        return Ok(vm);
                    }
                    tokio::time::sleep(AGAIN.pause(attempt).unwrap_or_default()).await;
                }
                Err(why)
            }
            Err(why) => Err(why),
        }
    }

    /// Powers a VM on whose last boot called itself `boot`. One that is on is fine.
    ///
    /// # Errors
    /// vSphere's. When the answer is lost, the VM is looked at and not powered on again: it may have run and ended
    /// in the meantime.
    pub async fn power_on(&self, vm: &str, boot: &str) -> Result<(), Error> {
        let done = |why: &vmomi::client::Error| why.is_fault("InvalidPowerState");
        let request = PowerOnVMRequest { host: None };
        let asked = self
            .task(
                "power a VM on",
                &vm_reference(vm),
                request,
                Twice::Harmful,
                done,
            )
            .await;
        let why = match asked {
            Err(why) if why.is_retryable() => why,
            asked => return asked.map(|_| ()),
        };
        for attempt in 1..AGAIN.attempts {
            if let Ok(Some(facts)) = self.vm(vm).await {
                let now = facts.keys.get(StateKeys::BOOT).map_or("", String::as_str);
                if facts.power == "poweredOn" || now != boot {
                    return Ok(());
                }
            }
            tokio::time::sleep(AGAIN.pause(attempt).unwrap_or_default()).await;
        }
        Err(why)
    }

    /// Powers a VM off. One that is off is fine.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn power_off(&self, vm: &str) -> Result<(), Error> {
        let done = |why: &vmomi::client::Error| {
            why.is_fault("InvalidPowerState") || why.is_fault("ManagedObjectNotFound")
        };
        self.task(
            "power a VM off",
            &vm_reference(vm),
            PowerOffVMRequest {},
            Twice::Harmless,
            done,
        )
        .await
        .map(|_| ())
    }

    /// Asks a VM's guest to shut down, as an admin would. Does not wait for it.
    ///
    /// # Errors
    /// vSphere's; also when no guest answers.
    pub async fn shut_down_guest(&self, vm: &str) -> Result<(), Error> {
        let client = self.client().await?;
        client
            .invoke(&vm_reference(vm), ShutdownGuestRequest {})
            .await
            .map_err(|why| failed("shut a guest down", &why))
    }

    /// Destroys a VM with its disks. One that is gone is fine.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn destroy(&self, vm: &str) -> Result<(), Error> {
        let done = |why: &vmomi::client::Error| why.is_fault("ManagedObjectNotFound");
        self.task(
            "destroy a VM",
            &vm_reference(vm),
            DestroyRequest {},
            Twice::Harmless,
            done,
        )
        .await
        .map(|_| ())
    }

    /// Changes a VM. When this has answered, the change is made or is not, and will not be.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn reconfigure(&self, vm: &str, spec: VirtualMachineConfigSpec) -> Result<(), Error> {
        let request = ReconfigVMRequest { spec };
        let asked = self
            .task(
                "reconfigure a VM",
                &vm_reference(vm),
                request,
                Twice::Harmful,
                is_never_done,
            )
            .await;
        match asked {
            Err(why) if why.is_retryable() => {
                // A VM takes one change at a time: one that changes nothing ends after whatever is under way.
                let nothing = VirtualMachineConfigSpec::default();
                let _ = self.label(vm, nothing).await;
                Err(why)
            }
            asked => asked.map(|_| ()),
        }
    }

    /// Gives a VM another name, or keys. Saying it twice does no harm.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn label(&self, vm: &str, spec: VirtualMachineConfigSpec) -> Result<(), Error> {
        let request = ReconfigVMRequest { spec };
        let tried = "reconfigure a VM";
        let vm = vm_reference(vm);
        self.task(tried, &vm, request, Twice::Harmless, is_never_done)
            .await
            .map(|_| ())
    }

    /// Takes disks off a VM; their files stay. A VM that is gone is fine, and so is one without them.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn detach_disks(&self, vm: &str, paths: &[String]) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            let why = match self.detach_disks_once(vm, paths).await {
                Err(why) if why.is_retryable() => why,
                result => return result,
            };
            // Whatever became of it: what is still there is taken off.
            attempt += 1;
            match AGAIN.pause(attempt) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(why),
            }
        }
    }

    async fn detach_disks_once(&self, vm: &str, paths: &[String]) -> Result<(), Error> {
        let client = self.client().await?;
        let devices: Result<Option<Vec<vmomi::Poly<VirtualDevice>>>, _> = client
            .property(&vm_reference(vm), "config.hardware.device")
            .await;
        let devices = match devices {
            Ok(devices) => devices.unwrap_or_default(),
            Err(why) if why.is_fault("ManagedObjectNotFound") => return Ok(()),
            Err(why) => return Err(failed("read a VM's devices", &why)),
        };
        let is_wanted = |disk: &&VirtualDisk| {
            let backing = disk
                .backing
                .as_ref()
                .and_then(|b| b.get::<VirtualDiskFlatVer2BackingInfo>());
            backing.is_some_and(|b| paths.contains(&b.file_name))
        };
        let device_change: Vec<vmomi::Poly<VirtualDeviceConfigSpec>> = devices
            .iter()
            .filter_map(|d| d.get::<VirtualDisk>())
            .filter(is_wanted)
            .map(|disk| {
                VirtualDeviceConfigSpec {
                    operation: Some(VirtualDeviceConfigSpecOperation::Remove),
                    device: disk.clone().into(),
                    ..Default::default()
                }
                .into()
            })
            .collect();
        if device_change.is_empty() {
            return Ok(());
        }
        let spec = VirtualMachineConfigSpec {
            device_change,
            ..Default::default()
        };
        self.reconfigure(vm, spec).await
    }

    /// Copies a virtual disk.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn copy_disk(&self, from: &str, to: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let manager = manager(
            client.content().virtual_disk_manager.clone(),
            "virtual disk manager",
        )?;
        let request = CopyVirtualDiskRequest {
            source_name: from.to_owned(),
            source_datacenter: self.datacenter(&client).await?,
            dest_name: to.to_owned(),
            dest_datacenter: self.datacenter(&client).await?,
            dest_spec: None,
            force: Some(false),
        };
        self.task(
            "copy a disk",
            &manager,
            request,
            Twice::Harmful,
            is_never_done,
        )
        .await
        .map(|_| ())
    }

    /// Deletes a virtual disk. One that is gone is fine.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn delete_disk(&self, path: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let manager = manager(
            client.content().virtual_disk_manager.clone(),
            "virtual disk manager",
        )?;
        let datacenter = self.datacenter(&client).await?;
        let request = DeleteVirtualDiskRequest {
            name: path.to_owned(),
            datacenter,
        };
        let done = |why: &vmomi::client::Error| why.is_fault("FileNotFound");
        self.task("delete a disk", &manager, request, Twice::Harmless, done)
            .await
            .map(|_| ())
    }

    /// Runs a task and waits for its end. A failure for which `done` holds means that the wish is fulfilled. What
    /// may pass is tried again.
    async fn task<M>(
        &self,
        tried: &'static str,
        this: &ManagedObjectReference,
        request: M,
        twice: Twice,
        done: impl Fn(&vmomi::client::Error) -> bool,
    ) -> Result<Option<TaskInfo>, Error>
    where
        M: vmomi::method::Method<Response = ManagedObjectReference> + Clone,
    {
        let client = self.client().await?;
        let mut attempt = 0;
        loop {
            let why = match client.run_task(this, request.clone()).await {
                Ok(info) => return Ok(Some(info)),
                Err(why) if done(&why) => return Ok(None),
                Err(why) => why,
            };
            let passing = why.is_retryable() || why.is_ambiguous();
            attempt += 1;
            match AGAIN.pause(attempt) {
                Some(pause) if passing && (twice == Twice::Harmless || !why.is_ambiguous()) => {
                    tracing::debug!(%why, tried, attempt, "trying again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failed(tried, &why)),
            }
        }
    }

    /// The datacenter, for calls that name files; none on a single host.
    async fn datacenter(&self, client: &Client) -> Result<Option<ManagedObjectReference>, Error> {
        if !client.is_vcenter() || self.datacenter.is_empty() {
            return Ok(None);
        }
        let Some(index) = client.content().search_index.clone() else {
            return Ok(None);
        };
        let inventory_path = self.datacenter.trim_matches('/').to_owned();
        let request = vmomi::types::FindByInventoryPathRequest { inventory_path };
        client
            .invoke(&index, request)
            .await
            .map_err(|why| failed("find the datacenter", &why))
    }
}

fn is_never_done(_: &vmomi::client::Error) -> bool {
    false
}

fn manager(
    found: Option<ManagedObjectReference>,
    what: &str,
) -> Result<ManagedObjectReference, Error> {
    found.ok_or_else(|| Error::internal("find a manager", format!("this vSphere has no {what}")))
}

fn no_session() -> Error {
    Error::Failed {
        tried: "reach vSphere".into(),
        why: "there is no session at the moment".into(),
        retryable: true,
    }
}

fn failed(tried: &str, why: &vmomi::client::Error) -> Error {
    if let vmomi::client::Error::Broken { .. } = why {
        // Where the connection broke is of no use to a client.
        return Error::Failed {
            tried: tried.to_owned(),
            why: why.to_string(),
            retryable: true,
        };
    }
    if why.is_retryable() || why.is_ambiguous() {
        Error::failed_for_now(tried, why)
    } else {
        Error::failed(tried, why)
    }
}

/// A VM's reference.
pub fn vm_reference(id: &str) -> ManagedObjectReference {
    ManagedObjectReference {
        r#type: "VirtualMachine".into(),
        value: id.to_owned(),
    }
}

/// Asks for what matters of the VMs of a resource pool.
pub fn pool_spec(pool: &ManagedObjectReference) -> PropertyFilterSpec {
    let traversal = TraversalSpec {
        name: Some("vms".into()),
        r#type: "ResourcePool".into(),
        path: "vm".into(),
        skip: Some(false),
        ..Default::default()
    };
    PropertyFilterSpec {
        prop_set: vec![PropertySpec {
            r#type: "VirtualMachine".into(),
            all: Some(false),
            path_set: VM_PROPERTIES.iter().map(|&p| p.to_owned()).collect(),
        }],
        object_set: vec![ObjectSpec {
            obj: pool.clone(),
            skip: Some(true),
            select_set: vec![traversal.into()],
        }],
        ..Default::default()
    }
}

/// What the session actor can be asked.
#[derive(Debug)]
pub enum Message {
    /// Answers when there is a session.
    Ping(ractor::RpcReplyPort<()>),
    /// Internal: for its child, the watch.
    #[doc(hidden)]
    Child(SupervisorMessage),
}

/// The session actor.
#[derive(Debug)]
pub struct SessionActor;

/// What the session actor is started with.
#[derive(Debug, Clone)]
pub struct Args {
    /// Where and as whom to log in.
    pub config: Config,
    /// What all share; also the handle that it serves.
    pub context: Context,
}

/// A session that is up. Dropped with its actor, it leaves the handle without a session.
#[derive(Debug)]
pub struct Session {
    vsphere: Vsphere,
    number: u64,
    /// The watch: it lives on this session, and ends with it.
    children: Nursery,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A killed actor's state may go later than its successor comes.
        self.vsphere.client.send_if_modified(|session| {
            let ours = session
                .as_ref()
                .is_some_and(|(number, _)| *number == self.number);
            if ours {
                *session = None;
            }
            ours
        });
    }
}

impl Actor for SessionActor {
    type Msg = Message;
    type State = Session;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: Args,
    ) -> Result<Session, ActorProcessingErr> {
        let client = Client::connect(args.config).await?;
        let number = rand::random();
        let vsphere = args.context.vsphere().clone();
        vsphere.client.send_replace(Some((number, client)));
        let policy = args.context.policy();
        let tree = args.context.tree();
        let mut children = Nursery::new("vch/vsphere", policy, tree, &myself, Message::Child);
        let address = args.context.addresses().watch.clone();
        let watch = ChildSpec::only("watch", address, move || (Watch, args.context.clone()));
        children.add(watch, None);
        Ok(Session {
            vsphere,
            number,
            children,
        })
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Message>,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        let session = state.vsphere.client.borrow().clone();
        if let Some((number, client)) = session
            && number == state.number
        {
            // A server that does not answer ends the session by itself, later.
            let _ = tokio::time::timeout(LOGOUT, client.close()).await;
        }
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ping(reply) => {
                let _ = reply.send(());
                Ok(())
            }
            Message::Child(message) => state.children.handle(message).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        state.children.event(event).await.map(|_| ())
    }
}
