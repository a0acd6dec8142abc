//! One filter: what it reported last, and what has changed since.

use std::collections::VecDeque;
use std::sync::Arc;

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{ObjectUpdate, ObjectUpdateKind};

use super::read::{Reader, references};
use super::selection::{Reach, Selection, SelectorId, walk};
use crate::fault::Outcome;
use crate::inventory::{Object, Prop, Slot, Snapshot, Tree};

/// An object that is not as it was: its slot, what it was, what it is.
type Change<'a> = (Slot, Option<&'a Arc<Object>>, Option<&'a Arc<Object>>);

/// A standing question of a client.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) id: String,
    selection: Selection,
    /// What the client knows; `None`: nothing yet.
    known: Option<Arc<Snapshot>>,
    reach: Reach,
    /// Updates found and not yet sent.
    pub(super) pending: VecDeque<ObjectUpdate>,
}

impl Filter {
    pub(super) fn new(id: String, selection: Selection) -> Self {
        Filter {
            id,
            selection,
            known: None,
            reach: Reach::default(),
            pending: VecDeque::new(),
        }
    }

    /// Forgets what was reported: the client asks for everything again.
    pub(super) fn restart(&mut self) {
        self.known = None;
        self.pending.clear();
    }

    /// Brings the filter up to `now`; what has changed is in `pending`.
    pub(super) fn advance(&mut self, now: &Arc<Snapshot>, reader: &Reader) -> Outcome<()> {
        let Some(before) = self.known.replace(now.clone()) else {
            // A start that is gone by now is nothing to see, rather than the end of the collector.
            self.reach = walk(now, &self.selection).unwrap_or_default();
            for slot in std::mem::take(&mut self.reach.order) {
                if let Some(object) = now.at(slot) {
                    let update = reader.enter(object, &self.selection);
                    self.pending.push_back(update);
                }
            }
            return Ok(());
        };
        if before.objects.same(&now.objects) {
            return Ok(());
        }
        let mut changes: Vec<Change<'_>> = Vec::new();
        Tree::diff(
            &before.objects,
            &now.objects,
            &mut |slot, old, new| match (old, new) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {}
                _ => changes.push((slot, old, new)),
            },
        );
        let entered = self.follow(&before, now, &changes);
        for (slot, old, new) in changes {
            if !self.reach.members.contains(&slot) || entered.contains(&slot) {
                continue;
            }
            match (old, new) {
                (Some(_), None) => self.leave(slot, old),
                (Some(old), Some(new)) => {
                    if let Some(update) = reader.modify(old, new, &self.selection) {
                        self.pending.push_back(update);
                    }
                }
                _ => {}
            }
        }
        for slot in entered {
            if let Some(object) = now.at(slot) {
                self.pending
                    .push_back(reader.enter(object, &self.selection));
            }
        }
        Ok(())
    }

    fn leave(&mut self, slot: Slot, object: Option<&Arc<Object>>) {
        self.reach.members.remove(&slot);
        self.reach.steps.remove(&slot);
        if let Some(object) = object {
            self.pending.push_back(ObjectUpdate {
                kind: ObjectUpdateKind::Leave,
                obj: object.moref.clone(),
                ..Default::default()
            });
        }
    }

    /// Follows the steps that lead elsewhere than before; returns the objects that are new.
    fn follow(&mut self, before: &Snapshot, now: &Snapshot, changes: &[Change<'_>]) -> Vec<Slot> {
        let mut entered = Vec::new();
        for (slot, old, new) in changes {
            let (Some(old), Some(new)) = (old, new) else {
                continue;
            };
            let Some(steps) = self.reach.steps.get(slot).cloned() else {
                continue;
            };
            for id in steps {
                if !self.follow_step(now, id, old, new, &mut entered) {
                    return self.walk_again(before, now);
                }
            }
        }
        entered
    }

    /// Follows one step of one object that has changed; `false`: it takes a new walk to know.
    fn follow_step(
        &mut self,
        now: &Snapshot,
        id: SelectorId,
        old: &Object,
        new: &Object,
        entered: &mut Vec<Slot>,
    ) -> bool {
        let selector = &self.selection.selectors[id];
        let mut added: Vec<Moref> = Vec::new();
        let mut simple = true;
        match (selector.path.prop(old), selector.path.prop(new)) {
            (None, None) => {}
            (Some(a), Some(b)) if a.same(b) => {}
            (Some(Prop::Refs(a)), Some(Prop::Refs(b))) => {
                Tree::diff(a, b, &mut |slot, was, is| match (was, is) {
                    (None, Some(moref)) => added.push(moref.clone()),
                    // What is gone for good leaves by itself; what is elsewhere now may not.
                    (Some(_), None) => simple &= now.at(slot).is_none(),
                    _ => {}
                });
            }
            _ => {
                let (was, is) = (
                    references(old, &selector.path),
                    references(new, &selector.path),
                );
                simple = was
                    .iter()
                    .all(|m| is.contains(m) || now.find(&m.value).is_none());
                added.extend(is.into_iter().filter(|m| !was.contains(m)));
            }
        }
        if !simple {
            return false;
        }
        let (skip, next) = (selector.skip, selector.next.clone());
        for moref in added {
            if let Some(object) = now.find(&moref.value) {
                self.reach.visit(now, &self.selection, object, skip, &next);
                entered.append(&mut self.reach.order);
            }
        }
        true
    }

    fn walk_again(&mut self, before: &Snapshot, now: &Snapshot) -> Vec<Slot> {
        let reach = walk(now, &self.selection).unwrap_or_default();
        let old = std::mem::replace(&mut self.reach, reach);
        let mut left: Vec<Slot> = old
            .members
            .difference(&self.reach.members)
            .copied()
            .collect();
        left.sort_unstable();
        for slot in left {
            if let Some(object) = before.at(slot) {
                self.pending.push_back(ObjectUpdate {
                    kind: ObjectUpdateKind::Leave,
                    obj: object.moref.clone(),
                    ..Default::default()
                });
            }
        }
        let order = std::mem::take(&mut self.reach.order);
        order
            .into_iter()
            .filter(|s| !old.members.contains(s))
            .collect()
    }
}
