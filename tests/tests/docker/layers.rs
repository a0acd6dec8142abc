//! Layers on the datastore: one VMDK each on its parent's, shared by the images that have it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use system_tests::image::Recipe;
use system_tests::installed::until;
use system_tests::run::run;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[("every_layer_is_one_vmdk_on_its_parent", layers)];

/// All files below `dir` whose path `wanted` accepts. What other tests remove meanwhile is not there.
fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), wanted, found)?;
        } else if wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The disks of layers, by the name of their folder: the chain's id.
fn layer_disks(world: &World) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = Vec::new();
    let layer = |path: &Path| path.ends_with("layer.vmdk");
    find(world.state(), &layer, &mut found)?;
    let mut disks = BTreeMap::new();
    for disk in found {
        let folder = disk.parent().and_then(Path::file_name);
        let folder = folder.context("a disk without a folder")?;
        let before = disks.insert(folder.to_string_lossy().into_owned(), disk);
        ensure!(before.is_none(), "two folders of one layer: {before:?}");
    }
    Ok(disks)
}

/// The files of a disk's chain, the disk itself first.
fn chain(disk: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "-U", "--backing-chain", "--output=json"]);
    let told: Value = serde_json::from_str(&run(command.arg(disk), b"")?.ok()?)?;
    let told = told.as_array().context("no list")?;
    told.iter()
        .map(|image| {
            ensure!(image["format"] == "vmdk", "{image}");
            let name = image["filename"].as_str().context("no name")?;
            Ok(std::fs::canonicalize(name)?)
        })
        .collect()
}

/// Ids of the chains of an image, the lowest layer's first.
fn chain_ids(world: &World, image: &str) -> Result<Vec<String>> {
    let layers = world
        .docker(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", image])?
        .ok()?;
    let layers: Vec<String> = serde_json::from_str(&layers)?;
    let mut ids: Vec<String> = Vec::new();
    for layer in &layers {
        let id = match ids.last() {
            None => layer.clone(),
            Some(below) => {
                let text = format!("sha256:{below} {layer}");
                hex::encode(Sha256::digest(text))
            }
        };
        ids.push(id.trim_start_matches("sha256:").to_owned());
    }
    Ok(ids)
}

fn layers(world: &World) -> Result<()> {
    let load = |tag: &str, content: &str| -> Result<Vec<String>> {
        let mut recipe = Recipe::busybox(tag);
        let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
        recipe.layers.push(vec![file("shared", "by both")]);
        recipe.layers.push(vec![file("own", content)]);
        let archive = world.archive(&recipe)?;
        world.docker(&["load", "-q", "-i", path(&archive)?])?.ok()?;
        chain_ids(world, tag)
    };
    let first = load("chain:1", "first")?;
    ensure!(first.len() == 4, "{first:?}");
    let written = |disks: &BTreeMap<String, PathBuf>, ids: &[String]| -> Result<Vec<SystemTime>> {
        ids.iter()
            .map(|id| {
                let disk = disks.get(id).with_context(|| format!("no disk of {id}"))?;
                Ok(std::fs::metadata(disk)?.modified()?)
            })
            .collect()
    };
    let before = written(&layer_disks(world)?, &first)?;
    let second = load("chain:2", "second")?;
    let disks = layer_disks(world)?;
    // Three layers are the other image's, and were not written again; one is its own.
    ensure!(first[..3] == second[..3] && first[3] != second[3]);
    ensure!(
        written(&disks, &first)? == before,
        "a layer was written twice"
    );
    for ids in [&first, &second] {
        for (depth, id) in ids.iter().enumerate() {
            let files = chain(&disks[id])?;
            // Below the lowest layer lies the blank disk that all of them grow from.
            ensure!(files.len() == depth + 2, "{files:?}");
            let mut wanted = Vec::new();
            for id in ids[..=depth].iter().rev() {
                wanted.push(std::fs::canonicalize(&disks[id])?);
            }
            ensure!(files[..=depth] == wanted, "{files:?}, not {wanted:?}");
            let blank = path(&files[depth + 1])?;
            ensure!(blank.contains("/scratch/"), "{blank}");
        }
    }
    for (tag, content) in [("chain:1", "first"), ("chain:2", "second")] {
        let ran = world.docker(&["run", "--rm", tag, "cat", "/shared", "/own"])?;
        ensure!(ran.ok()? == format!("by both{content}"));
    }
    // What both use stays until the last of them goes.
    world.docker(&["rmi", "chain:1"])?.ok()?;
    gone(world, &first[3..])?;
    let disks = layer_disks(world)?;
    ensure!(disks.contains_key(&second[2]) && disks.contains_key(&second[3]));
    world.docker(&["rmi", "chain:2"])?.ok()?;
    gone(world, &second[2..])
}

/// Waits until the disks of chains are removed: `rmi` answers when the names are gone.
fn gone(world: &World, ids: &[String]) -> Result<()> {
    until(Duration::from_secs(60), || {
        let disks = layer_disks(world)?;
        let left = ids.iter().find(|id| disks.contains_key(*id));
        left.map_or(Ok(()), |id| anyhow::bail!("the layer {id} is still there"))
    })
}
