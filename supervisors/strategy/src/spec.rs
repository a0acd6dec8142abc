//! Child specifications: what a supervisor needs to know of one child, as data.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, SpawnErr};

use crate::address::Address;
use crate::decision::Restart;
use crate::tree::Busy;

/// A boxed future, as everywhere where actors are made.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type SpawnFn =
    Arc<dyn Fn(ActorCell) -> BoxFuture<Result<ActorCell, SpawnErr>> + Send + Sync>;

/// What a supervisor needs to know of one child.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) restart: Restart,
    pub(crate) shutdown: Duration,
    pub(crate) at_once: bool,
    pub(crate) spawn: SpawnFn,
    pub(crate) close: Arc<dyn Fn() + Send + Sync>,
    pub(crate) busy: Busy,
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChildSpec({}, {:?})", self.id, self.restart)
    }
}

impl ChildSpec {
    /// Specifies a child: `make` gives the actor and its arguments for each start, `address` is pointed at it.
    pub fn new<A: Actor>(
        id: impl Into<String>,
        restart: Restart,
        address: Address<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        let busy = address.busy().clone();
        let closing = address.clone();
        let spawn: SpawnFn = Arc::new(move |supervisor| {
            let (actor, arguments) = make();
            let address = address.clone();
            Box::pin(async move {
                let (child, _) = Actor::spawn_linked(None, actor, arguments, supervisor).await?;
                if address.set(child.clone()) {
                    return Ok(child.get_cell());
                }
                child.stop(None);
                Err(SpawnErr::StartupFailed("its address is closed".into()))
            })
        });
        Self {
            id: id.into(),
            kind: "actor",
            restart,
            shutdown: Duration::from_secs(2),
            at_once: false,
            spawn,
            close: Arc::new(move || closing.close()),
            busy,
        }
    }

    /// Specifies a child of which there is one: its kind is its id.
    pub fn only<A: Actor>(
        id: &'static str,
        address: Address<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        Self::new(id, Restart::Permanent, address, make).kind(id)
    }

    /// What kind of actor it is, in the tree.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// How long a stop of this child may take before it is killed.
    #[must_use]
    pub fn shutdown(mut self, limit: Duration) -> Self {
        self.shutdown = limit;
        self
    }

    /// Its start waits for nobody: an immediate restart happens before its supervisor does anything else.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// The child's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Makes a supervisor's first children, at each of its starts.
pub type Children =
    Arc<dyn Fn() -> BoxFuture<Result<Vec<ChildSpec>, ActorProcessingErr>> + Send + Sync>;
