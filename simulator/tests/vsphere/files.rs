//! The file manager, the datastore browser and the virtual disk manager.

use vmomi::types::*;
use vmomi::{Any, Error, ManagedObjectReference as Moref, Method};

use super::bench::{Bench, bench, disk, fault_of, spec};

const MIB: i64 = 1024;

struct Files {
    bench: Bench,
    files: Moref,
    disks: Moref,
}

impl Files {
    async fn new() -> Self {
        let bench = bench().await;
        let content = bench.client.content().clone();
        Files {
            bench,
            files: content.file_manager.expect("one"),
            disks: content.virtual_disk_manager.expect("one"),
        }
    }

    async fn mkdir(&self, name: &str, parents: bool) -> Result<(), Error> {
        let request = MakeDirectoryRequest {
            name: name.into(),
            create_parent_directories: Some(parents),
            ..Default::default()
        };
        self.bench.client.invoke(&self.files, request).await
    }

    async fn run<M>(&self, on: &Moref, request: M) -> Result<TaskInfo, Error>
    where
        M: Method<Response = Moref>,
    {
        self.bench.client.run_task(on, request).await
    }

    async fn create(&self, name: &str, kb: i64) -> Result<TaskInfo, Error> {
        let disk = FileBackedVirtualDiskSpec {
            disk_type: "thin".into(),
            adapter_type: "lsiLogic".into(),
            capacity_kb: kb,
            ..Default::default()
        };
        let request = CreateVirtualDiskRequest {
            name: name.into(),
            spec: disk.into(),
            ..Default::default()
        };
        self.run(&self.disks, request).await
    }

    async fn length(&self, path: &str) -> Option<u64> {
        let files = self.bench.client.datastore("ha-datacenter", "datastore1");
        files.length(path).await.expect("asks")
    }

    async fn write(&self, path: &str, content: &'static str) {
        let files = self.bench.client.datastore("ha-datacenter", "datastore1");
        files.write(path, content).await.expect("goes up");
    }

    async fn uuid(&self, name: &str) -> Result<String, Error> {
        let request = QueryVirtualDiskUuidRequest {
            name: name.into(),
            ..Default::default()
        };
        self.bench.client.invoke(&self.disks, request).await
    }
}

fn delete(name: &str) -> DeleteDatastoreFileRequest {
    DeleteDatastoreFileRequest {
        name: name.into(),
        ..Default::default()
    }
}

fn copy(from: &str, to: &str, force: bool) -> CopyDatastoreFileRequest {
    CopyDatastoreFileRequest {
        source_name: from.into(),
        destination_name: to.into(),
        force: Some(force),
        ..Default::default()
    }
}

fn copy_disk(from: &str, to: &str) -> CopyVirtualDiskRequest {
    CopyVirtualDiskRequest {
        source_name: from.into(),
        dest_name: to.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn directories_and_files_are_made_copied_moved_and_deleted() {
    let t = Files::new().await;
    t.mkdir("[datastore1] a", false).await.expect("made");
    let again = t.mkdir("[datastore1] a", false).await;
    assert_eq!(fault_of(again), "FileAlreadyExists");
    let deep = t.mkdir("[datastore1] x/y", false).await;
    assert_eq!(fault_of(deep), "FileNotFound");
    t.mkdir("[datastore1] x/y", true).await.expect("made");
    t.write("a/one", "1").await;
    let to = copy("[datastore1] a/one", "[datastore1] x/two", false);
    t.run(&t.files, to.clone()).await.expect("copied");
    assert_eq!(t.length("x/two").await, Some(1));
    assert_eq!(fault_of(t.run(&t.files, to).await), "FileAlreadyExists");
    t.write("a/one", "123").await;
    let force = copy("[datastore1] a/one", "[datastore1] x/two", true);
    t.run(&t.files, force).await.expect("replaced");
    assert_eq!(t.length("x/two").await, Some(3));
    let from = MoveDatastoreFileRequest {
        source_name: "[datastore1] x".into(),
        destination_name: "[datastore1] z".into(),
        ..Default::default()
    };
    t.run(&t.files, from).await.expect("moved");
    assert_eq!(t.length("z/two").await, Some(3));
    assert_eq!(t.length("x/two").await, None);
    t.run(&t.files, delete("[datastore1] z"))
        .await
        .expect("deleted with all that is in it");
    assert_eq!(t.length("z/two").await, None);
    let gone = t.run(&t.files, delete("[datastore1] z")).await;
    assert_eq!(fault_of(gone), "FileNotFound");
}

#[tokio::test]
async fn no_path_leads_out_of_a_datastore() {
    let t = Files::new().await;
    let outside = t.bench.dir.path().join("outside");
    std::fs::write(&outside, "mine").expect("written");
    t.mkdir("[datastore1] a", false).await.expect("made");
    for path in [
        "[datastore1] ../outside",
        "[datastore1] a/../../outside",
        "[datastore1] ../../outside",
        "no path at all",
        "",
    ] {
        let fault = fault_of(t.run(&t.files, delete(path)).await);
        assert_eq!(fault, "InvalidDatastorePath", "{path}");
        let made = fault_of(t.mkdir(path, true).await);
        assert_eq!(made, "InvalidDatastorePath", "{path}");
        let stolen = copy(path, "[datastore1] loot", false);
        let stolen = fault_of(t.run(&t.files, stolen).await);
        assert_eq!(stolen, "InvalidDatastorePath", "{path}");
        let disk = fault_of(t.create(path, MIB).await);
        assert_eq!(disk, "InvalidDatastorePath", "{path}");
    }
    let root = fault_of(t.run(&t.files, delete("[datastore1]")).await);
    assert_eq!(root, "InvalidDatastorePath", "the datastore itself stays");
    let other = fault_of(t.run(&t.files, delete("[none] a")).await);
    assert_eq!(other, "InvalidDatastore");
    assert_eq!(std::fs::read(&outside).expect("is there"), b"mine");
    assert_eq!(t.length("loot").await, None);
}

#[tokio::test]
async fn the_browser_finds_files_by_pattern_and_shows_what_is_asked_of_them() {
    let t = Files::new().await;
    t.mkdir("[datastore1] a/b", true).await.expect("made");
    t.create("[datastore1] a/disk.vmdk", MIB)
        .await
        .expect("made");
    t.write("a/b/boot.iso", "iso").await;
    let browser: Option<Moref> = t
        .bench
        .client
        .property(&t.bench.first("Datastore").await, "browser")
        .await
        .expect("reads");
    let browser = browser.expect("is set");
    let spec = HostDatastoreBrowserSearchSpec {
        match_pattern: vec!["*.VMDK".into(), "b*".into()],
        details: Some(FileQueryFlags {
            file_type: true,
            file_size: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let here = SearchDatastoreRequest {
        datastore_path: "[datastore1] a".into(),
        search_spec: Some(spec.clone()),
    };
    let found = t.run(&browser, here).await.expect("searched").result;
    let found = found.expect("a result");
    let found = found
        .as_data::<HostDatastoreBrowserSearchResults>()
        .expect("results");
    let paths: Vec<&str> = found.file.iter().map(|f| f.path().as_str()).collect();
    assert_eq!(
        paths,
        ["b", "disk.vmdk"],
        "the extent is no file of its own"
    );
    assert!(found.file[0].is::<FolderFileInfo>() && found.file[1].is::<VmDiskFileInfo>());
    let below = SearchDatastoreSubFoldersRequest {
        datastore_path: "[datastore1] a".into(),
        search_spec: Some(spec),
    };
    let task = t.bench.client.invoke(&browser, below).await;
    let task = task.expect("asks").expect("a task");
    let found = t.bench.client.wait_task(&task).await;
    let found = found.expect("searched").result;
    let all: Vec<HostDatastoreBrowserSearchResults> =
        found.expect("a result").into_vec().expect("results");
    let folders: Vec<_> = all
        .iter()
        .filter_map(|r| r.folder_path.as_deref())
        .collect();
    assert_eq!(folders, ["[datastore1] a", "[datastore1] a/b"]);
    assert_eq!(all[1].file[0].path(), "boot.iso");
    let none = SearchDatastoreRequest {
        datastore_path: "[datastore1] none".into(),
        search_spec: None,
    };
    assert_eq!(fault_of(t.run(&browser, none).await), "FileNotFound");
    let remove = DeleteFileRequest {
        datastore_path: "[datastore1] a/b/boot.iso".into(),
    };
    t.bench
        .client
        .invoke(&browser, remove)
        .await
        .expect("deleted");
    assert_eq!(t.length("a/b/boot.iso").await, None);
}

#[tokio::test]
async fn disks_are_made_copied_extended_moved_and_deleted_whole() {
    let t = Files::new().await;
    let made = t.create("[datastore1] one.vmdk", MIB).await.expect("made");
    assert_eq!(made.result, Some(Any::from("[datastore1] one.vmdk")));
    assert_eq!(t.length("one-flat.vmdk").await, Some(1 << 20));
    let again = t.create("[datastore1] one.vmdk", MIB).await;
    assert_eq!(fault_of(again), "FileAlreadyExists");
    let empty = t.create("[datastore1] two.vmdk", 0).await;
    assert_eq!(fault_of(empty), "InvalidArgument");
    let own = t.uuid("[datastore1] one.vmdk").await.expect("has one");
    t.run(
        &t.disks,
        copy_disk("[datastore1] one.vmdk", "[datastore1] two.vmdk"),
    )
    .await
    .expect("copied");
    let copied = t.uuid("[datastore1] two.vmdk").await.expect("has one");
    assert_ne!(own, copied, "a copy is a disk of its own");
    let grow = ExtendVirtualDiskRequest {
        name: "[datastore1] two.vmdk".into(),
        new_capacity_kb: 2 * MIB,
        ..Default::default()
    };
    t.run(&t.disks, grow).await.expect("grown");
    assert_eq!(t.length("two-flat.vmdk").await, Some(2 << 20));
    let shrink = ExtendVirtualDiskRequest {
        name: "[datastore1] two.vmdk".into(),
        new_capacity_kb: MIB,
        ..Default::default()
    };
    assert_eq!(fault_of(t.run(&t.disks, shrink).await), "InvalidArgument");
    let rename = MoveVirtualDiskRequest {
        source_name: "[datastore1] two.vmdk".into(),
        dest_name: "[datastore1] three.vmdk".into(),
        ..Default::default()
    };
    t.run(&t.disks, rename).await.expect("moved");
    assert_eq!(t.uuid("[datastore1] three.vmdk").await.ok(), Some(copied));
    assert_eq!(t.length("two-flat.vmdk").await, None);
    let remove = |name: &str| DeleteVirtualDiskRequest {
        name: name.into(),
        ..Default::default()
    };
    t.run(&t.disks, remove("[datastore1] three.vmdk"))
        .await
        .expect("deleted");
    assert_eq!(t.length("three-flat.vmdk").await, None);
    let gone = t.run(&t.disks, remove("[datastore1] three.vmdk")).await;
    assert_eq!(fault_of(gone), "FileNotFound");
    let none = t.uuid("[datastore1] none.vmdk").await;
    assert_eq!(fault_of(none), "FileNotFound");
}

#[tokio::test]
async fn ten_copies_to_one_place_leave_one_disk_and_nine_faults() {
    let t = Files::new().await;
    t.create("[datastore1] one.vmdk", 8 * MIB)
        .await
        .expect("made");
    let copies = (0..10).map(|_| {
        let request = copy_disk("[datastore1] one.vmdk", "[datastore1] copy.vmdk");
        t.run(&t.disks, request)
    });
    let results = futures_util::future::join_all(copies).await;
    let good = results.iter().filter(|r| r.is_ok()).count();
    assert_eq!(good, 1);
    for result in results {
        if result.is_err() {
            assert_eq!(fault_of(result), "FileAlreadyExists");
        }
    }
    t.uuid("[datastore1] copy.vmdk").await.expect("it is whole");
    assert_eq!(t.length("copy-flat.vmdk").await, Some(8 << 20));
}

#[tokio::test]
async fn a_disk_that_somebody_has_open_is_locked() {
    use simulator::vmdk::{Access, Chain, Roots};
    let t = Files::new().await;
    let device = super::bench::add(disk(-2, None, "one.vmdk", 2 * MIB, None), true);
    t.bench
        .create(spec("one", vec![device]))
        .await
        .expect("made");
    let name = "[datastore1] one/one.vmdk";
    let remove = DeleteVirtualDiskRequest {
        name: name.into(),
        ..Default::default()
    };
    let rename = MoveVirtualDiskRequest {
        source_name: name.into(),
        dest_name: "[datastore1] other.vmdk".into(),
        ..Default::default()
    };
    // As a running guest has it.
    let root = t.bench.dir.path().join("datastores/datastore1");
    let roots = Roots::new([&root]).expect("a root");
    let open = Chain::open(&root.join("one/one.vmdk"), Access::ReadWrite, &roots);
    let open = open.expect("opens");
    assert_eq!(
        fault_of(t.run(&t.disks, remove.clone()).await),
        "FileLocked"
    );
    assert_eq!(fault_of(t.run(&t.disks, rename).await), "FileLocked");
    let copy = copy_disk(name, "[datastore1] copy.vmdk");
    assert_eq!(fault_of(t.run(&t.disks, copy).await), "FileLocked");
    assert_eq!(t.length("copy-flat.vmdk").await, None);
    t.uuid(name).await.expect("is still there");
    drop(open);
    t.run(&t.disks, remove).await.expect("nobody holds it now");
}
