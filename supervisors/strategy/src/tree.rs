//! The live tree: which actors there are, by path. Printed and killed in through the debug socket.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::ActorCell;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a killed actor may take to end, before its killer stops waiting.
const ENDING: Duration = Duration::from_secs(10);

/// The tree of one world. Cheap to clone; all clones are one tree. Not process-global: tests run several worlds.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
    /// Counts the actors that have come.
    entered: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Clone)]
struct Node {
    kind: &'static str,
    cell: ActorCell,
    busy: Busy,
}

/// Counts the requests that an actor has not answered yet.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<watch::Sender<usize>>);

impl Busy {
    /// Counts one request until the guard is dropped.
    pub fn request(&self) -> BusyGuard {
        self.0.send_modify(|count| *count += 1);
        BusyGuard(self.clone())
    }

    /// Requests outstanding.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Answers when a request is outstanding.
    async fn until_busy(&self) {
        // The sender lives as long as we do.
        let _ = self.0.subscribe().wait_for(|count| *count > 0).await;
    }
}

/// One outstanding request.
#[derive(Debug)]
pub struct BusyGuard(Busy);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// A line of the printed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The actor's path.
    pub path: String,
    /// What kind of actor it is.
    pub kind: &'static str,
    /// Its number in this process; another one after each restart.
    pub actor: u64,
    /// Its outstanding requests.
    pub busy: usize,
    /// The outstanding requests of the actors below it, which end with it.
    pub below: usize,
}

impl Entry {
    /// Whether a kill would meet an outstanding request.
    pub fn is_busy(&self) -> bool {
        self.busy + self.below > 0
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kind={} actor={} busy={} below={}",
            self.path, self.kind, self.actor, self.busy, self.below
        )
    }
}

/// Whether a pattern means an actor: a path in which `*` stands for any text, or `kind:KIND`.
pub fn matches(pattern: &str, path: &str, kind: &str) -> bool {
    match pattern.strip_prefix("kind:") {
        Some(wanted) => wanted == kind,
        None => glob(pattern, path),
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| glob(rest, &tail[at..]))
        }),
    }
}

impl Tree {
    /// Puts an actor into the tree, in place of an earlier one of the same path.
    pub fn enter(&self, path: &str, kind: &'static str, cell: ActorCell, busy: Busy) {
        let node = Node { kind, cell, busy };
        self.lock().insert(path.to_owned(), node);
        self.entered.send_modify(|count| *count += 1);
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

    /// Kills the first actor that a pattern (see [`matches`]) means, at its next await point. Answers when it has
    /// ended, with what it was at the moment of the kill; `None` when there is none.
    pub async fn kill(&self, pattern: &str) -> Option<Entry> {
        self.kill_first(pattern, |_| true).await
    }

    /// Like [`Tree::kill`], but waits for an actor that has an outstanding request, itself or below it; `None` when
    /// there was none in time.
    pub async fn arm(&self, pattern: &str, patience: Duration) -> Option<Entry> {
        let until = Instant::now() + patience;
        let mut entered = self.entered.subscribe();
        loop {
            entered.borrow_and_update();
            if let Some(killed) = self.kill_first(pattern, Entry::is_busy).await {
                return Some(killed);
            }
            let mut waiting = JoinSet::new();
            for busy in self.concerned(pattern) {
                waiting.spawn(async move { busy.until_busy().await });
            }
            let woken = async {
                tokio::select! {
                    Some(_) = waiting.join_next(), if !waiting.is_empty() => {}
                    // The sender is ours.
                    _ = entered.changed() => {}
                }
            };
            if tokio::time::timeout_at(until, woken).await.is_err() {
                return None;
            }
        }
    }

    /// The counters of all actors that a pattern means, and of those below them.
    fn concerned(&self, pattern: &str) -> Vec<Busy> {
        let nodes = self.lock();
        let wanted: Vec<&String> = nodes
            .iter()
            .filter(|(path, node)| matches(pattern, path, node.kind))
            .map(|(path, _)| path)
            .collect();
        nodes
            .iter()
            .filter(|(path, _)| wanted.iter().any(|w| *w == *path || is_below(path, w)))
            .map(|(_, node)| node.busy.clone())
            .collect()
    }

    async fn kill_first(&self, pattern: &str, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let (cell, entry) = {
            let nodes = self.lock();
            let (path, node) = nodes.iter().find(|(path, node)| {
                matches(pattern, path, node.kind) && wanted(&entry(&nodes, path, node))
            })?;
            let found = (node.cell.clone(), entry(&nodes, path, node));
            node.cell.kill();
            found
        };
        // One that does not end in time is on its way out all the same.
        let _ = cell.wait(Some(ENDING)).await;
        Some(entry)
    }

    /// All actors, by path.
    pub fn entries(&self) -> Vec<Entry> {
        let nodes = self.lock();
        nodes
            .iter()
            .map(|(path, node)| entry(&nodes, path, node))
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
                "{indent}{name} ({}) actor={} busy={}",
                entry.kind, entry.actor, entry.busy
            );
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn entry(nodes: &BTreeMap<String, Node>, path: &str, node: &Node) -> Entry {
    let below = nodes
        .range(format!("{path}/")..)
        .take_while(|(other, _)| is_below(other, path))
        .map(|(_, node)| node.busy.count())
        .sum();
    Entry {
        path: path.to_owned(),
        kind: node.kind,
        actor: node.cell.get_id().pid(),
        busy: node.busy.count(),
        below,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_and_a_kind_for_all_of_it() {
        assert!(matches("vch/events", "vch/events", "events"));
        assert!(!matches("vch/events", "vch/events2", "events"));
        assert!(matches("vch/images/pull*", "vch/images/pull-1", "pull"));
        assert!(matches(
            "vch/containers/*/link",
            "vch/containers/ab/link",
            "link"
        ));
        assert!(!matches(
            "vch/containers/*/link",
            "vch/containers/ab/exec",
            "exec"
        ));
        assert!(matches("kind:link", "vch/containers/ab/link", "link"));
        assert!(!matches("kind:link", "vch/link", "exec"));
    }
}
