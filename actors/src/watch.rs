//! The standing watch: what happens to our VMs, whoever does it, told to their actors.
//!
//! One filter over the resource pool's VMs. Its first batch is the full state, so a restarted watch misses nothing.
//! What a crash loses: nothing.

use std::collections::HashMap;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use vmomi::types::ObjectUpdateKind;
use vmomi::watch::Batch;

use crate::container::{self, Input};
use crate::containers;
use crate::context::Context;
use crate::vsphere::{VmFacts, pool_spec};

/// What the watch can be told.
#[derive(Debug)]
pub enum Message {
    /// Tell everybody the full state again: some of them have just started.
    Resync,
    /// Tell what is known of this VM again: its actor has just started.
    Tell(String),
    /// Internal: changes, or the end of the filter.
    #[doc(hidden)]
    Changed(Option<Box<Batch>>),
}

/// The watch actor.
#[derive(Debug)]
pub struct Watch;

/// The running watch.
#[derive(Debug)]
pub struct State {
    context: Context,
    known: HashMap<String, VmFacts>,
    _waiting: JoinSet<()>,
}

impl Actor for Watch {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        // Not lent: the standing wait is no request that somebody waits for.
        let client = (*context.vsphere().client().await?).clone();
        let mut filter = client
            .watch()
            .await?
            .filter(pool_spec(&context.settings().pool))
            .await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Keeps the session for as long as its filter is used.
            let _client = client;
            loop {
                let batch = filter.next().await.map(Box::new);
                let last = batch.is_none();
                if myself.send_message(Message::Changed(batch)).is_err() || last {
                    return;
                }
            }
        });
        Ok(State {
            context,
            known: HashMap::new(),
            _waiting: tasks,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Resync => {
                for facts in state.known.values() {
                    state.tell(facts);
                }
                Ok(())
            }
            Message::Tell(vm) => {
                if let Some(facts) = state.known.get(&vm) {
                    state.tell(facts);
                }
                Ok(())
            }
            Message::Changed(Some(batch)) => {
                state.changed(*batch);
                Ok(())
            }
            Message::Changed(None) => Err("the standing wait has ended".into()),
        }
    }
}

impl State {
    fn changed(&mut self, batch: Batch) {
        if batch.fresh {
            let before = std::mem::take(&mut self.known);
            self.apply(batch.objects);
            for (vm, _) in before
                .into_iter()
                .filter(|(vm, _)| !self.known.contains_key(vm))
                .collect::<Vec<_>>()
            {
                self.gone(&vm);
            }
            return;
        }
        self.apply(batch.objects);
    }

    fn apply(&mut self, objects: Vec<vmomi::types::ObjectUpdate>) {
        for update in objects {
            let vm = update.obj.value.clone();
            if update.kind == ObjectUpdateKind::Leave {
                self.known.remove(&vm);
                self.gone(&vm);
                continue;
            }
            let facts = self.known.entry(vm.clone()).or_insert_with(|| VmFacts {
                vm: vm.clone(),
                ..VmFacts::default()
            });
            let mut changed = false;
            for change in &update.change_set {
                changed |= facts.update(&change.name, change.val.as_ref());
            }
            if changed {
                let facts = facts.clone();
                self.tell(&facts);
            }
        }
    }

    fn tell(&self, facts: &VmFacts) {
        match self
            .context
            .container_of_vm(&facts.vm)
            .and_then(|id| self.context.container(id))
        {
            Some(container) => {
                let input = Input::Facts(Box::new(facts.clone()));
                container.tell(container::Message::Event(Box::new(input)));
            }
            None => containers::maybe_adopt(&self.context, facts),
        }
    }

    fn gone(&self, vm: &str) {
        if let Some(container) = self
            .context
            .container_of_vm(vm)
            .and_then(|id| self.context.container(id))
        {
            container.tell(container::Message::Event(Box::new(Input::VmGone)));
        }
    }
}
