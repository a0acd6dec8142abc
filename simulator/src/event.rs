//! Events: what has happened to VMs, for those who ask afterwards or collect.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use vmomi::types::{
    ComputeResourceEventArgument, DatacenterEventArgument, Event, EventFilterSpec,
    HostEventArgument, VmEventArgument,
};
use vmomi::{ManagedObjectReference as Moref, Poly};

use crate::clock::now;
use crate::inventory::{Snapshot, Transaction};
use crate::world::World;

/// How many events are kept.
const KEPT: usize = 2000;
/// How many a collector's latest page holds when the client does not say.
const PAGE: usize = 100;

/// The latest events, and those who collect them.
#[derive(Debug, Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: i32,
    events: VecDeque<Poly<Event>>,
    collectors: Vec<EventCollector>,
}

/// One standing question for events.
#[derive(Clone, Debug)]
struct EventCollector {
    id: String,
    filter: EventFilterSpec,
    page: usize,
    /// Key of the last event that was read.
    read: i32,
}

/// What an event of a VM says of its place.
pub(crate) struct Place {
    vm: Option<VmEventArgument>,
    host: Option<HostEventArgument>,
    compute: Option<ComputeResourceEventArgument>,
    datacenter: Option<DatacenterEventArgument>,
}

impl Place {
    /// Describes where a VM is.
    pub(crate) fn of(world: &World, snapshot: &Snapshot, vm: &Moref, name: &str) -> Self {
        let host = snapshot
            .find(&vm.value)
            .and_then(|o| o.reference(".host"))
            .and_then(|h| snapshot.find(&h.value));
        let compute = host
            .and_then(|h| h.reference("parent"))
            .and_then(|c| snapshot.find(&c.value));
        let datacenter = world
            .datacenter_of(snapshot, &vm.value)
            .and_then(|d| snapshot.find(&d.value));
        Place {
            vm: Some(VmEventArgument {
                name: name.into(),
                vm: vm.clone(),
                ..Default::default()
            }),
            host: host.map(|o| HostEventArgument {
                name: o.text("name").unwrap_or_default().into(),
                host: o.moref.clone(),
                ..Default::default()
            }),
            compute: compute.map(|o| ComputeResourceEventArgument {
                name: o.text("name").unwrap_or_default().into(),
                compute_resource: o.moref.clone(),
                ..Default::default()
            }),
            datacenter: datacenter.map(|o| DatacenterEventArgument {
                name: o.text("name").unwrap_or_default().into(),
                datacenter: o.moref.clone(),
                ..Default::default()
            }),
        }
    }
}

impl Events {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event, in the same moment as the changes of `t`.
    pub(crate) fn post(
        &self,
        world: &World,
        t: &mut Transaction,
        place: Place,
        mut event: Poly<Event>,
        message: String,
    ) {
        let inner = &mut *self.lock();
        inner.last += 1;
        *event.key_mut() = inner.last;
        *event.chain_id_mut() = inner.last;
        *event.created_time_mut() = now();
        *event.user_name_mut() = world.config.user.clone();
        *event.datacenter_mut() = place.datacenter;
        *event.compute_resource_mut() = place.compute;
        *event.host_mut() = place.host;
        *event.vm_mut() = place.vm;
        *event.full_formatted_message_mut() = Some(message);
        t.set(&world.ids.event_manager, "latestEvent", event.clone());
        inner.events.push_back(event);
        if inner.events.len() > KEPT {
            inner.events.pop_front();
        }
        let snapshot = t.snapshot().clone();
        for collector in &inner.collectors {
            let newest = inner
                .events
                .back()
                .filter(|e| collector.takes(&snapshot, e));
            if newest.is_some() {
                let page = collector.latest(&snapshot, &inner.events);
                t.set(&collector.id, "latestPage", page);
            }
        }
    }

    /// Lists the events that a filter takes, oldest first.
    pub(crate) fn query(&self, snapshot: &Snapshot, filter: EventFilterSpec) -> Vec<Poly<Event>> {
        let asker = EventCollector {
            id: String::new(),
            filter,
            page: usize::MAX,
            read: 0,
        };
        let inner = self.lock();
        inner
            .events
            .iter()
            .filter(|e| asker.takes(snapshot, e))
            .cloned()
            .collect()
    }

    /// Adds a collector whose object is there already.
    pub(crate) fn collect(&self, t: &mut Transaction, id: String, filter: EventFilterSpec) {
        let inner = &mut *self.lock();
        let collector = EventCollector {
            id,
            filter,
            page: PAGE,
            read: 0,
        };
        let page = collector.latest(t.snapshot(), &inner.events);
        t.set(&collector.id, "latestPage", page);
        inner.collectors.push(collector);
    }

    /// Says how long the latest page may be.
    pub(crate) fn set_page(&self, t: &mut Transaction, id: &str, size: usize) -> bool {
        let inner = &mut *self.lock();
        let Some(collector) = inner.collectors.iter_mut().find(|c| c.id == id) else {
            return false;
        };
        collector.page = size;
        let page = collector.latest(t.snapshot(), &inner.events);
        t.set(id, "latestPage", page);
        true
    }

    /// Reads the next events after those read before.
    pub(crate) fn next(
        &self,
        snapshot: &Snapshot,
        id: &str,
        count: usize,
    ) -> Option<Vec<Poly<Event>>> {
        let inner = &mut *self.lock();
        let collector = inner.collectors.iter_mut().find(|c| c.id == id)?;
        let found: Vec<Poly<Event>> = inner
            .events
            .iter()
            .filter(|e| *e.key() > collector.read && collector.takes(snapshot, e))
            .take(count)
            .cloned()
            .collect();
        if let Some(last) = found.last() {
            collector.read = *last.key();
        }
        Some(found)
    }

    /// Goes back to the oldest event.
    pub(crate) fn rewind(&self, id: &str) {
        if let Some(collector) = self.lock().collectors.iter_mut().find(|c| c.id == id) {
            collector.read = 0;
        }
    }

    /// Takes a collector away.
    pub(crate) fn forget(&self, id: &str) -> bool {
        let inner = &mut *self.lock();
        let before = inner.collectors.len();
        inner.collectors.retain(|c| c.id != id);
        before != inner.collectors.len()
    }
}

impl EventCollector {
    fn takes(&self, snapshot: &Snapshot, event: &Poly<Event>) -> bool {
        let named = |name: &String| event.is_a(name);
        let types = self.filter.event_type_id.is_empty() && self.filter.r#type.is_empty()
            || self.filter.event_type_id.iter().any(|name| {
                named(name)
                    || name
                        .strip_prefix("vim.event.")
                        .is_some_and(|n| event.is_a(n))
            })
            || self.filter.r#type.iter().any(named);
        types
            && self.filter.entity.as_ref().is_none_or(|by| {
                let Some(vm) = event.vm().as_ref() else {
                    return false;
                };
                match snapshot.find(&vm.vm.value) {
                    Some(object) => snapshot.lies_in(object, &by.entity.value),
                    // A VM that is gone: its events are shown to those who ask for any container.
                    None => by.entity == vm.vm || by.entity.r#type != "VirtualMachine",
                }
            })
    }

    fn latest(&self, snapshot: &Snapshot, events: &VecDeque<Poly<Event>>) -> Vec<Poly<Event>> {
        let taken = events.iter().rev().filter(|e| self.takes(snapshot, e));
        taken.take(self.page).cloned().collect()
    }
}
