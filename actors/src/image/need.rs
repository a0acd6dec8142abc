//! Who needs which layer: images on the shelf, containers that stand on them (also when their image is gone), and
//! transfers that have not entered their image yet. What nobody needs is deleted by its layer's actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::context::Context;
use crate::ids::ContainerId;

/// The needs that no image says.
#[derive(Debug, Clone, Default)]
pub struct Needs(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    transfers: BTreeMap<String, usize>,
    containers: BTreeMap<ContainerId, Vec<String>>,
    /// The repository has been read once; before that, every layer is needed.
    images_known: bool,
    /// The VMs have been listed once; before that, every layer is needed.
    containers_known: bool,
    /// What transfers and removals of an earlier life may have left.
    orphans: Vec<String>,
    /// What is being deleted.
    leaving: BTreeSet<String>,
}

impl Needs {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chains that transfers are writing or removals deleting: should this program end now, they may be left.
    pub(crate) fn unsettled(&self) -> BTreeSet<String> {
        let table = self.lock();
        table
            .transfers
            .keys()
            .chain(&table.leaving)
            .cloned()
            .collect()
    }

    /// These chains are about to be deleted.
    pub(super) fn leaving(&self, chains: &[String]) {
        self.lock().leaving.extend(chains.iter().cloned());
    }

    /// This chain is deleted, or needed again.
    pub(super) fn left(&self, chain: &str) {
        self.lock().leaving.remove(chain);
    }

    /// A container stands on these chains.
    pub(crate) fn enter(&self, container: ContainerId, chains: Vec<String>) {
        self.lock().containers.insert(container, chains);
    }

    /// A container is gone; the chains that it stood on, uppermost first.
    pub(crate) fn leave(&self, container: ContainerId) -> Vec<String> {
        let chains = self.lock().containers.remove(&container);
        chains.unwrap_or_default().into_iter().rev().collect()
    }

    fn has(&self, chain: &str) -> bool {
        let table = self.lock();
        !table.images_known
            || !table.containers_known
            || table.transfers.contains_key(chain)
            || table
                .containers
                .values()
                .any(|c| c.iter().any(|c| c == chain))
    }
}

impl Context {
    /// The images on the shelf are all that there are; transfers of an earlier life may have left these chains.
    pub(crate) fn images_are_known(&self, orphans: Vec<String>) {
        let mut table = self.needs().lock();
        table.images_known = true;
        table.orphans.extend(orphans);
        drop(table);
        self.sweep();
    }

    /// All containers have been entered.
    pub(crate) fn containers_are_known(&self) {
        self.needs().lock().containers_known = true;
        self.sweep();
    }

    fn sweep(&self) {
        let mut table = self.needs().lock();
        if table.images_known && table.containers_known {
            let orphans = std::mem::take(&mut table.orphans);
            drop(table);
            super::forget_layers(self, orphans);
        }
    }

    /// Whether anybody needs the layer of this chain.
    pub(crate) fn needs_layer(&self, chain: &str) -> bool {
        self.needs().has(chain) || self.has_image_on(chain)
    }

    /// Whether an image on the shelf has the layer of this chain.
    pub(crate) fn has_image_on(&self, chain: &str) -> bool {
        let images = self.snapshots().images();
        images
            .values()
            .any(|image| super::chains(&image.diff_ids).iter().any(|c| c == chain))
    }
}

/// The chains that a transfer needs, until it is dropped. What nobody needs then is deleted: a transfer that failed
/// leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Wanted {
    context: Context,
    chains: Vec<String>,
}

impl Wanted {
    pub(crate) fn new(context: &Context, chains: Vec<String>) -> Self {
        let mut table = context.needs().lock();
        for chain in &chains {
            *table.transfers.entry(chain.clone()).or_default() += 1;
        }
        drop(table);
        let context = context.clone();
        Self { context, chains }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut table = self.context.needs().lock();
        for chain in &self.chains {
            if let Some(count) = table.transfers.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    table.transfers.remove(chain);
                }
            }
        }
        drop(table);
        let chains: Vec<_> = self.chains.drain(..).rev().collect();
        super::forget_layers(&self.context, chains);
    }
}
