//! A nursery: the children of one actor, and everything that a supervisor does about them.
//!
//! An actor that has work of its own and children too (a container with its link and execs) keeps one in its state,
//! passes [`SupervisorMessage`]s and supervision events on to it, and fails when it gives up. [`crate::Supervisor`]
//! is the actor that does nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, RpcReplyPort, SpawnErr,
    SupervisionEvent,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::decision::{Core, Decision, Exit, Policy};
use crate::spec::ChildSpec;
use crate::supervisor::SupervisorMessage;
use crate::tree::Tree;

/// The children of one actor.
pub struct Nursery {
    path: String,
    tree: Tree,
    owner: ActorCell,
    tell: Arc<dyn Fn(SupervisorMessage) -> bool + Send + Sync>,
    core: Core,
    specs: HashMap<String, ChildSpec>,
    cells: HashMap<ActorId, (String, ActorCell)>,
    /// Children whose start is under way, with its number: one that was forgotten meanwhile is not taken for another
    /// of the same id.
    starting: HashMap<String, u64>,
    starts: u64,
    /// Children that ended before we heard that they had started.
    early: HashMap<ActorId, Exit>,
    epoch: Instant,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Nursery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nursery({}, {} children)", self.path, self.cells.len())
    }
}

impl Drop for Nursery {
    /// Children end with their supervisor.
    fn drop(&mut self) {
        for (id, cell) in self.cells.values() {
            self.tree.leave(&self.path_of(id), cell);
        }
    }
}

impl Nursery {
    /// No children yet. `path` is the owner's; `wrap` makes the owner's message of one for the nursery.
    pub fn new<M: Message>(
        path: &str,
        policy: Policy,
        tree: &Tree,
        owner: &ActorRef<M>,
        wrap: impl Fn(SupervisorMessage) -> M + Send + Sync + 'static,
    ) -> Self {
        let myself = owner.clone();
        Self {
            path: path.to_owned(),
            tree: tree.clone(),
            owner: owner.get_cell(),
            tell: Arc::new(move |message| myself.send_message(wrap(message)).is_ok()),
            core: Core::new(policy),
            specs: HashMap::new(),
            cells: HashMap::new(),
            starting: HashMap::new(),
            starts: 0,
            early: HashMap::new(),
            epoch: Instant::now(),
            tasks: JoinSet::new(),
        }
    }

    /// Adds children and starts them in order. One that cannot start is tried again later.
    ///
    /// # Errors
    /// When there were too many restarts: the owner must fail.
    pub async fn start(&mut self, children: Vec<ChildSpec>) -> Result<(), ActorProcessingErr> {
        let mut ids = Vec::new();
        for child in children {
            if self.core.add(&child.id, child.restart) {
                ids.push(child.id.clone());
                self.specs.insert(child.id.clone(), child);
            }
        }
        for id in ids {
            self.spawn(id).await?;
        }
        Ok(())
    }

    /// Adds a child; answers when it has started, or why it cannot. An id that is taken is left alone.
    pub fn add(&mut self, spec: ChildSpec, reply: Option<RpcReplyPort<Result<(), String>>>) {
        let id = spec.id.clone();
        if self.core.add(&id, spec.restart) {
            self.specs.insert(id.clone(), spec);
            self.launch(vec![id], reply);
        } else if let Some(reply) = reply {
            // The asker may have left.
            let _ = reply.send(Ok(()));
        }
    }

    /// Stops a child and forgets it.
    pub async fn remove(&mut self, id: &str) {
        self.stop(id).await;
        self.forget(id);
    }

    /// Stops all children in an orderly way, last started first.
    pub async fn stop_all(&mut self) {
        let ids: Vec<_> = self.core.ids().rev().map(str::to_owned).collect();
        for id in ids {
            self.stop(&id).await;
        }
    }

    /// Takes a message that the owner was sent for its nursery.
    ///
    /// # Errors
    /// When there were too many restarts: the owner must fail.
    pub async fn handle(&mut self, message: SupervisorMessage) -> Result<(), ActorProcessingErr> {
        while self.tasks.try_join_next().is_some() {}
        match message {
            SupervisorMessage::AddChild(spec, reply) => self.add(spec, Some(reply)),
            SupervisorMessage::Spawned(id, number, result, reply) => {
                let answer = self.launched(id, number, result, reply.is_some()).await?;
                if let Some(reply) = reply {
                    let _ = reply.send(answer);
                }
            }
            SupervisorMessage::RemoveChild(id, reply) => {
                self.remove(&id).await;
                let _ = reply.send(());
            }
            SupervisorMessage::Start(ids) => self.launch(ids, None),
        }
        Ok(())
    }

    /// Takes a supervision event; answers with the id of a child that has ended and is already running again.
    ///
    /// # Errors
    /// When there were too many restarts: the owner must fail.
    pub async fn event(
        &mut self,
        event: SupervisionEvent,
    ) -> Result<Option<String>, ActorProcessingErr> {
        let (cell, exit) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let killed = reason.as_deref() == Some("killed");
                (cell, if killed { Exit::Failed } else { Exit::Normal })
            }
            SupervisionEvent::ActorFailed(cell, why) => {
                tracing::warn!(path = %self.path, child = ?cell.get_id(), %why, "child failed");
                (cell, Exit::Failed)
            }
            _ => return Ok(None),
        };
        let Some((id, cell)) = self.cells.remove(&cell.get_id()) else {
            if !self.starting.is_empty() {
                self.early.insert(cell.get_id(), exit);
            }
            return Ok(None);
        };
        self.tree.leave(&self.path_of(&id), &cell);
        self.exited(id.clone(), exit).await?;
        Ok(self.core.is_running(&id).then_some(id))
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn path_of(&self, id: &str) -> String {
        format!("{}/{id}", self.path)
    }

    /// Starts one child and waits for it.
    async fn spawn(&mut self, id: String) -> Result<(), ActorProcessingErr> {
        let Some(spawn) = self.specs.get(&id).map(|s| s.spawn.clone()) else {
            return Ok(());
        };
        let result = spawn(self.owner.clone()).await;
        Box::pin(self.spawned(id, result)).await
    }

    /// Starts children one after the other, without waiting here: a child that waits for a sibling in its
    /// `pre_start` must not keep us from starting that sibling.
    fn launch(&mut self, ids: Vec<String>, mut reply: Option<RpcReplyPort<Result<(), String>>>) {
        let mut list = Vec::new();
        for id in ids {
            let Some(spec) = self.specs.get(&id) else {
                continue;
            };
            if !self.core.is_running(&id) && !self.starting.contains_key(&id) {
                self.starts += 1;
                self.starting.insert(id.clone(), self.starts);
                list.push((id, self.starts, spec.spawn.clone()));
            }
        }
        let (owner, tell) = (self.owner.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            for (id, number, spawn) in list {
                let spawned = spawn(owner.clone()).await;
                if !tell(SupervisorMessage::Spawned(
                    id,
                    number,
                    spawned,
                    reply.take(),
                )) {
                    return;
                }
            }
        });
    }

    /// A child whose start was under way has started, or cannot. Answers what whoever added it is told.
    async fn launched(
        &mut self,
        id: String,
        number: u64,
        result: Result<ActorCell, SpawnErr>,
        added: bool,
    ) -> Result<Result<(), String>, ActorProcessingErr> {
        if self.starting.get(&id) != Some(&number) {
            if let Ok(cell) = result {
                self.early.remove(&cell.get_id());
                cell.stop(None);
            }
            return Ok(Err("it was removed while it started".to_owned()));
        }
        self.starting.remove(&id);
        match result {
            // A child that cannot start the first time is the asker's business.
            Err(why) if added => {
                self.forget(&id);
                Ok(Err(why.to_string()))
            }
            result => self.spawned(id, result).await.map(Ok),
        }
    }

    async fn spawned(
        &mut self,
        id: String,
        result: Result<ActorCell, SpawnErr>,
    ) -> Result<(), ActorProcessingErr> {
        match result {
            Ok(cell) => {
                self.core.started(&id, self.now());
                if let Some(exit) = self.early.remove(&cell.get_id()) {
                    return self.exited(id, exit).await;
                }
                self.enter(&id, cell);
                Ok(())
            }
            Err(why) => {
                tracing::warn!(path = %self.path_of(&id), %why, "cannot start");
                self.exited(id, Exit::Failed).await
            }
        }
    }

    fn enter(&mut self, id: &str, cell: ActorCell) {
        let Some(spec) = self.specs.get(id) else {
            return;
        };
        let path = self.path_of(id);
        self.tree
            .enter(&path, spec.kind, cell.clone(), spec.busy.clone());
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
        self.tree.leave(&self.path_of(id), &cell);
    }

    fn forget(&mut self, id: &str) {
        self.core.remove(id);
        self.starting.remove(id);
        if let Some(spec) = self.specs.remove(id) {
            (spec.close)();
        }
    }

    async fn exited(&mut self, id: String, exit: Exit) -> Result<(), ActorProcessingErr> {
        match self.core.exited(&id, exit, self.now()) {
            Decision::Nothing => Ok(()),
            Decision::Forget => {
                self.forget(&id);
                Ok(())
            }
            Decision::GiveUp => {
                tracing::error!(path = %self.path, child = %id, "too many restarts, giving up");
                Err(format!("{}: too many restarts of {id}", self.path).into())
            }
            Decision::Restart { stop, start, after } => {
                for sibling in &stop {
                    self.stop(sibling).await;
                }
                let at_once = start
                    .iter()
                    .all(|id| self.specs.get(id).is_some_and(|s| s.at_once));
                if after.is_zero() && at_once {
                    for id in start {
                        self.spawn(id).await?;
                    }
                } else if after.is_zero() {
                    (self.tell)(SupervisorMessage::Start(start));
                } else {
                    let tell = self.tell.clone();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(after).await;
                        tell(SupervisorMessage::Start(start));
                    });
                }
                Ok(())
            }
        }
    }
}
