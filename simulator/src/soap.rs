//! SOAP calls: read, checked, handed to the method, answered.
//!
//! ```text
//! bytes → request → fault rules → session → object there? → method of that type? → method → reply
//! ```
//! Each method stands in one place: the module of `soap/` that is called after its managed type.

use std::sync::Arc;
use std::time::Duration;

use vmomi::soap::{self, Request, RequestError};
use vmomi::types::InvalidRequest;
use vmomi::value::Value;
use vmomi::{Data, ManagedObjectReference as Moref, Method, Version};

use crate::fault::{Fault, Outcome};
use crate::faults::Effect;
use crate::inventory::class;
use crate::pc::Reader;
use crate::session::Session;
use crate::task::Task;
use crate::world::World;

mod authorization;
mod collector;
mod entity;
mod events;
mod fetch;
mod files;
mod folder;
mod host;
mod options;
mod pool;
mod search;
mod service;
mod sessions;
mod view;
mod vm;

/// What the HTTP layer knows of a call.
#[derive(Debug)]
pub(crate) struct HttpCall {
    /// The session's cookie.
    pub(crate) session: Option<String>,
    /// The `SOAPAction` header.
    pub(crate) action: String,
    /// The `User-Agent` header.
    pub(crate) agent: String,
}

/// What the HTTP layer shall do.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Send this.
    Reply {
        /// Whether it is a fault.
        fault: bool,
        /// The envelope.
        body: String,
        /// The key of a session that has just been opened.
        cookie: Option<String>,
    },
    /// End the connection.
    Drop,
}

pub(crate) use folder::add_folder;
pub(crate) use pool::add_pool;

/// The result of a method.
pub(crate) type Reply = Outcome<Box<dyn Value>>;

/// Makes a reply of a value.
pub(crate) fn ok(value: impl Value) -> Reply {
    Ok(Box::new(value))
}

/// A call on its way to its method.
pub(crate) struct Call<'a> {
    pub(crate) world: &'a Arc<World>,
    pub(crate) session: Option<&'a Arc<Session>>,
    pub(crate) this: &'a Moref,
    pub(crate) method: &'static str,
    pub(crate) version: Version,
    pub(crate) agent: &'a str,
    arguments: &'a dyn Data,
    task_fault: Option<String>,
    /// The session that the method has opened.
    pub(crate) opened: std::sync::Mutex<Option<String>>,
}

impl<'a> Call<'a> {
    /// The parameters.
    pub(crate) fn args<T: Method>(&self) -> Outcome<&'a T> {
        self.arguments
            .get::<T>()
            .ok_or_else(|| Fault::plain("InvalidRequest"))
    }

    /// The session; calls without one do not come as far as this.
    pub(crate) fn session(&self) -> Outcome<&'a Arc<Session>> {
        self.session
            .ok_or_else(|| Fault::not_authenticated(self.this, "System.View"))
    }

    /// Who calls.
    pub(crate) fn user(&self) -> &str {
        self.session.map_or("", |s| s.user.user_name.as_str())
    }

    /// Begins the task of this call.
    pub(crate) fn task(&self) -> Task {
        self.task_on(self.this)
    }

    /// Begins the task of this call on another object.
    pub(crate) fn task_on(&self, entity: &Moref) -> Task {
        Task::begin(
            self.world,
            self.method,
            entity,
            self.user(),
            self.task_fault.clone(),
        )
    }

    /// Does the work of a task that takes no part of an actor's life: at once, off the runtime's
    /// threads since it touches files.
    pub(crate) fn blocking_task<F>(&self, work: F) -> Reply
    where
        F: FnOnce(&Arc<World>) -> Outcome<Option<vmomi::Any>> + Send + 'static,
    {
        let task = self.task();
        let moref = task.moref();
        let world = self.world.clone();
        tokio::task::spawn_blocking(move || {
            let result = task.check().and_then(|()| work(&world));
            task.end(result);
        });
        ok(moref)
    }

    /// Reads properties for this call.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            version: self.version,
            session: self.session.map(|s| s.user.clone()),
            sessions: self.world.sessions.list(),
            filters: self
                .session
                .map(|s| s.collector.filters())
                .unwrap_or_default(),
        }
    }
}

/// Methods that may be called without having logged in.
fn is_public(method: &str) -> bool {
    matches!(
        method,
        "RetrieveServiceContent"
            | "Login"
            | "LoginByToken"
            | "LoginExtensionByCertificate"
            | "LoginBySSPI"
            | "CloneSession"
            | "Logout"
    )
}

/// Answers a call.
pub(crate) async fn handle(world: &Arc<World>, http: HttpCall, body: &[u8]) -> Answer {
    let version = Version::of_action(&http.action).unwrap_or_else(Version::newest);
    let request = match soap::parse_request(body) {
        Ok(request) => request,
        Err(RequestError::UnknownMethod { this, method, .. }) if method == "Fetch" => {
            return fetch::answer(world, &http, &this, body, version);
        }
        Err(error) => return fault(&unreadable(error), version),
    };
    let name = request.method.name;
    let mut lose_reply = false;
    let mut late = None;
    let mut task_fault = None;
    match world.faults.on_call(name) {
        None => {}
        Some(Effect::Drop) => return Answer::Drop,
        Some(Effect::DropAfter) => lose_reply = true,
        Some(Effect::Delay(time)) => tokio::time::sleep(time).await,
        Some(Effect::Late(time)) => late = Some(time),
        Some(Effect::Stall) => std::future::pending::<()>().await,
        Some(Effect::TaskFault(name)) => task_fault = Some(name),
        Some(Effect::Fault(name)) => return fault(&Fault::plain(&name), version),
    }
    let key = http
        .session
        .or_else(|| request.header.session_cookie.clone());
    let session = key.and_then(|key| world.sessions.call(&key));
    let call = Call {
        world,
        session: session.as_deref(),
        this: &request.this,
        method: name,
        version,
        agent: &http.agent,
        arguments: &*request.arguments,
        task_fault,
        opened: std::sync::Mutex::new(None),
    };
    let started = tokio::time::Instant::now();
    let reply = serve(&call, &request).await;
    tracing::debug!(
        method = name,
        this = %request.this.value,
        fault = reply.as_ref().err().map(|f| f.message.as_str()),
        elapsed = ?started.elapsed(),
        "call"
    );
    if let Some(time) = late {
        tokio::time::sleep(time).await;
    }
    if lose_reply {
        return Answer::Drop;
    }
    match reply {
        Ok(value) => {
            let cookie = call.opened.lock().map(|mut o| o.take()).unwrap_or_default();
            Answer::Reply {
                fault: false,
                body: soap::response(name, &*value, version),
                cookie,
            }
        }
        Err(error) => fault(&error, version),
    }
}

fn fault(error: &Fault, version: Version) -> Answer {
    let fault = soap::Fault::new((*error.fault).clone(), error.message.clone());
    Answer::Reply {
        fault: true,
        body: soap::fault(&fault, version),
        cookie: None,
    }
}

fn unreadable(error: RequestError) -> Fault {
    match error {
        RequestError::UnknownMethod { this, method, .. } => Fault::method_not_found(&this, &method),
        RequestError::Malformed(why) => Fault::new(
            InvalidRequest::default(),
            format!("The request cannot be read: {why}"),
        ),
    }
}

/// Checks what every call must meet, and makes it.
async fn serve(call: &Call<'_>, request: &Request) -> Reply {
    if call.session.is_none() && !is_public(call.method) {
        return Err(Fault::not_authenticated(call.this, "System.View"));
    }
    let r#type = object_type(call)?;
    if !class::is_a(&r#type, request.method.owner) {
        return Err(Fault::method_not_found(call.this, call.method));
    }
    dispatch(call, request.method.owner).await
}

/// The type of the object that is called.
fn object_type(call: &Call<'_>) -> Outcome<String> {
    let id = &call.this.value;
    if let Some(object) = call.world.inventory.now().find(id) {
        return Ok(object.moref.r#type.clone());
    }
    let session = call.session.ok_or_else(|| Fault::not_found(call.this))?;
    if session.collector(id).is_some() {
        return Ok("PropertyCollector".into());
    }
    if session.collectors().iter().any(|c| c.has_filter(id)) {
        return Ok("PropertyFilter".into());
    }
    Err(Fault::not_found(call.this))
}

/// Hands a call to the module of the type that has the method.
async fn dispatch(call: &Call<'_>, owner: &str) -> Reply {
    match owner {
        "ServiceInstance" => service::call(call),
        "SessionManager" => sessions::call(call).await,
        "PropertyCollector" | "PropertyFilter" => collector::call(call).await,
        "ViewManager" | "View" | "ContainerView" | "ListView" => view::call(call),
        "SearchIndex" => search::call(call),
        "EventManager"
        | "HistoryCollector"
        | "EventHistoryCollector"
        | "TaskManager"
        | "Task"
        | "TaskHistoryCollector" => events::call(call).await,
        "ManagedEntity" => entity::call(call).await,
        "Folder" | "Datacenter" => folder::call(call).await,
        "ResourcePool" | "ComputeResource" | "ClusterComputeResource" => pool::call(call).await,
        "VirtualMachine" => vm::call(call).await,
        "FileManager"
        | "VirtualDiskManager"
        | "HostDatastoreBrowser"
        | "DatastoreNamespaceManager"
        | "Datastore" => files::call(call).await,
        "HostSystem" | "HostNetworkSystem" | "HostFirewallSystem" | "HostStorageSystem"
        | "HostServiceSystem" | "HostDateTimeSystem" => host::call(call).await,
        "OptionManager"
        | "LicenseManager"
        | "LicenseAssignmentManager"
        | "DiagnosticManager"
        | "PerformanceManager"
        | "ExtensionManager" => options::call(call),
        "Network" => host::network(call).await,
        "AuthorizationManager" | "UserDirectory" => authorization::call(call),
        _ => Err(Fault::not_supported()),
    }
}

/// Waits at most this long for an actor: a VM that boots may take a while.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
