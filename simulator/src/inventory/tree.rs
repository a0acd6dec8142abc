//! A persistent radix tree from slot numbers to values.
//!
//! A copy costs one pointer; a change copies one path of nodes (32 children each), so the old copy
//! stays as it was. Two copies of one tree are compared by skipping every node that they share:
//! that is what makes a property collector's work proportional to what has changed.

use std::sync::Arc;

/// Bits of the slot number that one level of the tree takes.
const BITS: u32 = 5;
/// Children per node.
const WIDTH: usize = 1 << BITS;
const MASK: u32 = WIDTH as u32 - 1;

/// The number of an object in the inventory; given once, never given again.
pub(crate) type Slot = u32;

// Nodes live behind `Arc`s: a leaf is larger or smaller than a branch as its values are.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Node<T> {
    Branch([Option<Arc<Node<T>>>; WIDTH]),
    Leaf([Option<T>; WIDTH]),
}

impl<T: Clone> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Node::Branch(children) => Node::Branch(children.clone()),
            Node::Leaf(values) => Node::Leaf(values.clone()),
        }
    }
}

impl<T: Clone> Node<T> {
    fn empty(level: u32) -> Self {
        if level == 0 {
            Node::Leaf(std::array::from_fn(|_| None))
        } else {
            Node::Branch(std::array::from_fn(|_| None))
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Branch(children) => children.iter().all(Option::is_none),
            Node::Leaf(values) => values.iter().all(Option::is_none),
        }
    }
}

/// A persistent map from [`Slot`] to `T`, in order of the slots.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    root: Option<Arc<Node<T>>>,
    /// Levels above the leaves.
    height: u32,
    len: usize,
}

impl<T> Clone for Tree<T> {
    fn clone(&self) -> Self {
        Tree {
            root: self.root.clone(),
            height: self.height,
            len: self.len,
        }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree {
            root: None,
            height: 0,
            len: 0,
        }
    }
}

fn index(slot: Slot, level: u32) -> usize {
    ((slot >> (level * BITS)) & MASK) as usize
}

impl<T: Clone> Tree<T> {
    /// Counts the values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Says whether both are one and the same copy: cheap, and never wrong when it says yes.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    fn fits(&self, slot: Slot) -> bool {
        let bits = (self.height + 1) * BITS;
        bits >= 32 || slot >> bits == 0
    }

    /// Finds the value at `slot`.
    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        if !self.fits(slot) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        let mut level = self.height;
        loop {
            match node {
                Node::Branch(children) => {
                    node = children[index(slot, level)].as_deref()?;
                    level -= 1;
                }
                Node::Leaf(values) => return values[index(slot, 0)].as_ref(),
            }
        }
    }

    /// Puts `value` at `slot`, and returns what was there.
    pub(crate) fn insert(&mut self, slot: Slot, value: T) -> Option<T> {
        while !self.fits(slot) {
            if let Some(old) = self.root.take() {
                let mut top = Node::empty(self.height + 1);
                if let Node::Branch(children) = &mut top {
                    children[0] = Some(old);
                }
                self.root = Some(Arc::new(top));
            }
            self.height += 1;
        }
        let mut level = self.height;
        let mut place = &mut self.root;
        loop {
            let node = Arc::make_mut(place.get_or_insert_with(|| Arc::new(Node::empty(level))));
            match node {
                Node::Branch(children) => {
                    place = &mut children[index(slot, level)];
                    level -= 1;
                }
                Node::Leaf(values) => {
                    let old = values[index(slot, 0)].replace(value);
                    self.len += usize::from(old.is_none());
                    return old;
                }
            }
        }
    }

    /// Takes the value at `slot` away.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        self.get(slot)?;
        let old = Self::remove_in(self.root.as_mut()?, slot, self.height);
        self.len -= 1;
        if self.root.as_deref().is_some_and(Node::is_empty) {
            self.root = None;
            self.height = 0;
        }
        old
    }

    fn remove_in(node: &mut Arc<Node<T>>, slot: Slot, level: u32) -> Option<T> {
        match Arc::make_mut(node) {
            Node::Branch(children) => {
                let place = &mut children[index(slot, level)];
                let old = Self::remove_in(place.as_mut()?, slot, level - 1);
                if place.as_deref().is_some_and(Node::is_empty) {
                    *place = None;
                }
                old
            }
            Node::Leaf(values) => values[index(slot, 0)].take(),
        }
    }

    /// Calls `f` with every value, in order of the slots.
    pub(crate) fn for_each<'a>(&'a self, f: &mut impl FnMut(Slot, &'a T)) {
        if let Some(root) = &self.root {
            walk(root, 0, self.height, f);
        }
    }

    /// Calls `f(slot, before, after)` for each slot whose leaf the two trees do not share; the two
    /// values may still be equal.
    pub(crate) fn diff<'a>(
        before: &'a Self,
        after: &'a Self,
        f: &mut impl FnMut(Slot, Option<&'a T>, Option<&'a T>),
    ) {
        let height = before.height.max(after.height);
        diff_nodes(
            Side {
                node: before.root.as_ref(),
                level: before.height,
            },
            Side {
                node: after.root.as_ref(),
                level: after.height,
            },
            0,
            height,
            f,
        );
    }
}

fn walk<'a, T>(node: &'a Node<T>, base: Slot, level: u32, f: &mut impl FnMut(Slot, &'a T)) {
    match node {
        Node::Branch(children) => {
            for (i, child) in children.iter().enumerate() {
                if let Some(child) = child {
                    walk(child, base | (i as u32) << (level * BITS), level - 1, f);
                }
            }
        }
        Node::Leaf(values) => {
            for (i, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    f(base | i as u32, value);
                }
            }
        }
    }
}

/// One side of a comparison: a node, and the level at which it stands.
struct Side<'a, T> {
    node: Option<&'a Arc<Node<T>>>,
    level: u32,
}

impl<T> Copy for Side<'_, T> {}
impl<T> Clone for Side<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, T> Side<'a, T> {
    /// The side's node for child `i` of a node at `level`: a lower tree has only child 0.
    fn child(self, i: usize, level: u32) -> Side<'a, T> {
        if self.level < level {
            let node = if i == 0 { self.node } else { None };
            return Side {
                node,
                level: self.level,
            };
        }
        let node = match self.node.map(Arc::as_ref) {
            Some(Node::Branch(children)) => children[i].as_ref(),
            _ => None,
        };
        Side {
            node,
            level: self.level.saturating_sub(1),
        }
    }

    fn leaf(self, i: usize) -> Option<&'a T> {
        match self.node.map(Arc::as_ref) {
            Some(Node::Leaf(values)) => values[i].as_ref(),
            _ => None,
        }
    }
}

fn diff_nodes<'a, T>(
    before: Side<'a, T>,
    after: Side<'a, T>,
    base: Slot,
    level: u32,
    f: &mut impl FnMut(Slot, Option<&'a T>, Option<&'a T>),
) {
    match (before.node, after.node) {
        (None, None) => return,
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => return,
        _ => {}
    }
    for i in 0..WIDTH {
        let slot = base | (i as u32) << (level * BITS);
        if level > 0 {
            diff_nodes(
                before.child(i, level),
                after.child(i, level),
                slot,
                level - 1,
                f,
            );
        } else if before.leaf(i).is_some() || after.leaf(i).is_some() {
            f(slot, before.leaf(i), after.leaf(i));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_tree_behaves_like_a_map_and_its_copies_do_not_change(
            ops in proptest::collection::vec((0u32..5000, proptest::option::of(0u8..9)), 1..200),
        ) {
            let mut tree = Tree::default();
            let mut map = BTreeMap::new();
            let mut copies = Vec::new();
            for (slot, value) in ops {
                copies.push((tree.clone(), map.clone()));
                match value {
                    Some(v) => prop_assert_eq!(tree.insert(slot, v), map.insert(slot, v)),
                    None => prop_assert_eq!(tree.remove(slot), map.remove(&slot)),
                }
            }
            for (copy, expected) in copies {
                let mut seen = BTreeMap::new();
                copy.for_each(&mut |s, v| { seen.insert(s, *v); });
                prop_assert_eq!(&seen, &expected);
                prop_assert_eq!(copy.len(), expected.len());
                let mut replayed = expected.clone();
                Tree::diff(&copy, &tree, &mut |s, _, after| {
                    match after { Some(v) => replayed.insert(s, *v), None => replayed.remove(&s) };
                });
                prop_assert_eq!(replayed, map.clone());
            }
        }
    }

    #[test]
    fn a_comparison_looks_only_at_what_changed() {
        let mut tree = Tree::default();
        for slot in 0..10_000 {
            tree.insert(slot, slot);
        }
        let before = tree.clone();
        tree.insert(7777, 1);
        let mut looked_at = 0;
        Tree::diff(&before, &tree, &mut |_, _, _| looked_at += 1);
        assert!(looked_at <= WIDTH, "{looked_at}");
    }
}
