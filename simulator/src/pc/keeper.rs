//! The actor of one collector: its filters, what their client knows, and the waits that run.
//!
//! | message | answer |
//! |---|---|
//! | `CreateFilter`, `DestroyFilter` | at once; a wait that runs reports the new filter too |
//! | `Wait` | when something has changed, the time is over, or somebody cancels it |
//! | `KeepPage`, `TakePage` | at once |
//! | `Look` (from itself) | the inventory has changed, or the time of a wait may be over |
//!
//! What a crash loses: the filters, and the pages that nobody took; waits end with `RequestCanceled`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{ObjectUpdate, PropertyFilterUpdate, UpdateSet};

use super::filter::Filter;
use super::{Page, Published, Reader, WaitOptions};
use crate::fault::{Fault, Outcome};
use crate::inventory::Snapshot;

/// How many updates one reply holds when the client does not say.
const DEFAULT_UPDATES: usize = 10_000;

/// What a wait is told in the end.
type Answer = RpcReplyPort<Outcome<Option<UpdateSet>>>;

/// What can be asked of a collector.
#[derive(Debug)]
pub(crate) enum Message {
    /// Adds a filter.
    CreateFilter(Box<Filter>, RpcReplyPort<()>),
    /// Takes a filter away; says whether it was there.
    DestroyFilter(String, RpcReplyPort<bool>),
    /// Waits for changes.
    Wait(Box<Wait>, Answer),
    /// Ends all waits with `RequestCanceled`.
    CancelWait,
    /// Keeps a page; gives its token.
    KeepPage(Box<Page>, RpcReplyPort<String>),
    /// Gives a page back, once.
    TakePage(String, RpcReplyPort<Option<Box<Page>>>),
    /// Looks whether a wait can be answered.
    Look,
}

/// One wait of a client.
#[derive(Debug)]
pub(crate) struct Wait {
    reader: Reader,
    version: String,
    max: usize,
    deadline: Option<Instant>,
}

impl Wait {
    pub(super) fn new(reader: Reader, version: &str, options: WaitOptions) -> Self {
        Wait {
            reader,
            version: version.to_owned(),
            max: options.max_updates.unwrap_or(DEFAULT_UPDATES).max(1),
            deadline: options.max_wait.map(|time| Instant::now() + time),
        }
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }
}

/// Wakes the actor, unless it is dropped before.
struct Alarm(AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct State {
    changed: watch::Receiver<Arc<Snapshot>>,
    published: Published,
    filters: Vec<Filter>,
    /// Number of the last reply; 0: nothing was reported.
    version: u64,
    /// The last reply, for the client that lost it.
    last: Option<UpdateSet>,
    /// The version that the last reply answered.
    answered: String,
    pages: HashMap<String, Box<Page>>,
    next_page: u64,
    waits: Vec<(Box<Wait>, Answer)>,
    alarm: Option<Alarm>,
}

/// The actor.
pub(crate) struct Keeper;

impl Actor for Keeper {
    type Msg = Message;
    type State = State;
    type Arguments = (watch::Receiver<Arc<Snapshot>>, Published);

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        (changed, published): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let state = State {
            changed,
            published,
            filters: Vec::new(),
            version: 0,
            last: None,
            answered: String::new(),
            pages: HashMap::new(),
            next_page: 0,
            waits: Vec::new(),
            alarm: None,
        };
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Whoever asked may have left; what it asked for is done all the same.
        match message {
            Message::CreateFilter(filter, reply) => {
                state.filters.push(*filter);
                state.publish();
                let _ = reply.send(());
            }
            Message::DestroyFilter(id, reply) => {
                let before = state.filters.len();
                state.filters.retain(|f| f.id != id);
                state.publish();
                let _ = reply.send(before != state.filters.len());
                return Ok(());
            }
            Message::KeepPage(page, reply) => {
                state.next_page += 1;
                let token = state.next_page.to_string();
                state.pages.insert(token.clone(), page);
                let _ = reply.send(token);
                return Ok(());
            }
            Message::TakePage(token, reply) => {
                let _ = reply.send(state.pages.remove(&token));
                return Ok(());
            }
            Message::CancelWait => {
                state.cancel();
                return Ok(());
            }
            Message::Wait(wait, reply) => match state.begin(&wait.version) {
                Ok(None) => state.waits.push((wait, reply)),
                Ok(Some(again)) => {
                    let _ = reply.send(Ok(Some(again)));
                    return Ok(());
                }
                Err(fault) => {
                    let _ = reply.send(Err(fault));
                    return Ok(());
                }
            },
            Message::Look => {}
        }
        state.look(&myself);
        Ok(())
    }
}

impl State {
    /// Shows which filters there are.
    fn publish(&self) {
        let ids = self.filters.iter().map(|f| f.id.clone()).collect();
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = ids;
    }

    fn cancel(&mut self) {
        for (_, reply) in self.waits.drain(..) {
            let _ = reply.send(Err(Fault::plain("RequestCanceled")));
        }
        self.alarm = None;
    }

    /// Checks the version with which a client comes; gives the last reply again to one that lost it.
    fn begin(&mut self, version: &str) -> Outcome<Option<UpdateSet>> {
        if version.is_empty() {
            self.last = None;
            for filter in &mut self.filters {
                filter.restart();
            }
            return Ok(None);
        }
        if version == self.version.to_string() {
            return Ok(None);
        }
        if self.last.is_some() && version == self.answered {
            return Ok(self.last.clone());
        }
        Err(Fault::plain("InvalidCollectorVersion"))
    }

    /// Answers the waits that can be answered, and sleeps until there may be more to say.
    fn look(&mut self, myself: &ActorRef<Message>) {
        self.waits.retain(|(_, reply)| !reply.is_closed());
        if self.waits.is_empty() {
            self.alarm = None;
            return;
        }
        if self.changed.has_changed().is_err() {
            // The inventory has gone: there will never be anything to say.
            return self.cancel();
        }
        let snapshot = self.changed.borrow_and_update().clone();
        let mut left = Vec::new();
        for (wait, reply) in std::mem::take(&mut self.waits) {
            let answer = match self.collect(&snapshot, &wait) {
                Ok(None) if !wait.is_over() => {
                    left.push((wait, reply));
                    continue;
                }
                answer => answer,
            };
            let _ = reply.send(answer);
        }
        self.waits = left;
        self.alarm = (!self.waits.is_empty()).then(|| self.set_alarm(myself));
    }

    fn set_alarm(&self, myself: &ActorRef<Message>) -> Alarm {
        let deadline = self.waits.iter().filter_map(|(w, _)| w.deadline).min();
        let (mut changed, myself) = (self.changed.clone(), myself.clone());
        let sleep = tokio::spawn(async move {
            tokio::select! {
                _ = changed.changed() => {}
                () = until(deadline) => {}
            }
            // An actor that has ended needs no waking.
            let _ = myself.send_message(Message::Look);
        });
        Alarm(sleep.abort_handle())
    }

    fn collect(&mut self, snapshot: &Arc<Snapshot>, wait: &Wait) -> Outcome<Option<UpdateSet>> {
        let mut room = wait.max;
        let mut sets = Vec::new();
        let mut truncated = false;
        for filter in &mut self.filters {
            filter.advance(snapshot, &wait.reader)?;
            let take = room.min(filter.pending.len());
            room -= take;
            if take > 0 {
                let updates: Vec<ObjectUpdate> = filter.pending.drain(..take).collect();
                sets.push(PropertyFilterUpdate {
                    filter: Moref::new("PropertyFilter", &filter.id),
                    object_set: updates,
                    ..Default::default()
                });
            }
            truncated |= !filter.pending.is_empty();
        }
        if sets.is_empty() {
            return Ok(None);
        }
        self.version += 1;
        self.answered.clone_from(&wait.version);
        let updates = UpdateSet {
            version: self.version.to_string(),
            filter_set: sets,
            truncated: truncated.then_some(true),
            ..Default::default()
        };
        self.last = Some(updates.clone());
        Ok(Some(updates))
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
