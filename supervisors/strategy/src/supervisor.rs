//! The supervisor actor: does what [`crate::decision`] decides, and nothing else.
//!
//! ```text
//! pre_start: children() → start in order       child ends / cannot start → core decides → stop, wait, start
//! AddChild, RemoveChild: for children that come and go (containers, layers, pulls)
//! intensity exceeded: all children stop, the supervisor fails, its own supervisor decides
//! ```
//! What a crash loses: nothing; `children()` makes the list anew (the containers' list comes from vSphere).

use std::sync::Arc;

use ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent,
};

use crate::decision::Policy;
use crate::nursery::Nursery;
use crate::spec::{ChildSpec, Children};
use crate::tree::Tree;

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
    /// Internal: a child has started, or cannot; with the number of that start.
    #[doc(hidden)]
    Spawned(
        String,
        u64,
        Result<ActorCell, SpawnErr>,
        Option<RpcReplyPort<Result<(), String>>>,
    ),
}

/// The supervisor actor.
#[derive(Debug, Default)]
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Nursery;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: SupervisorArgs,
    ) -> Result<Nursery, ActorProcessingErr> {
        let children = (args.children)().await?;
        let mut nursery = Nursery::new(&args.path, args.policy, &args.tree, &myself, |m| m);
        nursery.start(children).await?;
        Ok(nursery)
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        nursery: &mut Nursery,
    ) -> Result<(), ActorProcessingErr> {
        nursery.stop_all().await;
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: SupervisorMessage,
        nursery: &mut Nursery,
    ) -> Result<(), ActorProcessingErr> {
        nursery.handle(message).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        nursery: &mut Nursery,
    ) -> Result<(), ActorProcessingErr> {
        nursery.event(event).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::address::{Address, AskError};
    use crate::decision::Restart;

    type Gate = Option<Arc<tokio::sync::Semaphore>>;

    /// Answers with its number; starts when its gate lets it.
    struct Echo;
    impl Actor for Echo {
        type Msg = RpcReplyPort<u32>;
        type State = u32;
        type Arguments = (u32, Gate);
        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            (n, gate): Self::Arguments,
        ) -> Result<u32, ActorProcessingErr> {
            if let Some(gate) = gate {
                gate.acquire().await?.forget();
            }
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
        let spec = ChildSpec::new("e", Restart::Permanent, address.clone(), || {
            (Echo, (7, None))
        });
        let (_supervisor, tree) = world(vec![spec]).await;
        for _ in 0..3 {
            assert_eq!(address.ask(SECOND, |reply| reply).await, Ok(7));
            let before = address.get().unwrap().get_id();
            assert!(tree.kill("w/e").await.is_some());
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
            (Echo, (if n < 3 { u32::MAX } else { n }, None))
        });
        let (_supervisor, _) = world(vec![spec]).await;
        assert_eq!(address.ask(SECOND, |reply| reply).await, Ok(3));
        assert_eq!(seen.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_child_that_was_removed_while_it_started_is_not_taken_for_its_successor() {
        let (supervisor, tree) = world(vec![]).await;
        let gates: [Arc<tokio::sync::Semaphore>; 2] =
            std::array::from_fn(|_| Arc::new(tokio::sync::Semaphore::new(0)));
        let addresses: [Address<RpcReplyPort<u32>>; 2] = Default::default();
        let mut added = Vec::new();
        for n in 0..2 {
            let (gate, address) = (gates[n].clone(), addresses[n].clone());
            let make = move || (Echo, (n as u32, Some(gate.clone())));
            let spec = ChildSpec::new("e", Restart::Permanent, address, make);
            let asked = supervisor.clone();
            added.push(tokio::spawn(async move {
                ractor::call!(asked, SupervisorMessage::AddChild, spec)
            }));
            // The first one is under way before it is removed.
            while Arc::strong_count(&gates[n]) < 3 {
                tokio::task::yield_now().await;
            }
            if n == 0 {
                let id = "e".to_owned();
                ractor::call!(supervisor, SupervisorMessage::RemoveChild, id).unwrap();
            }
        }
        gates[1].add_permits(1);
        assert_eq!(addresses[1].ask(SECOND, |reply| reply).await, Ok(1));
        // Late, it finds its address closed.
        gates[0].add_permits(1);
        let first = added.remove(0).await.unwrap().unwrap();
        assert!(first.is_err(), "{first:?}");
        assert_eq!(added.remove(0).await.unwrap().unwrap(), Ok(()));
        assert_eq!(
            addresses[0].ask(SECOND, |reply| reply).await,
            Err(AskError::Gone)
        );
        assert_eq!(addresses[1].ask(SECOND, |reply| reply).await, Ok(1));
        assert_eq!(tree.print().lines().count(), 1);
    }

    #[tokio::test]
    async fn a_removed_child_is_gone_for_good() {
        let address = Address::<RpcReplyPort<u32>>::default();
        let (supervisor, tree) = world(vec![]).await;
        let spec = ChildSpec::new("e", Restart::Transient, address.clone(), || {
            (Echo, (1, None))
        });
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
