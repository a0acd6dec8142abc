//! Datastores of images and volumes.

use tracing::info;
use vmomi::ManagedObjectReference as Reference;
use vmomi::types::DatastoreSummary;

use super::Problems;
use crate::cli::values::{StorePath, VolumeStore};
use crate::inventory::{Inventory, Node};
use crate::plan::Plan;

/// Checks all stores; returns where images go.
pub(super) fn check(
    plan: &Plan,
    inventory: &Inventory,
    datacenter: &Reference,
    problems: &mut Problems,
) -> Option<(StorePath, Reference)> {
    let all = inventory.within(datacenter, &["Datastore"]);
    for store in &plan.volume_stores {
        let option = format!("--volume-store {}", store.label);
        find(&all, &store.at.datastore, &option, problems);
    }
    let given = match (&plan.image_store, all.as_slice()) {
        (Some(store), _) => store.clone(),
        (None, [only]) => {
            info!("Using default datastore: {}", only.name);
            StorePath {
                datastore: only.name.clone(),
                path: String::new(),
            }
        }
        (None, _) => {
            let names: Vec<String> = all
                .iter()
                .map(|node| format!("  {:?}", node.name))
                .collect();
            problems.add(format!(
                "--image-store must be specified\nSuggested values for --image-store:\n{}",
                names.join("\n")
            ));
            return None;
        }
    };
    let node = find(&all, &given.datastore, "--image-store", problems)?;
    let (store, object) = (
        given.join(&format!("{}-images", plan.name)),
        node.object.clone(),
    );
    Some((store, object))
}

/// The volume stores; without one that is the default, there is one beside the images.
pub(super) fn volumes(plan: &Plan, images: &StorePath) -> Vec<VolumeStore> {
    let mut stores = plan.volume_stores.clone();
    if !stores.iter().any(|store| store.label == "default") {
        let path = match images.path.rsplit_once('/') {
            Some((dir, _)) => format!("{dir}/{}-volumes", plan.name),
            None => format!("{}-volumes", plan.name),
        };
        let at = StorePath {
            datastore: images.datastore.clone(),
            path,
        };
        stores.push(VolumeStore {
            label: "default".into(),
            at,
        });
    }
    stores
}

fn find<'a>(
    all: &[&'a Node],
    name: &str,
    option: &str,
    problems: &mut Problems,
) -> Option<&'a Node> {
    let found = all.iter().find(|node| node.name == name).copied();
    match found {
        None => {
            let names: Vec<String> = all
                .iter()
                .map(|node| format!("  {:?}", node.name))
                .collect();
            let suggested = option.split(' ').next().unwrap_or(option);
            problems.add(format!(
                "{option}: datastore {name:?} not found\nSuggested values for {suggested}:\n{}",
                names.join("\n")
            ));
        }
        Some(node) => {
            let summary: Option<DatastoreSummary> = node.properties.get("summary");
            if summary.is_some_and(|summary| !summary.accessible) {
                problems.add(format!("{option}: datastore {name:?} is not accessible"));
            }
        }
    }
    found
}
