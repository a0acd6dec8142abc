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
//! Nothing ticks: a wait sleeps on the inventory's own signal.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    ObjectContent, ObjectUpdate, PropertyFilterSpec, PropertyFilterUpdate, UpdateSet,
};

use crate::fault::{Fault, Outcome};
use crate::inventory::{Inventory, Slot, Snapshot};

mod filter;
mod read;
mod selection;
#[cfg(test)]
mod tests;

pub(crate) use read::Reader;

use filter::Filter;
use selection::{Selection, walk};

/// How many updates one reply holds when the client does not say.
const DEFAULT_UPDATES: usize = 10_000;

/// Says for how long and for how much a client waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitOptions {
    /// `None`: until something changes.
    pub(crate) max_wait: Option<Duration>,
    /// `None`: as many as there are.
    pub(crate) max_updates: Option<usize>,
}

/// A page of objects that was not asked for yet.
#[derive(Debug)]
struct Page {
    snapshot: Arc<Snapshot>,
    selection: Selection,
    left: VecDeque<Slot>,
    size: usize,
}

/// One property collector of a session.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    state: Mutex<State>,
    cancel: Notify,
}

#[derive(Debug, Default)]
struct State {
    filters: Vec<Filter>,
    /// Number of the last reply; 0: nothing was reported.
    version: u64,
    /// The last reply, for the client that lost it.
    last: Option<UpdateSet>,
    /// The version that the last reply answered.
    answered: String,
    pages: HashMap<String, Page>,
    next_page: u64,
    waiting: bool,
}

/// Marks a collector as free again, also when the client's connection ends in the middle.
struct Waiting<'a>(&'a Collector);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting = false;
    }
}

impl Collector {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads objects once; returns the first page, and a token when there is more.
    pub(crate) fn retrieve(
        &self,
        snapshot: Arc<Snapshot>,
        reader: &Reader,
        specs: &[PropertyFilterSpec],
        page: Option<usize>,
    ) -> Outcome<(Vec<ObjectContent>, Option<String>)> {
        let mut content = Vec::new();
        for (i, spec) in specs.iter().enumerate() {
            let selection = Selection::compile(spec)?;
            let reach = walk(&snapshot, &selection)?;
            let size = page.unwrap_or(usize::MAX).max(1);
            let mut left: VecDeque<Slot> = reach.order.into();
            let room = if i == 0 { size } else { usize::MAX };
            for slot in left.drain(..room.min(left.len())).collect::<Vec<_>>() {
                if let Some(object) = snapshot.at(slot) {
                    content.push(reader.content(object, &selection));
                }
            }
            if !left.is_empty() {
                let mut state = self.lock();
                state.next_page += 1;
                let token = state.next_page.to_string();
                let page = Page {
                    snapshot: snapshot.clone(),
                    selection,
                    left,
                    size,
                };
                state.pages.insert(token.clone(), page);
                return Ok((content, Some(token)));
            }
        }
        Ok((content, None))
    }

    /// Reads the next page.
    pub(crate) fn continue_retrieve(
        &self,
        reader: &Reader,
        token: &str,
    ) -> Outcome<(Vec<ObjectContent>, Option<String>)> {
        let page = self.lock().pages.remove(token);
        let mut page = page.ok_or_else(|| Fault::invalid_argument("token"))?;
        let mut content = Vec::new();
        for slot in page
            .left
            .drain(..page.size.min(page.left.len()))
            .collect::<Vec<_>>()
        {
            if let Some(object) = page.snapshot.at(slot) {
                content.push(reader.content(object, &page.selection));
            }
        }
        if page.left.is_empty() {
            return Ok((content, None));
        }
        self.lock().pages.insert(token.to_owned(), page);
        Ok((content, Some(token.to_owned())))
    }

    /// Forgets the pages that are left.
    pub(crate) fn cancel_retrieve(&self, token: &str) -> Outcome<()> {
        let page = self.lock().pages.remove(token);
        page.map(drop)
            .ok_or_else(|| Fault::invalid_argument("token"))
    }

    /// Adds a filter under the moid `id`.
    pub(crate) fn create_filter(
        &self,
        snapshot: &Snapshot,
        id: String,
        spec: PropertyFilterSpec,
        partial: bool,
    ) -> Outcome<()> {
        let selection = Selection::compile(&spec)?;
        // What is wrong with the specification is said now, not at the first wait.
        walk(snapshot, &selection)?;
        self.lock()
            .filters
            .push(Filter::new(id, spec, selection, partial));
        // A wait that runs reports the new filter too.
        self.cancel.notify_waiters();
        Ok(())
    }

    /// Takes a filter away; says whether it was there.
    pub(crate) fn destroy_filter(&self, id: &str) -> bool {
        let mut state = self.lock();
        let before = state.filters.len();
        state.filters.retain(|f| f.id != id);
        before != state.filters.len()
    }

    /// Finds the specification of a filter.
    pub(crate) fn filter(&self, id: &str) -> Option<(PropertyFilterSpec, bool)> {
        let state = self.lock();
        state
            .filters
            .iter()
            .find(|f| f.id == id)
            .map(|f| (f.spec.clone(), f.partial))
    }

    /// Lists the filters.
    pub(crate) fn filters(&self) -> Vec<Moref> {
        let state = self.lock();
        state
            .filters
            .iter()
            .map(|f| Moref::new("PropertyFilter", &f.id))
            .collect()
    }

    /// Ends the wait that runs, if any, with `RequestCanceled`.
    pub(crate) fn cancel_wait(&self) {
        let mut state = self.lock();
        if state.waiting {
            state.waiting = false;
            self.cancel.notify_waiters();
        }
    }

    /// Waits for changes since `version`.
    ///
    /// `None`: nothing has changed in the time that the client gave.
    pub(crate) async fn wait(
        &self,
        inventory: &Inventory,
        reader: &Reader,
        version: &str,
        options: WaitOptions,
    ) -> Outcome<Option<UpdateSet>> {
        let deadline = options.max_wait.map(|d| Instant::now() + d);
        let mut changed = inventory.subscribe();
        self.begin(version)?;
        if let Some(again) = self.repeat(version) {
            return Ok(Some(again));
        }
        let _waiting = Waiting(self);
        loop {
            let cancelled = self.cancel.notified();
            tokio::pin!(cancelled);
            cancelled.as_mut().enable();
            let snapshot = changed.borrow_and_update().clone();
            if let Some(updates) = self.collect(&snapshot, reader, version, options.max_updates)? {
                return Ok(Some(updates));
            }
            if options.max_wait == Some(Duration::ZERO) {
                return Ok(None);
            }
            tokio::select! {
                () = &mut cancelled => {
                    if !self.lock().waiting {
                        return Err(Fault::plain("RequestCanceled"));
                    }
                }
                alive = changed.changed() => {
                    if alive.is_err() {
                        return Err(Fault::plain("RequestCanceled"));
                    }
                }
                () = until(deadline) => return Ok(None),
            }
        }
    }

    fn begin(&self, version: &str) -> Outcome<()> {
        let mut state = self.lock();
        if version.is_empty() {
            state.last = None;
            for filter in &mut state.filters {
                filter.restart();
            }
        } else if version != state.version.to_string()
            && !(state.last.is_some() && version == state.answered)
        {
            return Err(Fault::plain("InvalidCollectorVersion"));
        }
        state.waiting = true;
        Ok(())
    }

    /// The last reply again, for a client that asks with the version before it.
    fn repeat(&self, version: &str) -> Option<UpdateSet> {
        let mut state = self.lock();
        if version.is_empty() || version == state.version.to_string() {
            return None;
        }
        state.waiting = false;
        state.last.clone()
    }

    fn collect(
        &self,
        snapshot: &Arc<Snapshot>,
        reader: &Reader,
        version: &str,
        max: Option<usize>,
    ) -> Outcome<Option<UpdateSet>> {
        let state = &mut *self.lock();
        let mut room = max.unwrap_or(DEFAULT_UPDATES).max(1);
        let mut sets = Vec::new();
        let mut truncated = false;
        for filter in &mut state.filters {
            filter.advance(snapshot, reader)?;
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
        state.version += 1;
        state.answered = version.to_owned();
        let updates = UpdateSet {
            version: state.version.to_string(),
            filter_set: sets,
            truncated: truncated.then_some(true),
            ..Default::default()
        };
        state.last = Some(updates.clone());
        Ok(Some(updates))
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
