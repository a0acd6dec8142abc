//! The property collector: reads and watches properties of any objects.
//!
//! A read walks the current [`Snapshot`] once. A filter remembers the snapshot that it reported last
//! and, when it is asked again, looks only at the objects in which the current snapshot differs:
//!
//! ```text
//!            WaitForUpdatesEx("")                    commit                     reply
//! (created) ─────────────────────► walk: enter ... ─────────► diff: enter/modify/leave ─► (waits)
//! ```
//!
//! Nothing ticks: a wait sleeps on the inventory's own signal. Each collector is an actor, the single
//! writer of its filters and of what their client knows; a read that fits on one page asks none.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::RpcReplyPort;
use strategy::{Address, AskError, ChildSpec, Restart};
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{ObjectContent, PropertyFilterSpec, UpdateSet};

use crate::fault::{Fault, Outcome};
use crate::inventory::{Inventory, Slot, Snapshot};

mod filter;
mod keeper;
mod read;
mod selection;
#[cfg(test)]
mod tests;

pub(crate) use read::Reader;

use filter::Filter;
use keeper::{Keeper, Message, Wait};
use selection::{Selection, walk};

/// A client may wait for as long as it likes: a deadline that no timer minds.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Says for how long and for how much a client waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitOptions {
    /// `None`: until something changes.
    pub(crate) max_wait: Option<Duration>,
    /// `None`: as many as there are.
    pub(crate) max_updates: Option<usize>,
}

/// Objects that were not asked for yet, as they were when the first page was.
#[derive(Debug)]
struct Page {
    snapshot: Arc<Snapshot>,
    /// What is left of each specification, never empty.
    left: VecDeque<(Selection, VecDeque<Slot>)>,
    size: usize,
}

impl Page {
    /// Takes the next page.
    fn turn(&mut self, reader: &Reader) -> Vec<ObjectContent> {
        let mut content = Vec::new();
        while let Some((selection, slots)) = self.left.front_mut() {
            while content.len() < self.size
                && let Some(slot) = slots.pop_front()
            {
                if let Some(object) = self.snapshot.at(slot) {
                    content.push(reader.content(object, selection));
                }
            }
            if !slots.is_empty() {
                break;
            }
            self.left.pop_front();
        }
        content
    }
}

/// The moids of a collector's filters, for those who look something up.
type Published = Arc<RwLock<Vec<String>>>;

/// One property collector of a session, as others know it.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    moref: Moref,
    address: Address<Message>,
    filters: Published,
}

impl Collector {
    /// Describes a collector; its actor is started from [`child`](Self::child).
    pub(crate) fn new(moref: Moref) -> Self {
        Collector {
            moref,
            address: Address::default(),
            filters: Published::default(),
        }
    }

    /// The actor. One that is started again has no filters and no version.
    pub(crate) fn child(&self, restart: Restart, inventory: &Inventory) -> ChildSpec {
        let (changed, filters) = (inventory.subscribe(), self.filters.clone());
        ChildSpec::new(
            self.moref.value.clone(),
            restart,
            self.address.clone(),
            move || (Keeper, (changed.clone(), filters.clone())),
        )
        .kind("collector")
    }

    /// A collector without a session.
    #[cfg(test)]
    async fn alone(inventory: &Inventory) -> Self {
        let collector = Collector::new(Moref::new("PropertyCollector", "alone"));
        let args = (inventory.subscribe(), collector.filters.clone());
        let (actor, _) = ractor::Actor::spawn(None, Keeper, args)
            .await
            .expect("starts");
        collector.address.set(actor);
        collector
    }

    /// Says whether its actor runs.
    pub(crate) fn is_there(&self) -> bool {
        self.address.get().is_some()
    }

    /// Its session has ended: whoever asks it from now on is told so.
    pub(crate) fn close(&self) {
        self.address.close();
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(RpcReplyPort<T>) -> Message,
    ) -> Outcome<T> {
        let answer = self.address.ask(FOREVER, question).await;
        answer.map_err(|error| match error {
            AskError::Gone => Fault::not_found(&self.moref),
            AskError::Interrupted | AskError::Deadline => Fault::plain("RequestCanceled"),
        })
    }

    /// Reads objects once; returns the first page, and a token when there is more.
    pub(crate) async fn retrieve(
        &self,
        snapshot: Arc<Snapshot>,
        reader: &Reader,
        specs: &[PropertyFilterSpec],
        page: Option<usize>,
    ) -> Outcome<(Vec<ObjectContent>, Option<String>)> {
        let mut left = VecDeque::new();
        for spec in specs {
            let selection = Selection::compile(spec)?;
            let reach = walk(&snapshot, &selection)?;
            left.push_back((selection, reach.order.into()));
        }
        let mut page = Page {
            snapshot,
            left,
            size: page.unwrap_or(usize::MAX).max(1),
        };
        let content = page.turn(reader);
        Ok((content, self.keep(page).await?))
    }

    /// Reads the next page.
    pub(crate) async fn continue_retrieve(
        &self,
        reader: &Reader,
        token: &str,
    ) -> Outcome<(Vec<ObjectContent>, Option<String>)> {
        let mut page = *self.take(token).await?;
        let content = page.turn(reader);
        Ok((content, self.keep(page).await?))
    }

    /// Forgets the pages that are left.
    pub(crate) async fn cancel_retrieve(&self, token: &str) -> Outcome<()> {
        self.take(token).await.map(drop)
    }

    /// Keeps what is left for the client that comes with the token.
    async fn keep(&self, page: Page) -> Outcome<Option<String>> {
        if page.left.is_empty() {
            return Ok(None);
        }
        let page = Box::new(page);
        self.ask(|reply| Message::KeepPage(page, reply))
            .await
            .map(Some)
    }

    async fn take(&self, token: &str) -> Outcome<Box<Page>> {
        let token = token.to_owned();
        let page = self.ask(|reply| Message::TakePage(token, reply)).await?;
        page.ok_or_else(|| Fault::invalid_argument("token"))
    }

    /// Adds a filter under the moid `id`.
    pub(crate) async fn create_filter(
        &self,
        snapshot: &Snapshot,
        id: String,
        spec: &PropertyFilterSpec,
    ) -> Outcome<()> {
        let selection = Selection::compile(spec)?;
        // What is wrong with the specification is said now, not at the first wait.
        walk(snapshot, &selection)?;
        let filter = Box::new(Filter::new(id, selection));
        self.ask(|reply| Message::CreateFilter(filter, reply)).await
    }

    /// Takes a filter away; says whether it was there.
    pub(crate) async fn destroy_filter(&self, id: &str) -> Outcome<bool> {
        let id = id.to_owned();
        self.ask(|reply| Message::DestroyFilter(id, reply)).await
    }

    /// Says whether it has this filter.
    pub(crate) fn has_filter(&self, id: &str) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.iter().any(|f| f == id)
    }

    /// Lists the filters.
    pub(crate) fn filters(&self) -> Vec<Moref> {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters
            .iter()
            .map(|id| Moref::new("PropertyFilter", id))
            .collect()
    }

    /// Ends the wait that runs, if any, with `RequestCanceled`.
    pub(crate) fn cancel_wait(&self) {
        // An actor that is not there has no wait.
        self.address.tell(Message::CancelWait);
    }

    /// Waits for changes since `version`.
    ///
    /// `None`: nothing has changed in the time that the client gave.
    pub(crate) async fn wait(
        &self,
        reader: Reader,
        version: &str,
        options: WaitOptions,
    ) -> Outcome<Option<UpdateSet>> {
        let wait = Box::new(Wait::new(reader, version, options));
        self.ask(|reply| Message::Wait(wait, reply)).await?
    }
}
