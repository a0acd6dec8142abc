//! Who collects tasks: `TaskHistoryCollector`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmomi::types::{TaskFilterSpec, TaskFilterSpecRecursionOption, TaskInfo, TaskReasonUser};

use crate::inventory::{Prop, Snapshot, Transaction};
use crate::world::World;

/// How many tasks a collector's latest page holds when the client does not say.
const PAGE: usize = 100;

/// All that collect tasks.
#[derive(Debug, Default)]
pub(crate) struct Collectors(Mutex<Vec<Collector>>);

/// One standing question for tasks.
#[derive(Debug)]
struct Collector {
    id: String,
    filter: TaskFilterSpec,
    page: usize,
    /// Number of the last task that was read.
    read: i32,
}

impl Collectors {
    fn lock(&self) -> MutexGuard<'_, Vec<Collector>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a collector whose object is there already.
    pub(crate) fn collect(
        &self,
        world: &World,
        t: &mut Transaction,
        id: String,
        filter: TaskFilterSpec,
    ) {
        self.lock().push(Collector {
            id,
            filter,
            page: PAGE,
            read: 0,
        });
        self.refresh(world, t);
    }

    /// Brings the latest pages up to date.
    pub(crate) fn refresh(&self, world: &World, t: &mut Transaction) {
        for collector in self.lock().iter() {
            let mut page = collector.tasks(world, t.snapshot());
            page.reverse();
            page.truncate(collector.page);
            t.set(&collector.id, "latestPage", page);
        }
    }

    /// Says how long the latest page may be; whether the collector is there.
    pub(crate) fn set_page(&self, world: &World, t: &mut Transaction, id: &str, n: usize) -> bool {
        let found = match self.lock().iter_mut().find(|c| c.id == id) {
            Some(collector) => {
                collector.page = n;
                true
            }
            None => false,
        };
        self.refresh(world, t);
        found
    }

    /// Reads the next tasks after those read before.
    pub(crate) fn next(&self, world: &World, id: &str, count: usize) -> Option<Vec<TaskInfo>> {
        let mut all = self.lock();
        let collector = all.iter_mut().find(|c| c.id == id)?;
        let mut tasks = collector.tasks(world, &world.inventory.now());
        tasks.retain(|info| info.event_chain_id > collector.read);
        tasks.truncate(count);
        if let Some(last) = tasks.last() {
            collector.read = last.event_chain_id;
        }
        Some(tasks)
    }

    /// Goes back to the oldest task.
    pub(crate) fn rewind(&self, id: &str) {
        if let Some(collector) = self.lock().iter_mut().find(|c| c.id == id) {
            collector.read = 0;
        }
    }

    /// Takes a collector away.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().retain(|c| c.id != id);
    }
}

impl Collector {
    /// The tasks that it takes, oldest first.
    fn tasks(&self, world: &World, snapshot: &Snapshot) -> Vec<TaskInfo> {
        let all = snapshot.children(&world.ids.task_manager, "recentTask");
        all.into_iter()
            .filter_map(|task| match task.props.get("info")? {
                Prop::Value(any) => any.as_data::<TaskInfo>(),
                Prop::Refs(_) => None,
            })
            .filter(|info| self.takes(snapshot, info))
            .cloned()
            .collect()
    }

    fn takes(&self, snapshot: &Snapshot, info: &TaskInfo) -> bool {
        let filter = &self.filter;
        let entity = filter.entity.as_ref().is_none_or(|by| {
            let Some(entity) = &info.entity else {
                return false;
            };
            let own = *entity == by.entity;
            let below = !own
                && snapshot
                    .find(&entity.value)
                    .is_some_and(|object| snapshot.lies_in(object, &by.entity.value));
            match by.recursion {
                TaskFilterSpecRecursionOption::Children => below,
                TaskFilterSpecRecursionOption::All => own || below,
                _ => own,
            }
        });
        let user = filter.user_name.as_ref().is_none_or(|by| {
            let reason = info.reason.get::<TaskReasonUser>();
            by.user_list.is_empty() || reason.is_some_and(|r| by.user_list.contains(&r.user_name))
        });
        entity && user && (filter.state.is_empty() || filter.state.contains(&info.state))
    }
}
