//! The live tree: which actors there are, by path. Printed and killed in through the debug socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::ActorCell;

/// The tree of one world. Cheap to clone; all clones are one tree. Not process-global: tests run several worlds.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
}

#[derive(Debug, Clone)]
struct Node {
    cell: ActorCell,
    busy: Busy,
}

/// Counts the requests that an actor has not answered yet.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<AtomicUsize>);

impl Busy {
    /// Counts one request until the guard is dropped.
    pub fn request(&self) -> BusyGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    /// Requests outstanding.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One outstanding request.
#[derive(Debug)]
pub struct BusyGuard(Busy);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A line of the printed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The actor's path.
    pub path: String,
    /// Requests outstanding.
    pub busy: usize,
    /// Its number in this process; another one after each restart.
    pub actor: u64,
}

impl Tree {
    /// Puts an actor into the tree, in place of an earlier one of the same path.
    pub fn enter(&self, path: &str, cell: ActorCell, busy: Busy) {
        self.lock().insert(path.to_owned(), Node { cell, busy });
    }

    /// Takes an actor out, unless a later one has its path.
    pub fn leave(&self, path: &str, cell: &ActorCell) {
        let mut nodes = self.lock();
        if nodes
            .get(path)
            .is_some_and(|n| n.cell.get_id() == cell.get_id())
        {
            nodes.remove(path);
        }
    }

    /// Kills the actor of a path at its next await point; false when there is none.
    pub fn kill(&self, path: &str) -> bool {
        match self.lock().get(path) {
            Some(node) => {
                node.cell.kill();
                true
            }
            None => false,
        }
    }

    /// All actors, by path.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock()
            .iter()
            .map(|(path, node)| Entry {
                path: path.clone(),
                busy: node.busy.count(),
                actor: node.cell.get_id().pid(),
            })
            .collect()
    }

    /// The tree as text: one line per actor, indented by depth, with its outstanding requests.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for entry in self.entries() {
            let depth = entry.path.matches('/').count();
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            let indent = "  ".repeat(depth);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{indent}{name} actor={} busy={}",
                entry.actor, entry.busy
            );
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
