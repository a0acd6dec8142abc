//! The inventory: every managed object, as immutable versioned snapshots.
//!
//! Writers [`commit`](Inventory::commit) one transaction at a time; each makes a new [`Snapshot`]
//! that shares all that did not change with the last. Readers take the current snapshot and ask
//! nobody. Who waits for changes is woken by the commit, and compares its old snapshot with the new
//! one at the cost of the difference.
//!
//! Long lists of references (the children of a folder, the VMs of a host) are trees of their own, so
//! that the ten-thousandth VM costs as much as the first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use vmomi::{Any, ManagedObjectReference as Moref};

pub(crate) mod class;
pub(crate) mod tree;

pub(crate) use tree::{Slot, Tree};

/// The value of one property.
#[derive(Clone, Debug)]
pub(crate) enum Prop {
    /// A value as the API shows it.
    Value(Arc<Any>),
    /// References to other objects, by their slots.
    Refs(Tree<Moref>),
}

impl Prop {
    /// Makes a property of a value.
    pub(crate) fn value(value: impl Into<Any>) -> Self {
        Prop::Value(Arc::new(value.into()))
    }

    /// Says whether the two are one and the same; "no" may be wrong for equal values.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Prop::Value(a), Prop::Value(b)) => Arc::ptr_eq(a, b),
            (Prop::Refs(a), Prop::Refs(b)) => a.same(b),
            _ => false,
        }
    }

    /// The value as the API shows it.
    pub(crate) fn to_any(&self) -> Any {
        match self {
            Prop::Value(value) => value.as_ref().clone(),
            Prop::Refs(refs) => {
                let mut list = Vec::with_capacity(refs.len());
                refs.for_each(&mut |_, moref| list.push(moref.clone()));
                Any::from(list)
            }
        }
    }
}

/// One managed object at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Its number in the trees.
    pub(crate) slot: Slot,
    /// Its reference.
    pub(crate) moref: Moref,
    /// The properties that are set.
    pub(crate) props: BTreeMap<&'static str, Prop>,
}

impl Object {
    /// Reads a property that holds a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.props.get(name)? {
            Prop::Value(value) => value.as_str(),
            Prop::Refs(_) => None,
        }
    }

    /// Reads a property that holds one reference.
    pub(crate) fn reference(&self, name: &str) -> Option<&Moref> {
        match self.props.get(name)? {
            Prop::Value(value) => value.as_reference(),
            Prop::Refs(_) => None,
        }
    }

    /// Reads a property that holds references, as a tree.
    pub(crate) fn refs(&self, name: &str) -> Option<&Tree<Moref>> {
        match self.props.get(name)? {
            Prop::Refs(refs) => Some(refs),
            Prop::Value(_) => None,
        }
    }
}

type Ids = Arc<RwLock<HashMap<String, Slot>>>;

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The objects by slot.
    pub(crate) objects: Tree<Arc<Object>>,
    ids: Ids,
}

impl Snapshot {
    /// Finds an object by its moid.
    pub(crate) fn find(&self, moid: &str) -> Option<&Arc<Object>> {
        let slot = *self
            .ids
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(moid)?;
        self.objects.get(slot)
    }

    /// Finds an object by its slot.
    pub(crate) fn at(&self, slot: Slot) -> Option<&Arc<Object>> {
        self.objects.get(slot)
    }

    /// Lists the objects that `moid` refers to by the property `name`.
    pub(crate) fn children<'a>(&'a self, moid: &str, name: &str) -> Vec<&'a Arc<Object>> {
        let mut found = Vec::new();
        if let Some(refs) = self.find(moid).and_then(|o| o.refs(name)) {
            refs.for_each(&mut |slot, _| found.extend(self.at(slot)));
        }
        found
    }

    /// Finds a child by its name.
    pub(crate) fn child(&self, moid: &str, name: &str, child: &str) -> Option<&Arc<Object>> {
        self.children(moid, name)
            .into_iter()
            .find(|o| o.text("name") == Some(child))
    }

    /// Lists an entity and what it lies in, from the inside out; a VM lies in its pool and on its
    /// host too.
    pub(crate) fn lies_in(&self, object: &Object, container: &str) -> bool {
        if object.moref.value == container {
            return true;
        }
        let up = |name: &str| {
            object
                .reference(name)
                .and_then(|parent| self.find(&parent.value))
                .is_some_and(|parent| self.lies_in(parent, container))
        };
        up("parent")
            || (object.moref.r#type == "VirtualMachine"
                && (up("resourcePool") || {
                    // `runtime.host`, kept apart so that nobody has to take `runtime` to pieces.
                    up(".host")
                }))
    }
}

/// A live set of the entities below a container.
#[derive(Clone, Debug)]
pub(crate) struct ViewDefinition {
    /// The view's own moid.
    pub(crate) view: String,
    /// The container's moid.
    pub(crate) container: String,
    /// Types to show, base types included; empty: all.
    pub(crate) types: Vec<String>,
    /// Whether it looks below the container's own children.
    pub(crate) recursive: bool,
}

impl ViewDefinition {
    fn shows(&self, snapshot: &Snapshot, object: &Object) -> bool {
        let r#type = object.moref.r#type.as_str();
        if !class::is_entity(r#type) || object.moref.value == self.container {
            return false;
        }
        if !self.types.is_empty() && !self.types.iter().any(|t| class::is_a(r#type, t)) {
            return false;
        }
        if self.recursive {
            return snapshot.lies_in(object, &self.container);
        }
        let parent = object
            .reference("parent")
            .is_some_and(|p| p.value == self.container);
        parent
            || ["resourcePool", ".host"].iter().any(|name| {
                r#type == "VirtualMachine"
                    && object
                        .reference(name)
                        .is_some_and(|p| p.value == self.container)
            })
    }
}

#[derive(Debug)]
struct Head {
    snapshot: Snapshot,
    next: Slot,
    views: Vec<ViewDefinition>,
}

/// The store of all managed objects.
#[derive(Debug)]
pub(crate) struct Inventory {
    head: Mutex<Head>,
    changed: watch::Sender<Arc<Snapshot>>,
}

impl Default for Inventory {
    fn default() -> Self {
        let snapshot = Snapshot {
            objects: Tree::default(),
            ids: Ids::default(),
        };
        let changed = watch::Sender::new(Arc::new(snapshot.clone()));
        Inventory {
            head: Mutex::new(Head {
                snapshot,
                next: 0,
                views: Vec::new(),
            }),
            changed,
        }
    }
}

impl Inventory {
    /// The current snapshot.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        self.changed.borrow().clone()
    }

    /// A receiver that is woken by each commit.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changed.subscribe()
    }

    /// Makes changes that are seen all at once; nobody is woken when nothing has changed.
    pub(crate) fn commit<R>(&self, change: impl FnOnce(&mut Transaction) -> R) -> R {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction {
            snapshot: head.snapshot.clone(),
            next: head.next,
            entities: Vec::new(),
            removed: Vec::new(),
            views: None,
        };
        let result = change(&mut transaction);
        transaction.update_views(&mut head.views);
        let Transaction {
            snapshot,
            next,
            removed,
            ..
        } = transaction;
        let same = snapshot.objects.same(&head.snapshot.objects);
        head.snapshot = snapshot;
        head.next = next;
        if !same {
            self.changed.send_replace(Arc::new(head.snapshot.clone()));
        }
        if !removed.is_empty() {
            let mut ids = head
                .snapshot
                .ids
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for moid in removed {
                ids.remove(&moid);
            }
        }
        result
    }
}

/// Changes on their way into the inventory.
pub(crate) struct Transaction {
    snapshot: Snapshot,
    next: Slot,
    /// Entities that are new, have moved, or are gone.
    entities: Vec<Slot>,
    removed: Vec<String>,
    views: Option<Vec<ViewDefinition>>,
}

impl Transaction {
    /// The inventory as this transaction leaves it so far.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Adds an object.
    pub(crate) fn create(&mut self, moref: Moref, props: Vec<(&'static str, Prop)>) -> Moref {
        let slot = self.next;
        self.next += 1;
        self.snapshot
            .ids
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(moref.value.clone(), slot);
        if class::is_entity(&moref.r#type) {
            self.entities.push(slot);
        }
        let object = Object {
            slot,
            moref: moref.clone(),
            props: props.into_iter().collect(),
        };
        self.snapshot.objects.insert(slot, Arc::new(object));
        moref
    }

    /// Takes an object away; lists that refer to it are the caller's.
    pub(crate) fn remove(&mut self, moid: &str) {
        let Some(slot) = self.snapshot.find(moid).map(|o| o.slot) else {
            return;
        };
        self.entities.push(slot);
        self.snapshot.objects.remove(slot);
        self.removed.push(moid.to_owned());
    }

    fn change(&mut self, moid: &str, f: impl FnOnce(&mut Object)) {
        let Some(object) = self.snapshot.find(moid) else {
            return;
        };
        let mut object = object.clone();
        let slot = object.slot;
        f(Arc::make_mut(&mut object));
        self.snapshot.objects.insert(slot, object);
    }

    /// Sets a property; an equal value is no change.
    pub(crate) fn set(&mut self, moid: &str, name: &'static str, value: impl Into<Any>) {
        let value = value.into();
        let Some(object) = self.snapshot.find(moid) else {
            return;
        };
        if let Some(Prop::Value(old)) = object.props.get(name)
            && **old == value
        {
            return;
        }
        let slot = object.slot;
        if matches!(name, "parent" | "resourcePool" | ".host") {
            self.entities.push(slot);
        }
        self.change(moid, |object| {
            object.props.insert(name, Prop::value(value));
        });
    }

    /// Adds `target` to the references of a property.
    pub(crate) fn add_ref(&mut self, moid: &str, name: &'static str, target: &Moref) {
        let Some(slot) = self.snapshot.find(&target.value).map(|o| o.slot) else {
            return;
        };
        self.change_refs(moid, name, |refs| {
            refs.insert(slot, target.clone());
        });
    }

    /// Takes the object `target` (a moid, still there) from the references of a property.
    pub(crate) fn remove_ref(&mut self, moid: &str, name: &'static str, target: &str) {
        let Some(slot) = self.snapshot.find(target).map(|o| o.slot) else {
            return;
        };
        self.change_refs(moid, name, |refs| {
            refs.remove(slot);
        });
    }

    fn change_refs(&mut self, moid: &str, name: &'static str, f: impl FnOnce(&mut Tree<Moref>)) {
        self.change(moid, |object| {
            let refs = object
                .props
                .entry(name)
                .or_insert_with(|| Prop::Refs(Tree::default()));
            if let Prop::Refs(refs) = refs {
                f(refs);
            }
        });
    }

    /// Makes a live view.
    pub(crate) fn add_view(&mut self, view: ViewDefinition) {
        let mut shown = Tree::default();
        let snapshot = &self.snapshot;
        snapshot.objects.for_each(&mut |slot, object| {
            if view.shows(snapshot, object) {
                shown.insert(slot, object.moref.clone());
            }
        });
        let id = view.view.clone();
        self.change(&id, |object| {
            object.props.insert("view", Prop::Refs(shown));
        });
        self.views.get_or_insert_default().push(view);
    }

    fn update_views(&mut self, views: &mut Vec<ViewDefinition>) {
        let entities = std::mem::take(&mut self.entities);
        if !self.removed.is_empty() {
            views.retain(|v| !self.removed.contains(&v.view));
        }
        for view in views.iter() {
            for slot in &entities {
                let shown = match self.snapshot.at(*slot) {
                    Some(object) if view.shows(&self.snapshot, object) => {
                        Some(object.moref.clone())
                    }
                    _ => None,
                };
                let known = self
                    .snapshot
                    .find(&view.view)
                    .and_then(|o| o.refs("view"))
                    .is_some_and(|refs| refs.get(*slot).is_some());
                if shown.is_some() != known {
                    self.change_refs(&view.view, "view", |refs| match shown {
                        Some(moref) => drop(refs.insert(*slot, moref)),
                        None => drop(refs.remove(*slot)),
                    });
                }
            }
        }
        views.extend(self.views.take().unwrap_or_default());
    }
}
