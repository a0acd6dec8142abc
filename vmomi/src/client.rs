//! A session with a vSphere.
//!
//! ```text
//!            connect            NotAuthenticated from any call
//!   (none) ──────────► logged in ──────────────────────────► logging in again (once, others wait)
//!                          ▲                                        │
//!                          └────────────────────────────────────────┘  the call is sent again
//! ```
//! A [`Client`] is cheap to clone; all clones are one session. At most [`IN_FLIGHT`] calls are under
//! way at a time, the standing wait of [`watch`](crate::watch) not counted. The session is kept
//! alive while a clone lives and ends with the last one (or with [`close`](Client::close)).

mod config;
mod error;
mod record;
mod retrieve;
mod session;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

pub use config::{Config, ConfigError, Credentials};
pub use error::{Error, Retry};
pub use record::{CallStatistics, Record};
pub use retrieve::{Properties, property_spec, view_spec};
pub(crate) use session::Session;

use crate::method::Method;
use crate::scalar::ManagedObjectReference;
use crate::types::{CurrentTimeRequest, LogoutRequest, ServiceContent, TaskInfo};
use crate::watch::Watch;

/// How many calls may be under way at a time; hostd serves about as many sessions' requests at once.
pub const IN_FLIGHT: usize = 32;

/// A call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A session with a vSphere, to be cloned freely.
#[derive(Clone)]
pub struct Client {
    session: Arc<Session>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.session.url().as_str())
            .finish_non_exhaustive()
    }
}

/// What ends with the last clone.
struct Shared {
    watch: OnceCell<Watch>,
    keep_alive: Aborted,
}

/// A task that ends with its owner.
pub(crate) struct Aborted(pub(crate) AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// When the server cannot be reached or trusted, or refuses the credentials.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let session = Arc::new(Session::open(config).await?);
        let weak = Arc::downgrade(&session);
        let interval = session.keep_alive();
        let keep_alive = tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(session) = weak.upgrade() else {
                    return;
                };
                let this = ManagedObjectReference::service_instance();
                if let Err(error) = session.invoke(&this, CurrentTimeRequest {}).await {
                    tracing::warn!(%error, "the vSphere session could not be kept alive");
                }
            }
        });
        Ok(Self {
            session,
            shared: Arc::new(Shared {
                watch: OnceCell::new(),
                keep_alive: Aborted(keep_alive.abort_handle()),
            }),
        })
    }

    /// What the server has: its managers, its root folder, and what it is.
    pub fn content(&self) -> &ServiceContent {
        self.session.content()
    }

    /// Whether the server is a vCenter (and not a single ESX host).
    pub fn is_vcenter(&self) -> bool {
        self.content().about.api_type == "VirtualCenter"
    }

    /// The address of the server.
    pub fn url(&self) -> &url::Url {
        self.session.url()
    }

    /// The address of this machine on the connection to the server is not known to HTTP; the
    /// session's cookie is, for those who speak to the server otherwise (`vcSessionCookie`).
    pub fn cookie(&self) -> Option<String> {
        self.session.cookie()
    }

    /// The calls that were made, by method.
    pub fn calls(&self) -> &Record {
        self.session.record()
    }

    /// Calls a method and gives its result; the functions named after methods do the same.
    ///
    /// A call whose session has ended is sent again after a new login. A call that cannot have
    /// reached the server, or that only reads, is sent again as [`Config::retry`] says; any other
    /// is not, and the error tells the caller that a retry may help.
    ///
    /// # Errors
    /// When the server answers with a fault, not at all, or with what is no answer.
    ///
    /// # Cancel safety
    /// Dropping the call does not undo it on the server.
    pub fn invoke<'a, M: Method>(
        &'a self,
        this: &'a ManagedObjectReference,
        request: M,
    ) -> Call<'a, M::Response> {
        self.session.invoke(this, request)
    }

    /// The standing wait for updates of this session, begun at its first use.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub async fn watch(&self) -> Result<&Watch, Error> {
        self.shared
            .watch
            .get_or_try_init(|| Watch::begin(self.session.clone()))
            .await
    }

    /// Waits until a task has ended; what it gives is in [`TaskInfo::result`].
    ///
    /// All tasks are awaited on the one standing wait of the session; awaiting one more costs one
    /// short call, shared with others that begin at the same time.
    ///
    /// # Errors
    /// When the task fails (its fault), or its outcome cannot be learnt.
    pub async fn wait_task(&self, task: &ManagedObjectReference) -> Result<TaskInfo, Error> {
        self.watch().await?.task(task).await
    }

    /// Calls a method that gives a task, and waits until that has ended.
    ///
    /// # Errors
    /// As [`invoke`](Self::invoke) and [`wait_task`](Self::wait_task).
    pub async fn run_task<M>(
        &self,
        this: &ManagedObjectReference,
        request: M,
    ) -> Result<TaskInfo, Error>
    where
        M: Method<Response = ManagedObjectReference>,
    {
        // First what it is awaited on: a call whose task nobody can await has an outcome that nobody learns.
        let watch = self.watch().await?;
        let task = self.invoke(this, request).await?;
        watch.task(&task).await
    }

    /// Ends the session, for all clones of this client; whoever still calls or waits is not logged in again.
    ///
    /// # Errors
    /// When the server does not answer; the session then ends when it has been idle for long enough.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.keep_alive.0.abort();
        let Some(manager) = &self.content().session_manager else {
            return Ok(());
        };
        self.session.end().await;
        self.session.invoke(manager, LogoutRequest {}).await
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}
