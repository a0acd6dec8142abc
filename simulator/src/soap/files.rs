//! Files of datastores: `FileManager`, `VirtualDiskManager`, `HostDatastoreBrowser`, …

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use vmomi::types::{
    CopyDatastoreFileRequest, CopyVirtualDiskRequest, CreateDirectoryRequest,
    CreateVirtualDiskRequest, DeleteDatastoreFileRequest, DeleteDirectoryRequest,
    DeleteFileRequest, DeleteVirtualDiskRequest, ExtendVirtualDiskRequest,
    FileBackedVirtualDiskSpec, FileInfo, FolderFileInfo, HostDatastoreBrowserSearchResults,
    HostDatastoreBrowserSearchSpec, IsoImageFileInfo, MakeDirectoryRequest,
    MoveDatastoreFileRequest, MoveVirtualDiskRequest, QueryVirtualDiskUuidRequest,
    SearchDatastoreRequest, SearchDatastoreSubFoldersRequest, VmConfigFileInfo, VmDiskFileInfo,
    VmLogFileInfo,
};
use vmomi::{Any, DateTime, ManagedObjectReference as Moref, Poly};

use super::{Call, Reply, ok};
use crate::datastore::{self, DatastorePath};
use crate::fault::{Fault, Outcome};
use crate::model;
use crate::vm::disk_fault;
use crate::vmdk;
use crate::world::World;

/// How many folders below one another are searched.
const MAX_DEPTH: usize = 64;

pub(super) async fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    match call.method {
        "MakeDirectory" => {
            let args = call.args::<MakeDirectoryRequest>()?;
            let (name, parents) = (
                args.name.clone(),
                args.create_parent_directories == Some(true),
            );
            change_now(call, &args.name, move |world| {
                make_directory(world, &name, parents)
            })
            .await?;
            ok(())
        }
        "DeleteDatastoreFile_Task" => {
            let name = call.args::<DeleteDatastoreFileRequest>()?.name.clone();
            change(call, vec![name.clone()], move |world| {
                delete(world, &name).map(|()| None)
            })
            .await
        }
        "DeleteFile" => {
            let name = call.args::<DeleteFileRequest>()?.datastore_path.clone();
            change_now(call, &name.clone(), move |world| delete(world, &name)).await?;
            ok(())
        }
        "MoveDatastoreFile_Task" => {
            let args = call.args::<MoveDatastoreFileRequest>()?.clone();
            let names = vec![args.source_name.clone(), args.destination_name.clone()];
            change(call, names, move |world| {
                let (from, to) = both(world, &args.source_name, &args.destination_name)?;
                prepare(&to, &args.destination_name, args.force == Some(true))?;
                match std::fs::rename(&from, &to) {
                    Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                        datastore::copy(&from, &to).and_then(|()| datastore::remove(&from))
                    }
                    other => other,
                }
                .map_err(|e| Fault::io(&args.source_name, &e))?;
                Ok(None)
            })
            .await
        }
        "CopyDatastoreFile_Task" => {
            let args = call.args::<CopyDatastoreFileRequest>()?.clone();
            let names = vec![args.source_name.clone(), args.destination_name.clone()];
            change(call, names, move |world| {
                let (from, to) = both(world, &args.source_name, &args.destination_name)?;
                prepare(&to, &args.destination_name, args.force == Some(true))?;
                datastore::copy(&from, &to).map_err(|e| Fault::io(&args.source_name, &e))?;
                Ok(None)
            })
            .await
        }
        "CreateDirectory" => {
            let args = call.args::<CreateDirectoryRequest>()?;
            let snapshot = world.inventory.now();
            let store = snapshot
                .find(&args.datastore.value)
                .and_then(|o| o.text("name").map(str::to_owned))
                .ok_or_else(|| Fault::not_found(&args.datastore))?;
            let name = args.display_name.clone().unwrap_or_default();
            let path = DatastorePath::new(&store, datastore::clean(&name).unwrap_or_default());
            if path.path.is_empty() {
                return Err(Fault::invalid_argument("displayName"));
            }
            let name = path.to_string();
            change_now(call, &name.clone(), move |world| {
                make_directory(world, &name, true)
            })
            .await?;
            ok(format!("/vmfs/volumes/{store}/{}", path.path))
        }
        "DeleteDirectory" => {
            let args = call.args::<DeleteDirectoryRequest>()?;
            let path = args.datastore_path.trim_start_matches("/vmfs/volumes/");
            let (store, rest) = path.split_once('/').unwrap_or((path, ""));
            let name = format!("[{store}] {rest}");
            change_now(call, &name.clone(), move |world| delete(world, &name)).await?;
            ok(())
        }
        "SearchDatastore_Task" => {
            let args = call.args::<SearchDatastoreRequest>()?.clone();
            call.blocking_task(move |world| {
                let path = world.path(&args.datastore_path)?;
                let found = search(world, &path, args.search_spec.as_ref())?;
                Ok(Some(Any::from(found)))
            })
        }
        "SearchDatastoreSubFolders_Task" => {
            let args = call.args::<SearchDatastoreSubFoldersRequest>()?.clone();
            call.blocking_task(move |world| {
                let path = world.path(&args.datastore_path)?;
                let mut all = Vec::new();
                search_below(world, &path, args.search_spec.as_ref(), &mut all, 0)?;
                Ok(Some(Any::from(all)))
            })
        }
        "RefreshDatastore" | "RefreshDatastoreStorageInfo" => {
            let found = world
                .datastores
                .values()
                .find(|s| s.moid == call.this.value);
            let store = found.ok_or_else(|| Fault::not_found(call.this))?;
            let (summary, info) = model::describe(store);
            world.inventory.commit(|t| {
                t.set(&store.moid, "summary", summary);
                t.set(&store.moid, "info", info);
            });
            ok(())
        }
        _ => disks(call).await,
    }
}

/// Begins a task that changes the files `names`, when nobody else does.
async fn change<F>(call: &Call<'_>, names: Vec<String>, work: F) -> Reply
where
    F: FnOnce(&Arc<World>) -> Outcome<Option<Any>> + Send + 'static,
{
    let task = call.task();
    let moref = task.moref();
    let world = call.world.clone();
    match paths(call.world, &names) {
        Err(fault) => task.end(Err(fault)),
        Ok(paths) => {
            // A job that is not taken on drops its task, which ends with a fault then.
            datastore::submit(call.world, paths, move || {
                let result = task.check().and_then(|()| work(&world));
                task.end(result);
            })
            .await?;
        }
    }
    ok(moref)
}

/// Changes a file, when nobody else does, and waits until that is done.
async fn change_now<F>(call: &Call<'_>, name: &str, work: F) -> Outcome<()>
where
    F: FnOnce(&Arc<World>) -> Outcome<()> + Send + 'static,
{
    let (sender, done) = tokio::sync::oneshot::channel();
    let world = call.world.clone();
    let paths = paths(call.world, &[name.to_owned()])?;
    datastore::submit(call.world, paths, move || {
        // Whoever asked may have left.
        let _ = sender.send(work(&world));
    })
    .await?;
    done.await
        .unwrap_or_else(|_| Err(Fault::system("the operation was interrupted")))
}

/// Reads datastore paths, and checks that they are where they seem to be.
fn paths(world: &World, names: &[String]) -> Outcome<Vec<DatastorePath>> {
    names
        .iter()
        .map(|name| {
            let path = world.path(name)?;
            world.locate(&path)?;
            Ok(path)
        })
        .collect()
}

async fn disks(call: &Call<'_>) -> Reply {
    match call.method {
        "CreateVirtualDisk_Task" => {
            let args = call.args::<CreateVirtualDiskRequest>()?.clone();
            change(call, vec![args.name.clone()], move |world| {
                let spec = args.spec.get::<FileBackedVirtualDiskSpec>();
                let kb = spec.map_or(0, |s| s.capacity_kb);
                let bytes = u64::try_from(kb).unwrap_or(0) << 10;
                if bytes == 0 {
                    return Err(Fault::invalid_argument("spec.capacityKb"));
                }
                let real = world.real(&args.name)?;
                vmdk::create_flat(&real, bytes).map_err(|e| disk_fault(&args.name, &e))?;
                Ok(Some(Any::from(args.name.clone())))
            })
            .await
        }
        "DeleteVirtualDisk_Task" => {
            let name = call.args::<DeleteVirtualDiskRequest>()?.name.clone();
            change(call, vec![name.clone()], move |world| {
                vmdk::delete(&world.real(&name)?).map_err(|e| disk_fault(&name, &e))?;
                Ok(None)
            })
            .await
        }
        "MoveVirtualDisk_Task" => {
            let args = call.args::<MoveVirtualDiskRequest>()?.clone();
            let names = vec![args.source_name.clone(), args.dest_name.clone()];
            change(call, names, move |world| {
                let (from, to) = both(world, &args.source_name, &args.dest_name)?;
                if args.force == Some(true) && to.exists() {
                    vmdk::delete(&to).map_err(|e| disk_fault(&args.dest_name, &e))?;
                }
                vmdk::rename(&from, &to).map_err(|e| disk_fault(&args.source_name, &e))?;
                Ok(Some(Any::from(args.dest_name.clone())))
            })
            .await
        }
        "CopyVirtualDisk_Task" => {
            let args = call.args::<CopyVirtualDiskRequest>()?.clone();
            // Many may read one disk at a time: only what is made is taken.
            change(call, vec![args.dest_name.clone()], move |world| {
                let (from, to) = both(world, &args.source_name, &args.dest_name)?;
                if args.force == Some(true) && to.exists() {
                    vmdk::delete(&to).map_err(|e| disk_fault(&args.dest_name, &e))?;
                }
                vmdk::copy(&from, &to, &world.disks)
                    .map_err(|e| disk_fault(&args.source_name, &e))?;
                Ok(Some(Any::from(args.dest_name.clone())))
            })
            .await
        }
        "ExtendVirtualDisk_Task" => {
            let args = call.args::<ExtendVirtualDiskRequest>()?.clone();
            change(call, vec![args.name.clone()], move |world| {
                let bytes = u64::try_from(args.new_capacity_kb).unwrap_or(0) << 10;
                let real = world.real(&args.name)?;
                let before = vmdk::inspect(&real).map_err(|e| disk_fault(&args.name, &e))?;
                if bytes < before.capacity {
                    return Err(Fault::invalid_argument("newCapacityKb"));
                }
                vmdk::extend(&real, bytes).map_err(|e| disk_fault(&args.name, &e))?;
                Ok(None)
            })
            .await
        }
        "QueryVirtualDiskUuid" => {
            let args = call.args::<QueryVirtualDiskUuidRequest>()?;
            let info = vmdk::inspect(&call.world.real(&args.name)?)
                .map_err(|e| disk_fault(&args.name, &e))?;
            ok(info.uuid.to_string())
        }
        _ => Err(Fault::not_supported()),
    }
}

fn both(world: &World, from: &str, to: &str) -> Outcome<(std::path::PathBuf, std::path::PathBuf)> {
    Ok((world.real(from)?, world.real(to)?))
}

/// Makes room for a file that is moved or copied.
fn prepare(to: &Path, name: &str, force: bool) -> Outcome<()> {
    if to.exists() {
        if !force {
            return Err(Fault::file_exists(name));
        }
        if to.is_dir() {
            datastore::remove(to).map_err(|e| Fault::io(name, &e))?;
        }
    }
    match to.parent() {
        Some(parent) if !parent.exists() => Err(Fault::file_not_found(name)),
        _ => Ok(()),
    }
}

fn make_directory(world: &World, name: &str, parents: bool) -> Outcome<()> {
    let real = world.real(name)?;
    if real.exists() {
        return Err(Fault::file_exists(name));
    }
    let made = if parents {
        std::fs::create_dir_all(&real)
    } else {
        std::fs::create_dir(&real)
    };
    made.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Fault::file_not_found(name),
        _ => Fault::cannot_create(name, e),
    })
}

fn delete(world: &World, name: &str) -> Outcome<()> {
    let path = world.path(name)?;
    if path.path.is_empty() {
        return Err(Fault::datastore_path(name));
    }
    datastore::remove(&world.locate(&path)?).map_err(|e| Fault::io(name, &e))
}

/// Says whether a file is an extent, which belongs to a descriptor and is not shown by itself.
fn is_extent(name: &str) -> bool {
    ["-flat.vmdk", "-delta.vmdk", "-sesparse.vmdk"]
        .iter()
        .any(|s| name.ends_with(s))
}

fn search(
    world: &World,
    path: &DatastorePath,
    spec: Option<&HostDatastoreBrowserSearchSpec>,
) -> Outcome<HostDatastoreBrowserSearchResults> {
    let real = world.locate(path)?;
    let entries = std::fs::read_dir(&real).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotADirectory => Fault::file_not_found(path),
        _ => Fault::io(path, &e),
    })?;
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_extent(&name) && wanted(&name, spec) {
            files.extend(describe(&entry.path(), name, spec));
        }
    }
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let store = world.datastores.get(&path.datastore);
    Ok(HostDatastoreBrowserSearchResults {
        datastore: store.map(|s| Moref::new("Datastore", &s.moid)),
        folder_path: Some(path.to_string()),
        file: files,
        ..Default::default()
    })
}

fn wanted(name: &str, spec: Option<&HostDatastoreBrowserSearchSpec>) -> bool {
    let Some(spec) = spec else { return true };
    if spec.match_pattern.is_empty() {
        return true;
    }
    let fold = spec.search_case_insensitive != Some(false);
    spec.match_pattern.iter().any(|pattern| {
        if fold {
            matches(&pattern.to_lowercase(), &name.to_lowercase())
        } else {
            matches(pattern, name)
        }
    })
}

/// Matches `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*' {
            (p, n) = (p + 1, n + 1);
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// What is said of a file, as far as the search asks for it.
fn describe(
    path: &Path,
    name: String,
    spec: Option<&HostDatastoreBrowserSearchSpec>,
) -> Option<Poly<FileInfo>> {
    let meta = std::fs::metadata(path).ok()?;
    let details = spec.and_then(|s| s.details.clone()).unwrap_or_default();
    let file_size = details.file_size.then(|| {
        let flat = name.strip_suffix(".vmdk").and_then(|stem| {
            std::fs::metadata(path.with_file_name(format!("{stem}-flat.vmdk"))).ok()
        });
        let used = flat.as_ref().map_or(meta.len(), |m| m.blocks() * 512);
        i64::try_from(used).unwrap_or(i64::MAX)
    });
    let modification = details
        .modification
        .then(|| DateTime::from(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
    let owner = details.file_owner.then(|| "root".to_owned());
    macro_rules! info {
        ($kind:ident) => {
            $kind {
                path: name,
                file_size,
                modification,
                owner,
                ..Default::default()
            }
            .into()
        };
    }
    let extension = Path::new(&name)
        .extension()
        .map(|e| e.to_string_lossy().to_lowercase());
    Some(match extension.as_deref() {
        _ if !details.file_type && !meta.is_dir() => info!(FileInfo),
        _ if meta.is_dir() => info!(FolderFileInfo),
        Some("vmdk") => info!(VmDiskFileInfo),
        Some("vmx") => info!(VmConfigFileInfo),
        Some("iso") => info!(IsoImageFileInfo),
        Some("log") => info!(VmLogFileInfo),
        _ => info!(FileInfo),
    })
}

fn search_below(
    world: &World,
    path: &DatastorePath,
    spec: Option<&HostDatastoreBrowserSearchSpec>,
    all: &mut Vec<HostDatastoreBrowserSearchResults>,
    depth: usize,
) -> Outcome<()> {
    all.push(search(world, path, spec)?);
    if depth >= MAX_DEPTH {
        return Ok(());
    }
    let real = world.locate(path)?;
    let mut folders: Vec<String> = std::fs::read_dir(&real)
        .map_err(|e| Fault::io(path, &e))?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    for folder in folders {
        search_below(world, &path.join(&folder), spec, all, depth + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        assert!(matches("*.vmdk", "a.vmdk"));
        assert!(matches("a?c*", "abcd"));
        assert!(matches("**", ""));
        assert!(!matches("a*b", "abc"));
        assert!(!matches("?", ""));
    }
}
