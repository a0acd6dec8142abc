//! What the standing wait knows: the collector, the filters and their readers, the tasks and their waiters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::Batch;
use crate::any::Any;
use crate::client::{Error, Session, view_spec};
use crate::path;
use crate::scalar::ManagedObjectReference;
use crate::types::{
    CreateFilterRequest, CreateListViewRequest, CreatePropertyCollectorRequest,
    DestroyPropertyFilterRequest, ModifyListViewRequest, ObjectUpdate, ObjectUpdateKind,
    PropertyFilterSpec, TaskInfo, TaskInfoState, UpdateSet,
};

/// What of a task is watched: enough to tell how it ended, and little to send.
const TASK_PATHS: &[&str] = &[
    "info.state",
    "info.result",
    "info.error",
    "info.name",
    "info.entity",
];

/// Something to do besides waiting.
pub(super) enum Command {
    /// There are tasks to put on the list.
    List,
    /// A filter has lost its reader.
    Drop(u64),
}

/// How a task ended, or why that cannot be learnt.
pub(super) type Outcome = Result<TaskInfo, String>;

struct Awaited {
    task: ManagedObjectReference,
    info: TaskInfo,
    waiters: Vec<oneshot::Sender<Outcome>>,
    listed: bool,
}

struct Reader {
    spec: PropertyFilterSpec,
    batches: mpsc::UnboundedSender<Batch>,
    handle: Option<ManagedObjectReference>,
    fresh: bool,
    incomplete: bool,
}

#[derive(Default)]
struct State {
    collector: ManagedObjectReference,
    list: ManagedObjectReference,
    /// The filter over the list.
    task_filter: String,
    tasks: HashMap<String, Awaited>,
    finished: Vec<ManagedObjectReference>,
    next: u64,
    readers: HashMap<u64, Reader>,
    handles: HashMap<String, u64>,
    /// Updates of a filter whose creation has not been answered yet.
    early: HashMap<String, Vec<Batch>>,
    creating: usize,
    /// Somebody has found that the collector or the list is not there any more.
    gone: bool,
}

/// What the waiting, the listing and the users of a watch share.
pub(super) struct Shared {
    pub(super) session: Arc<Session>,
    state: Mutex<State>,
    /// Held while the collector is built, and while somebody adds to it.
    building: tokio::sync::Mutex<()>,
    /// Told when somebody finds that the collector is gone, while the wait on it still stands.
    pub(super) gone: tokio::sync::Notify,
}

impl Shared {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            state: Mutex::default(),
            building: tokio::sync::Mutex::new(()),
            gone: tokio::sync::Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has found the collector gone and it has not been made anew since.
    pub(super) fn is_gone(&self) -> bool {
        self.state().gone
    }

    pub(super) fn collector(&self) -> ManagedObjectReference {
        self.state().collector.clone()
    }

    /// Makes the collector, the list of tasks and all filters, anew if need be.
    pub(super) async fn build(&self) -> Result<(), Error> {
        let _building = self.building.lock().await;
        let session = &self.session;
        let content = session.content();
        let Some(views) = &content.view_manager else {
            return Err(session.unexpected("the service content", "there is no view manager"));
        };
        let collector = session
            .invoke(
                &content.property_collector,
                CreatePropertyCollectorRequest {},
            )
            .await?;
        let list = session
            .invoke(views, CreateListViewRequest::default())
            .await?;
        let spec = view_spec(&list, &["Task"], TASK_PATHS);
        let filter = session
            .invoke(
                &collector,
                CreateFilterRequest {
                    spec,
                    partial_updates: false,
                },
            )
            .await?;
        let specs: Vec<(u64, PropertyFilterSpec)> = {
            let mut state = self.state();
            state.collector = collector.clone();
            state.gone = false;
            state.list = list;
            state.task_filter = filter.value;
            state.handles.clear();
            state.early.clear();
            state.finished.clear();
            state.tasks.values_mut().for_each(|t| t.listed = false);
            state
                .readers
                .iter()
                .map(|(id, reader)| (*id, reader.spec.clone()))
                .collect()
        };
        for (id, spec) in specs {
            match session
                .invoke(
                    &collector,
                    CreateFilterRequest {
                        spec,
                        partial_updates: false,
                    },
                )
                .await
            {
                Ok(handle) => self.state().created(id, handle),
                Err(error) if error.fault().is_some() => {
                    // What it named is gone: its reader sees the end.
                    tracing::warn!(%error, "a filter cannot be made again");
                    self.state().readers.remove(&id);
                }
                Err(error) => return Err(error),
            }
        }
        drop(_building);
        self.list().await;
        Ok(())
    }

    pub(super) async fn add_filter(
        &self,
        spec: PropertyFilterSpec,
        batches: mpsc::UnboundedSender<Batch>,
    ) -> Result<u64, Error> {
        let _building = self.building.lock().await;
        let (collector, id) = {
            let mut state = self.state();
            state.creating += 1;
            state.next += 1;
            let id = state.next;
            (state.collector.clone(), id)
        };
        let request = CreateFilterRequest {
            spec: spec.clone(),
            partial_updates: false,
        };
        let created = self.session.invoke(&collector, request).await;
        let mut state = self.state();
        state.creating -= 1;
        let handle = match created {
            Ok(handle) => Some(handle),
            // It went with its session: the filter is made when the collector is, anew.
            Err(error) if not_found(&error).as_ref() == Some(&collector) => {
                state.gone = true;
                self.gone.notify_one();
                None
            }
            Err(error) => return Err(error),
        };
        state.readers.insert(
            id,
            Reader {
                spec,
                batches,
                handle: None,
                fresh: true,
                incomplete: true,
            },
        );
        if let Some(handle) = handle {
            state.created(id, handle);
        }
        Ok(id)
    }

    pub(super) async fn drop_filter(&self, id: u64) {
        let handle = {
            let mut state = self.state();
            let handle = state.readers.remove(&id).and_then(|reader| reader.handle);
            if let Some(handle) = &handle {
                state.handles.remove(&handle.value);
            }
            handle
        };
        if let Some(handle) = handle
            && let Err(error) = self
                .session
                .invoke(&handle, DestroyPropertyFilterRequest {})
                .await
        {
            tracing::debug!(%error, "a filter that nobody reads stays behind");
        }
    }

    /// Notes that somebody waits for a task; whether the task has to be listed for that.
    pub(super) fn expect(
        &self,
        task: &ManagedObjectReference,
        waiter: oneshot::Sender<Outcome>,
    ) -> bool {
        let mut state = self.state();
        let awaited = state
            .tasks
            .entry(task.value.clone())
            .or_insert_with(|| Awaited {
                task: task.clone(),
                info: TaskInfo {
                    task: task.clone(),
                    key: task.value.clone(),
                    ..Default::default()
                },
                waiters: Vec::new(),
                listed: false,
            });
        awaited.waiters.push(waiter);
        !awaited.listed
    }

    /// Puts the tasks that are waited for on the list, and takes the finished ones off.
    pub(super) async fn list(&self) {
        let _building = self.building.lock().await;
        let mut attempt = 0;
        loop {
            let (list, add, remove) = {
                let mut state = self.state();
                let add: Vec<_> = state
                    .tasks
                    .values_mut()
                    .filter(|t| !t.listed)
                    .map(Awaited::list)
                    .collect();
                if add.is_empty() {
                    return;
                }
                (state.list.clone(), add, std::mem::take(&mut state.finished))
            };
            let request = ModifyListViewRequest {
                add: add.clone(),
                remove,
            };
            match self.session.invoke(&list, request).await {
                Ok(unresolved) => {
                    let mut state = self.state();
                    for task in unresolved {
                        state.lose(&task, "the server does not know the task");
                    }
                }
                // Listing twice what is on the list does no harm, and losing sight of a task does.
                Err(error) if error.is_retryable() && self.pause(&mut attempt).await => {
                    self.unlist(&add);
                }
                Err(error) => {
                    if !self.list_failed(&list, &add, &error) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits before another attempt; false when there were enough.
    async fn pause(&self, attempt: &mut u32) -> bool {
        *attempt += 1;
        match self.session.retry().pause(*attempt) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }

    fn unlist(&self, tasks: &[ManagedObjectReference]) {
        let mut state = self.state();
        for task in tasks {
            if let Some(awaited) = state.tasks.get_mut(&task.value) {
                awaited.listed = false;
            }
        }
    }

    /// Says to those concerned that the list could not be changed; whether to try with the rest.
    fn list_failed(
        &self,
        list: &ManagedObjectReference,
        add: &[ManagedObjectReference],
        error: &Error,
    ) -> bool {
        let gone = not_found(error);
        self.unlist(add);
        let mut state = self.state();
        match gone {
            // The view went with its session: the waiting builds it anew.
            Some(gone) if gone == *list => {
                state.gone = true;
                self.gone.notify_one();
                false
            }
            Some(gone) => {
                state.lose(&gone, "the server does not know the task");
                true
            }
            None => {
                for task in add {
                    state.lose(task, &error.to_string());
                }
                false
            }
        }
    }

    /// Hands an update to those whom it concerns.
    pub(super) fn dispatch(&self, set: UpdateSet) {
        let complete = !set.truncated.unwrap_or(false);
        let mut state = self.state();
        for update in set.filter_set {
            let handle = update.filter.value;
            let batch = Batch {
                objects: update.object_set,
                missing: update.missing_set,
                fresh: false,
                complete,
            };
            if let Some(id) = state.handles.get(&handle).copied() {
                state.deliver(id, batch);
            } else if handle == state.task_filter {
                for object in batch.objects {
                    state.task_changed(object);
                }
            } else if state.creating > 0 {
                state.early.entry(handle).or_default().push(batch);
            }
        }
        if complete {
            let behind: Vec<u64> = state
                .readers
                .iter()
                .filter(|(_, r)| r.incomplete && !r.fresh)
                .map(|(id, _)| *id)
                .collect();
            for id in behind {
                state.deliver(
                    id,
                    Batch {
                        complete: true,
                        ..Default::default()
                    },
                );
            }
        }
    }
}

/// The object that the server does not know, when that is the error.
fn not_found(error: &Error) -> Option<ManagedObjectReference> {
    Some(
        error
            .fault()?
            .get::<crate::types::ManagedObjectNotFound>()?
            .obj
            .clone(),
    )
}

impl Awaited {
    fn list(&mut self) -> ManagedObjectReference {
        self.listed = true;
        self.task.clone()
    }
}

impl State {
    fn created(&mut self, id: u64, handle: ManagedObjectReference) {
        let early = self.early.remove(&handle.value).unwrap_or_default();
        self.handles.insert(handle.value.clone(), id);
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.handle = Some(handle);
            reader.fresh = true;
            reader.incomplete = true;
        }
        for batch in early {
            self.deliver(id, batch);
        }
        if self.creating == 0 {
            self.early.clear();
        }
    }

    fn deliver(&mut self, id: u64, mut batch: Batch) {
        if let Some(reader) = self.readers.get_mut(&id) {
            batch.fresh = std::mem::take(&mut reader.fresh);
            reader.incomplete = !batch.complete;
            // A reader that has just gone away drops its filter itself.
            let _ = reader.batches.send(batch);
        }
    }

    fn task_changed(&mut self, object: ObjectUpdate) {
        let Some(awaited) = self.tasks.get_mut(&object.obj.value) else {
            return;
        };
        if object.kind == ObjectUpdateKind::Leave {
            // Off the list, by us or because the server forgot it.
            self.lose(&object.obj, "the server has forgotten the task");
            return;
        }
        for change in object.change_set {
            match (change.name.as_str(), change.val) {
                ("info", Some(Any::Data(info))) => {
                    if let Some(info) = info.get::<TaskInfo>() {
                        awaited.info = info.clone();
                    }
                }
                (name, value) => {
                    if let Some(name) = name.strip_prefix("info.") {
                        // A part that we do not know says nothing about how the task ended.
                        let _ = path::set(&mut awaited.info, name, value);
                    }
                }
            }
        }
        if matches!(
            awaited.info.state,
            TaskInfoState::Success | TaskInfoState::Error
        ) && let Some(awaited) = self.tasks.remove(&object.obj.value)
        {
            self.finished.push(awaited.task);
            for waiter in awaited.waiters {
                // Who has stopped waiting does not mind.
                let _ = waiter.send(Ok(awaited.info.clone()));
            }
        }
    }

    fn lose(&mut self, task: &ManagedObjectReference, reason: &str) {
        if let Some(awaited) = self.tasks.remove(&task.value) {
            for waiter in awaited.waiters {
                let _ = waiter.send(Err(reason.to_owned()));
            }
        }
    }
}
