//! The supervisor actor: does what [`crate::decision`] decides, and nothing else.
//!
//! ```text
//! pre_start: children() → start in order       child ends / cannot start → core decides → stop, wait, start
//! AddChild, RemoveChild: for children that come and go (containers, layers, pulls)
//! intensity exceeded: all children stop, the supervisor fails, its own supervisor decides
//! ```
//! What a crash loses: nothing; `children()` makes the list anew (the containers' list comes from vSphere).

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr,
    SupervisionEvent,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::address::Address;
use crate::decision::{Core, Decision, Exit, Policy, Restart};
use crate::tree::{Busy, Tree};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type SpawnFn = Arc<dyn Fn(ActorCell) -> BoxFuture<Result<ActorCell, SpawnErr>> + Send + Sync>;

/// What a supervisor needs to know of one child.
#[derive(Clone)]
pub struct ChildSpec {
    id: String,
    restart: Restart,
    shutdown: Duration,
    spawn: SpawnFn,
    close: Arc<dyn Fn() + Send + Sync>,
    busy: Busy,
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
                address.set(child.clone());
                Ok(child.get_cell())
            })
        });
        Self {
            id: id.into(),
            restart,
            shutdown: Duration::from_secs(2),
            spawn,
            close: Arc::new(move || closing.close()),
            busy,
        }
    }

    /// How long a stop of this child may take before it is killed.
    #[must_use]
    pub fn shutdown(mut self, limit: Duration) -> Self {
        self.shutdown = limit;
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

/// What a supervisor is started with.
#[derive(Clone)]
pub struct SupervisorArgs {
    /// Its path in the tree.
    pub path: String,
    /// Its strategy, intensity and back-off.
    pub policy: Policy,
    /// The tree that it keeps up to date.
    pub tree: Tree,
    /// Its first children.
    pub children: Children,
}

impl SupervisorArgs {
    /// A supervisor of children that are known beforehand.
    pub fn fixed(path: &str, policy: Policy, tree: &Tree, children: Vec<ChildSpec>) -> Self {
        let make: Children = Arc::new(move || {
            let children = children.clone();
            Box::pin(async move { Ok(children) })
        });
        Self {
            path: path.to_owned(),
            policy,
            tree: tree.clone(),
            children: make,
        }
    }
}

impl std::fmt::Debug for SupervisorArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SupervisorArgs({}, {:?})", self.path, self.policy)
    }
}

/// What a supervisor can be asked.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// Adds a child and starts it; answers with why it could not be started. An id that is taken is left alone.
    AddChild(ChildSpec, RpcReplyPort<Result<(), String>>),
    /// Stops a child and forgets it; answers when it has ended.
    RemoveChild(String, RpcReplyPort<()>),
    /// Internal: the wait of a back-off is over.
    #[doc(hidden)]
    Start(Vec<String>),
    /// Internal: a child has started, or cannot.
    #[doc(hidden)]
    Spawned(
        String,
        Result<ActorCell, SpawnErr>,
        Option<RpcReplyPort<Result<(), String>>>,
    ),
}

/// The supervisor actor.
#[derive(Debug, Default)]
pub struct Supervisor;

/// A running supervisor.
#[derive(Debug)]
pub struct SupervisorState {
    args: SupervisorArgs,
    core: Core,
    specs: HashMap<String, ChildSpec>,
    cells: HashMap<ActorId, (String, ActorCell)>,
    /// Children whose start is under way.
    starting: HashSet<String>,
    /// Children that ended before we heard that they had started.
    early: HashMap<ActorId, Exit>,
    epoch: Instant,
    tasks: JoinSet<()>,
}

impl SupervisorState {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn path(&self, id: &str) -> String {
        format!("{}/{id}", self.args.path)
    }

    /// Starts children one after the other, without waiting here: a child that waits for a sibling in its
    /// `pre_start` must not keep us from starting that sibling.
    fn launch(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        ids: Vec<String>,
        mut reply: Option<RpcReplyPort<Result<(), String>>>,
    ) {
        let mut list = Vec::new();
        for id in ids {
            let Some(spec) = self.specs.get(&id) else {
                continue;
            };
            if !self.core.is_running(&id) && self.starting.insert(id.clone()) {
                list.push((id, spec.spawn.clone()));
            }
        }
        let myself = myself.clone();
        self.tasks.spawn(async move {
            for (id, spawn) in list {
                let spawned = spawn(myself.get_cell()).await;
                let message = SupervisorMessage::Spawned(id, spawned, reply.take());
                if myself.send_message(message).is_err() {
                    return;
                }
            }
        });
    }

    async fn spawned(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        id: String,
        result: Result<ActorCell, SpawnErr>,
    ) -> Result<(), ActorProcessingErr> {
        self.starting.remove(&id);
        match result {
            Ok(cell) if !self.core.contains(&id) => {
                // Removed while it started.
                cell.stop(None);
                Ok(())
            }
            Ok(cell) => {
                self.core.started(&id, self.now());
                if let Some(exit) = self.early.remove(&cell.get_id()) {
                    return self.exited(myself, id, exit).await;
                }
                self.enter(&id, cell);
                Ok(())
            }
            Err(why) => {
                tracing::warn!(path = %self.path(&id), %why, "cannot start");
                self.exited(myself, id, Exit::Failed).await
            }
        }
    }

    fn enter(&mut self, id: &str, cell: ActorCell) {
        let busy = self
            .specs
            .get(id)
            .map(|s| s.busy.clone())
            .unwrap_or_default();
        self.args.tree.enter(&self.path(id), cell.clone(), busy);
        self.cells.insert(cell.get_id(), (id.to_owned(), cell));
    }

    /// Stops a child without asking the core about it.
    async fn stop(&mut self, id: &str) {
        let Some(cell) = self
            .cells
            .values()
            .find(|(i, _)| i == id)
            .map(|(_, c)| c.clone())
        else {
            return;
        };
        self.cells.remove(&cell.get_id());
        self.core.stopped(id);
        let limit = self.specs.get(id).map_or(Duration::ZERO, |s| s.shutdown);
        if cell.stop_and_wait(None, Some(limit)).await.is_err() {
            cell.kill();
        }
        self.args.tree.leave(&self.path(id), &cell);
    }

    fn forget(&mut self, id: &str) {
        self.core.remove(id);
        if let Some(spec) = self.specs.remove(id) {
            (spec.close)();
        }
    }

    async fn exited(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        id: String,
        exit: Exit,
    ) -> Result<(), ActorProcessingErr> {
        match self.core.exited(&id, exit, self.now()) {
            Decision::Nothing => Ok(()),
            Decision::Forget => {
                self.forget(&id);
                Ok(())
            }
            Decision::GiveUp => {
                tracing::error!(path = %self.args.path, child = %id, "too many restarts, giving up");
                Err(format!("{}: too many restarts of {id}", self.args.path).into())
            }
            Decision::Restart { stop, start, after } => {
                for sibling in &stop {
                    self.stop(sibling).await;
                }
                if after.is_zero() {
                    myself.send_message(SupervisorMessage::Start(start))?;
                } else {
                    myself.send_after(after, move || SupervisorMessage::Start(start));
                }
                Ok(())
            }
        }
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: SupervisorArgs,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let children = (args.children)().await?;
        let mut state = SupervisorState {
            core: Core::new(args.policy),
            args,
            specs: HashMap::new(),
            cells: HashMap::new(),
            starting: HashSet::new(),
            early: HashMap::new(),
            epoch: Instant::now(),
            tasks: JoinSet::new(),
        };
        let mut ids = Vec::new();
        for child in children {
            if state.core.add(&child.id, child.restart) {
                ids.push(child.id.clone());
                state.specs.insert(child.id.clone(), child);
            }
        }
        for id in ids {
            let Some(spawn) = state.specs.get(&id).map(|s| s.spawn.clone()) else {
                continue;
            };
            let result = spawn(myself.get_cell()).await;
            state.spawned(&myself, id, result).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            SupervisorMessage::AddChild(spec, reply) => {
                let id = spec.id.clone();
                if state.core.add(&id, spec.restart) {
                    state.specs.insert(id.clone(), spec);
                    state.launch(&myself, vec![id], Some(reply));
                } else {
                    // The asker may have left.
                    let _ = reply.send(Ok(()));
                }
            }
            SupervisorMessage::Spawned(id, Err(why), Some(reply)) => {
                // A child that cannot start the first time is the asker's business.
                state.starting.remove(&id);
                state.forget(&id);
                let _ = reply.send(Err(why.to_string()));
            }
            SupervisorMessage::Spawned(id, result, reply) => {
                state.spawned(&myself, id, result).await?;
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(()));
                }
            }
            SupervisorMessage::RemoveChild(id, reply) => {
                state.stop(&id).await;
                state.forget(&id);
                let _ = reply.send(());
            }
            SupervisorMessage::Start(ids) => state.launch(&myself, ids, None),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, exit) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let killed = reason.as_deref() == Some("killed");
                (cell, if killed { Exit::Failed } else { Exit::Normal })
            }
            SupervisionEvent::ActorFailed(cell, why) => {
                tracing::warn!(path = %state.args.path, child = ?cell.get_id(), %why, "child failed");
                (cell, Exit::Failed)
            }
            _ => return Ok(()),
        };
        let Some((id, cell)) = state.cells.remove(&cell.get_id()) else {
            if !state.starting.is_empty() {
                state.early.insert(cell.get_id(), exit);
            }
            return Ok(());
        };
        state.args.tree.leave(&state.path(&id), &cell);
        state.exited(&myself, id, exit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::AskError;

    struct Echo;
    impl Actor for Echo {
        type Msg = RpcReplyPort<u32>;
        type State = u32;
        type Arguments = u32;
        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            n: u32,
        ) -> Result<u32, ActorProcessingErr> {
            if n == u32::MAX {
                Err("cannot".into())
            } else {
                Ok(n)
            }
        }
        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            reply: RpcReplyPort<u32>,
            state: &mut u32,
        ) -> Result<(), ActorProcessingErr> {
            let _ = reply.send(*state);
            Ok(())
        }
    }

    async fn world(children: Vec<ChildSpec>) -> (ActorRef<SupervisorMessage>, Tree) {
        let tree = Tree::default();
        let args = SupervisorArgs::fixed("w", Policy::default(), &tree, children);
        let (supervisor, _) = Supervisor::spawn(None, Supervisor, args).await.unwrap();
        (supervisor, tree)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_killed_child_answers_again_at_the_same_address() {
        let address = Address::<RpcReplyPort<u32>>::default();
        let spec = ChildSpec::new("e", Restart::Permanent, address.clone(), || (Echo, 7));
        let (_supervisor, tree) = world(vec![spec]).await;
        for _ in 0..3 {
            assert_eq!(address.ask(SECOND, |reply| reply).await, Ok(7));
            let before = address.get().unwrap().get_id();
            assert!(tree.kill("w/e"));
            // The question after a kill may die with the old actor; the next one finds the new actor.
            let again = address.ask(SECOND, |reply| reply).await;
            assert!(
                matches!(again, Ok(7) | Err(AskError::Interrupted)),
                "{again:?}"
            );
            while address.get().unwrap().get_id() == before {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(tree.print().lines().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_cannot_start_is_tried_again() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let tries = Arc::new(AtomicU32::new(0));
        let seen = tries.clone();
        let address = Address::<RpcReplyPort<u32>>::default();
        let spec = ChildSpec::new("e", Restart::Permanent, address.clone(), move || {
            let n = tries.fetch_add(1, Ordering::SeqCst);
            (Echo, if n < 3 { u32::MAX } else { n })
        });
        let (_supervisor, _) = world(vec![spec]).await;
        assert_eq!(address.ask(SECOND, |reply| reply).await, Ok(3));
        assert_eq!(seen.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_removed_child_is_gone_for_good() {
        let address = Address::<RpcReplyPort<u32>>::default();
        let (supervisor, tree) = world(vec![]).await;
        let spec = ChildSpec::new("e", Restart::Transient, address.clone(), || (Echo, 1));
        let added = ractor::call!(supervisor, SupervisorMessage::AddChild, spec).unwrap();
        assert_eq!(added, Ok(()));
        assert_eq!(address.ask(SECOND, |reply| reply).await, Ok(1));
        ractor::call!(supervisor, SupervisorMessage::RemoveChild, "e".to_owned()).unwrap();
        assert_eq!(
            address.ask(SECOND, |reply| reply).await,
            Err(AskError::Gone)
        );
        assert!(tree.entries().is_empty());
    }
}
