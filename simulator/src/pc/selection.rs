//! Which objects a specification reaches, and which properties it wants of them.

use std::collections::{HashMap, HashSet};

use vmomi::types::{PropertyFilterSpec, SelectionSpec, TraversalSpec};
use vmomi::{ManagedObjectReference as Moref, Poly};

use super::read::{Path, references};
use crate::fault::{Fault, Outcome};
use crate::inventory::{Object, Slot, Snapshot, class};

/// Number of a [`Selector`] in its [`Selection`].
pub(super) type SelectorId = usize;

/// One traversal step.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    pub(super) r#type: String,
    pub(super) path: Path,
    pub(super) skip: bool,
    pub(super) next: Vec<SelectorId>,
}

/// The properties wanted of the objects of one type.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) r#type: String,
    pub(super) all: bool,
    pub(super) paths: Vec<Path>,
}

/// Where a walk begins.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) object: Moref,
    pub(super) skip: bool,
    pub(super) next: Vec<SelectorId>,
}

/// A specification whose names are resolved.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) wanted: Vec<Wanted>,
    pub(super) starts: Vec<Start>,
    pub(super) selectors: Vec<Selector>,
    pub(super) report_missing: bool,
}

impl Selection {
    /// Resolves a specification.
    pub(super) fn compile(spec: &PropertyFilterSpec) -> Outcome<Self> {
        let mut selection = Selection {
            wanted: Vec::new(),
            starts: Vec::new(),
            selectors: Vec::new(),
            report_missing: spec.report_missing_objects_in_results.unwrap_or(false),
        };
        for set in &spec.prop_set {
            if !class::exists(&set.r#type) {
                return Err(Fault::invalid_argument("propSet.type"));
            }
            let all = set.all.unwrap_or(false);
            let mut paths = Vec::new();
            for path in if all { &[][..] } else { &set.path_set[..] } {
                paths.push(Path::parse(&set.r#type, path)?);
            }
            selection.wanted.push(Wanted {
                r#type: set.r#type.clone(),
                all,
                paths,
            });
        }
        for set in &spec.object_set {
            let mut names = HashMap::new();
            let mut todo = Vec::new();
            let next = selection.compile_set(&set.select_set, &mut names, &mut todo)?;
            let mut start = Start {
                object: set.obj.clone(),
                skip: set.skip == Some(true),
                next,
            };
            for (owner, name) in todo {
                let target = *names
                    .get(&name)
                    .ok_or_else(|| Fault::invalid_argument("selectSet.name"))?;
                match owner {
                    Some(owner) => selection.selectors[owner].next.push(target),
                    None => start.next.push(target),
                }
            }
            selection.starts.push(start);
        }
        Ok(selection)
    }

    fn compile_set(
        &mut self,
        set: &[Poly<SelectionSpec>],
        names: &mut HashMap<String, SelectorId>,
        todo: &mut Vec<(Option<SelectorId>, String)>,
    ) -> Outcome<Vec<SelectorId>> {
        self.compile_under(None, set, names, todo)
    }

    fn compile_under(
        &mut self,
        owner: Option<SelectorId>,
        set: &[Poly<SelectionSpec>],
        names: &mut HashMap<String, SelectorId>,
        todo: &mut Vec<(Option<SelectorId>, String)>,
    ) -> Outcome<Vec<SelectorId>> {
        let mut ids = Vec::new();
        for spec in set {
            let Some(step) = spec.get::<TraversalSpec>() else {
                let name = spec.name().clone().unwrap_or_default();
                todo.push((owner, name));
                continue;
            };
            if !class::exists(&step.r#type) {
                return Err(Fault::invalid_argument("selectSet.type"));
            }
            let id = self.selectors.len();
            self.selectors.push(Selector {
                r#type: step.r#type.clone(),
                path: Path::parse(&step.r#type, &step.path)?,
                skip: step.skip.unwrap_or(false),
                next: Vec::new(),
            });
            if let Some(name) = &step.name {
                names.insert(name.clone(), id);
            }
            let next = self.compile_under(Some(id), &step.select_set, names, todo)?;
            self.selectors[id].next.extend(next);
            ids.push(id);
        }
        Ok(ids)
    }

    /// Says whether any of the wanted properties are of objects of this type.
    pub(super) fn wants(&self, object: &Object) -> bool {
        self.wanted
            .iter()
            .any(|w| class::is_a(&object.moref.r#type, &w.r#type))
    }
}

/// What a walk has reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// The objects to report, in the order in which they were found.
    pub(super) order: Vec<Slot>,
    /// The same, to look one up.
    pub(super) members: HashSet<Slot>,
    /// Which steps were taken from which object.
    pub(super) steps: HashMap<Slot, Vec<SelectorId>>,
}

/// Walks from all the starts of a selection.
pub(super) fn walk(snapshot: &Snapshot, selection: &Selection) -> Outcome<Reach> {
    let mut reach = Reach::default();
    for start in &selection.starts {
        let Some(object) = snapshot.find(&start.object.value) else {
            if selection.report_missing {
                continue;
            }
            return Err(Fault::not_found(&start.object));
        };
        reach.visit(snapshot, selection, object, start.skip, &start.next);
    }
    Ok(reach)
}

impl Reach {
    /// Adds an object and all that lies behind it.
    pub(super) fn visit(
        &mut self,
        snapshot: &Snapshot,
        selection: &Selection,
        object: &Object,
        skip: bool,
        next: &[SelectorId],
    ) {
        let mut stack = Vec::new();
        self.enter(selection, object, skip, next, &mut stack);
        // Depth first, in the order of the lists: as a reader of the reply expects it.
        while let Some((slot, id)) = stack.pop() {
            let (Some(from), selector) = (snapshot.at(slot), &selection.selectors[id]) else {
                continue;
            };
            let mut found = Vec::new();
            for target in references(from, &selector.path) {
                if let Some(target) = snapshot.find(&target.value) {
                    let mut behind = Vec::new();
                    self.enter(
                        selection,
                        target,
                        selector.skip,
                        &selector.next,
                        &mut behind,
                    );
                    found.push(behind);
                }
            }
            for behind in found.into_iter().rev() {
                stack.extend(behind);
            }
        }
    }

    fn enter(
        &mut self,
        selection: &Selection,
        object: &Object,
        skip: bool,
        next: &[SelectorId],
        stack: &mut Vec<(Slot, SelectorId)>,
    ) {
        if !skip && selection.wants(object) && self.members.insert(object.slot) {
            self.order.push(object.slot);
        }
        for id in next.iter().rev() {
            let selector = &selection.selectors[*id];
            if class::is_a(&object.moref.r#type, &selector.r#type) {
                let steps = self.steps.entry(object.slot).or_default();
                if !steps.contains(id) {
                    steps.push(*id);
                    stack.push((object.slot, *id));
                }
            }
        }
    }
}
