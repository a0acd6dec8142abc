//! The actor of a datastore: whatever changes files goes through it, one job per path at a time.
//!
//! ```text
//! Run ─► (waits) ─ nothing that runs or waits before it needs its paths ─► (runs, on a thread) ─► Done
//! ```
//! A path stands for all that lies below it. Long work never blocks the mailbox.
//!
//! What a crash loses: the jobs that wait, whose tasks end with a fault; those that run go on, and
//! their paths stay taken until they end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Address, ChildSpec, Restart};

use super::{Datastore, DatastorePath};
use crate::fault::{Fault, Outcome};
use crate::soap::PATIENCE;
use crate::world::World;

/// What can be asked of a datastore.
#[derive(Debug)]
pub(crate) enum Message {
    /// Does something to files; answers as soon as it is accepted.
    Run(Job, RpcReplyPort<()>),
    /// A job has ended, here or on another datastore.
    Done,
}

/// Something that is done to files.
pub(crate) struct Job {
    paths: Vec<DatastorePath>,
    work: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// The paths that are taken by the jobs that run, on all datastores.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    taken: Mutex<HashMap<u64, Vec<DatastorePath>>>,
    last: AtomicU64,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<DatastorePath>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes paths, unless one of them is taken.
    fn take(&self, paths: &[DatastorePath]) -> Option<u64> {
        let mut taken = self.lock();
        if taken.values().any(|other| meet(other, paths)) {
            return None;
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        taken.insert(id, paths.to_vec());
        Some(id)
    }
}

/// Gives the paths of a job back when it ends, also by a panic.
struct Lease {
    world: Arc<World>,
    id: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.world.stores.leases.lock().remove(&self.id);
        // A job may wait for these paths at any datastore.
        for address in self.world.stores.addresses.values() {
            address.tell(Message::Done);
        }
    }
}

/// Says whether two jobs would touch the same files.
fn meet(some: &[DatastorePath], others: &[DatastorePath]) -> bool {
    let below = |path: &DatastorePath, dir: &DatastorePath| {
        path.datastore == dir.datastore
            && (dir.path.is_empty()
                || path
                    .path
                    .strip_prefix(&dir.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    some.iter()
        .any(|a| others.iter().any(|b| below(a, b) || below(b, a)))
}

/// The actors of all datastores, and what they share.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    /// By the datastore's name.
    addresses: HashMap<String, Address<Message>>,
    leases: Leases,
}

impl Stores {
    /// One address for each datastore.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        Stores {
            addresses: names
                .into_iter()
                .map(|name| (name.clone(), Address::default()))
                .collect(),
            leases: Leases::default(),
        }
    }
}

/// Describes the actor of a datastore.
pub(crate) fn child(world: &Arc<World>, store: &Datastore) -> ChildSpec {
    let address = world.stores.addresses.get(&store.name).cloned();
    let world = world.clone();
    ChildSpec::new(
        store.moid.clone(),
        Restart::Permanent,
        address.unwrap_or_default(),
        move || (Keeper, world.clone()),
    )
    .kind("datastore")
}

/// Does something to the files at `paths` when nobody else does; the datastore of the last one (where
/// something new is made) decides.
pub(crate) async fn submit(
    world: &World,
    paths: Vec<DatastorePath>,
    work: impl FnOnce() + Send + 'static,
) -> Outcome<()> {
    let store = paths.last().map_or("", |path| &path.datastore);
    let address = world.stores.addresses.get(store);
    let address = address.ok_or_else(|| Fault::datastore(store))?;
    let work = Box::new(work);
    address
        .ask(PATIENCE, |reply| Message::Run(Job { paths, work }, reply))
        .await
        .map_err(|error| Fault::system(error.to_string()))
}

struct Keeper;

struct State {
    world: Arc<World>,
    waiting: VecDeque<Job>,
}

impl Actor for Keeper {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<World>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        world: Arc<World>,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            world,
            waiting: VecDeque::new(),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Message::Run(job, reply) = message {
            state.waiting.push_back(job);
            // Whoever asked may have left.
            let _ = reply.send(());
        }
        state.start();
        Ok(())
    }
}

impl State {
    /// Starts the jobs that need wait for nobody any more; none overtakes one that needs its paths.
    fn start(&mut self) {
        let mut left: VecDeque<Job> = VecDeque::new();
        for job in std::mem::take(&mut self.waiting) {
            let ahead = left.iter().any(|other| meet(&other.paths, &job.paths));
            let id = if ahead {
                None
            } else {
                self.world.stores.leases.take(&job.paths)
            };
            let Some(id) = id else {
                left.push_back(job);
                continue;
            };
            let lease = Lease {
                world: self.world.clone(),
                id,
            };
            tokio::task::spawn_blocking(move || {
                let _lease = lease;
                (job.work)();
            });
        }
        self.waiting = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<DatastorePath> {
        list.iter()
            .map(|p| p.parse().expect("a datastore path"))
            .collect()
    }

    #[test]
    fn jobs_meet_where_one_path_lies_below_another() {
        let meets = |a: &[&str], b: &[&str]| meet(&paths(a), &paths(b));
        assert!(meets(&["[ds] a"], &["[ds] a"]));
        assert!(meets(&["[ds] a/b"], &["[ds] a"]));
        assert!(meets(&["[ds] x", "[ds] a"], &["[ds] a/b/c"]));
        assert!(meets(&["[ds]"], &["[ds] a"]));
        assert!(!meets(&["[ds] a"], &["[ds] ab"]));
        assert!(!meets(&["[ds] a"], &["[other] a"]));
        assert!(!meets(&["[ds] a/b"], &["[ds] a/c"]));
    }

    #[test]
    fn a_path_is_taken_once() {
        let leases = Leases::default();
        let first = leases.take(&paths(&["[ds] a"])).expect("free");
        assert_eq!(leases.take(&paths(&["[ds] a/b"])), None);
        leases.take(&paths(&["[ds] b"])).expect("another");
        leases.lock().remove(&first);
        leases.take(&paths(&["[ds] a/b"])).expect("free again");
    }
}
