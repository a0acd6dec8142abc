//! One standing `WaitForUpdatesEx` per session: changes for all who watch, and the ends of tasks.
//!
//! ```text
//!   begin: a collector of its own, a list view for tasks, a filter over that
//!     │
//!     ▼                    update: to its filter's reader, or to the task's waiters
//!   waiting ◄──────────────────────────────────────────────────────────────┐
//!     │  ▲                                                                 │
//!     │  └── nothing new in `Config::wait`, connection lost: same version ─┤
//!     ▼                                                                    │
//!   collector gone (new session, server restarted)                         │
//!     └─ begin again: all filters anew (their readers get a fresh state), all waited-for tasks listed again
//! ```
//! A crash of the waiting task loses nothing but time: everything is on the server, and the next
//! wait begins from the full state.
//!
//! Awaiting a task costs one `ModifyListView`, which also takes the finished ones off the list, and
//! which those who begin to wait while another is under way share.

mod driver;
mod state;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::client::{Aborted, Error, Session};
use crate::scalar::ManagedObjectReference;
use crate::types::{MissingObject, ObjectUpdate, PropertyFilterSpec, TaskInfo};
use state::{Command, Shared};

/// The standing wait of a session.
pub struct Watch {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    _waiting: Aborted,
    _listing: Aborted,
}

/// Changes that one filter has seen, in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The objects that entered the filter, changed or left it.
    pub objects: Vec<ObjectUpdate>,
    /// The objects that the filter names and that are not there.
    pub missing: Vec<MissingObject>,
    /// Whether the full state begins here: whatever was known before is to be forgotten.
    pub fresh: bool,
    /// Whether the state is consistent after this batch; if not, more of it follows at once.
    pub complete: bool,
}

/// A filter on the standing wait; it ends when this is dropped.
///
/// Batches wait without limit for their reader, so that a slow one holds up nobody else.
pub struct Filter {
    id: u64,
    batches: mpsc::UnboundedReceiver<Batch>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Filter {
    /// The next batch, or nothing when the watch has ended.
    ///
    /// # Cancel safety
    /// No batch is lost when the wait is dropped.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // The watch may be gone already, and its filters with it.
        let _ = self.commands.send(Command::Drop(self.id));
    }
}

impl Watch {
    /// Begins to wait.
    pub(crate) async fn begin(session: Arc<Session>) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(session));
        shared.build().await?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let waiting = tokio::spawn(driver::wait(shared.clone()));
        let listing = tokio::spawn(driver::list(shared.clone(), inbox));
        Ok(Self {
            shared,
            commands,
            _waiting: Aborted(waiting.abort_handle()),
            _listing: Aborted(listing.abort_handle()),
        })
    }

    /// Adds a filter; its first batch holds the full state.
    ///
    /// # Errors
    /// When the server refuses the filter.
    pub async fn filter(&self, spec: PropertyFilterSpec) -> Result<Filter, Error> {
        let (sender, batches) = mpsc::unbounded_channel();
        let id = self.shared.add_filter(spec, sender).await?;
        Ok(Filter {
            id,
            batches,
            commands: self.commands.clone(),
        })
    }

    /// Waits until a task has ended.
    ///
    /// Of the task's information, its state, name, entity, result and error are there.
    ///
    /// # Errors
    /// When the task fails, or its outcome cannot be learnt.
    ///
    /// # Cancel safety
    /// Dropping the wait leaves the task running.
    pub async fn task(&self, task: &ManagedObjectReference) -> Result<TaskInfo, Error> {
        let (sender, outcome) = oneshot::channel();
        if self.shared.expect(task, sender) {
            let _ = self.commands.send(Command::List);
        }
        let lost = |reason: &str| Error::TaskLost {
            task: task.clone(),
            reason: reason.to_owned(),
        };
        let info = outcome
            .await
            .map_err(|_| lost("the watch has ended"))?
            .map_err(|reason| lost(&reason))?;
        match &info.error {
            Some(error) if info.state == crate::types::TaskInfoState::Error => Err(Error::Task {
                name: info.name.clone().unwrap_or_else(|| "the task".into()),
                task: task.clone(),
                fault: Box::new(error.clone().into()),
            }),
            None if info.state == crate::types::TaskInfoState::Error => {
                Err(lost("it failed without a fault"))
            }
            _ => Ok(info),
        }
    }
}
