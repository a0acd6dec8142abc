//! Virtual disks against `qemu-img`, which reads the format independently.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use simulator::vmdk::{self, Access, Chain, Error, GRAIN, Roots};

struct Store {
    dir: tempfile::TempDir,
    roots: Roots,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new([dir.path()]).unwrap();
        Self { dir, roots }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn open(&self, path: &Path, access: Access) -> Chain {
        Chain::open(path, access, &self.roots).unwrap()
    }
}

fn qemu_img(args: &[&str]) -> String {
    let out = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is installed");
    assert!(
        out.status.success(),
        "qemu-img {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// What qemu reads from the chain, as raw bytes.
fn qemu_reads(store: &Store, top: &Path) -> Vec<u8> {
    let raw = store.path("out.raw");
    qemu_img(&[
        "convert",
        "-O",
        "raw",
        top.to_str().unwrap(),
        raw.to_str().unwrap(),
    ]);
    fs::read(raw).unwrap()
}

fn we_read(chain: &Chain) -> Vec<u8> {
    let mut all = vec![0; chain.capacity() as usize];
    chain.read_at(&mut all, 0).unwrap();
    all
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

#[test]
fn a_chain_of_three_is_accepted_and_read_alike_by_qemu_img() {
    let store = Store::new();
    let base = store.path("images/scratch.vmdk");
    let layer = store.path("images/layer/layer.vmdk");
    let top = store.path("vm/top.vmdk");
    let size = 24 << 20;
    vmdk::create_flat(&base, size).unwrap();
    store
        .open(&base, Access::ReadWrite)
        .write_at(&pattern(1, 300_000), 5000)
        .unwrap();
    vmdk::create_child(&layer, &base, None).unwrap();
    store
        .open(&layer, Access::ReadWrite)
        .write_at(&pattern(2, 200_000), 100_000)
        .unwrap();
    vmdk::create_child(&top, &layer, None).unwrap();
    {
        let chain = store.open(&top, Access::ReadWrite);
        assert_eq!(chain.depth(), 3);
        chain
            .write_at(&pattern(3, 3_000_000), size - 3_000_000)
            .unwrap();
        chain.write_at(&pattern(4, 1000), 150_000).unwrap();
        chain.zero_at(200_000, 90_000).unwrap();
        chain.flush().unwrap();
    }
    let info = qemu_img(&["info", "--backing-chain", top.to_str().unwrap()]);
    assert!(
        info.contains("backing file: ../images/layer/layer.vmdk"),
        "{info}"
    );
    assert!(info.contains("scratch-flat.vmdk"), "{info}");
    for disk in [&top, &layer] {
        qemu_img(&["check", disk.to_str().unwrap()]);
    }
    let ours = we_read(&store.open(&top, Access::ReadOnly));
    assert_eq!(&ours[150_000..151_000], &pattern(4, 1000)[..]);
    assert!(ours[200_000..290_000].iter().all(|b| *b == 0));
    assert!(ours == qemu_reads(&store, &top));
}

#[test]
fn a_disk_made_by_qemu_img_is_read_and_written() {
    let store = Store::new();
    let (base, child) = (store.path("b.vmdk"), store.path("c.vmdk"));
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        base.to_str().unwrap(),
        "8M",
    ]);
    let there = store.dir.path().to_str().unwrap();
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-F",
        "vmdk",
        "-b",
        &format!("{there}/b.vmdk"),
        child.to_str().unwrap(),
    ]);
    {
        let chain = store.open(&child, Access::ReadWrite);
        chain.write_at(&pattern(9, 100_000), 70_000).unwrap();
        chain.zero_at(0, 10 * GRAIN).unwrap();
        chain.write_at(&pattern(9, 100_000), 70_000).unwrap();
    }
    qemu_img(&["check", child.to_str().unwrap()]);
    assert!(we_read(&store.open(&child, Access::ReadOnly)) == qemu_reads(&store, &child));
}

#[test]
fn the_lock_is_exclusive_for_writers_and_shared_for_readers() {
    let store = Store::new();
    let (base, a, b) = (
        store.path("base.vmdk"),
        store.path("a.vmdk"),
        store.path("b.vmdk"),
    );
    vmdk::create_flat(&base, 1 << 20).unwrap();
    vmdk::create_child(&a, &base, None).unwrap();
    vmdk::create_child(&b, &base, None).unwrap();
    let running = store.open(&a, Access::ReadWrite);
    let second = Chain::open(&a, Access::ReadOnly, &store.roots).unwrap_err();
    assert_eq!(
        second.to_string(),
        format!("Failed to lock the file {}", a.display())
    );
    assert!(second.is_retryable());
    let _other = store.open(&b, Access::ReadWrite);
    for refused in [
        vmdk::delete(&a).unwrap_err(),
        vmdk::delete(&base).unwrap_err(),
        vmdk::rename(&a, &store.path("x.vmdk")).unwrap_err(),
        vmdk::extend(&base, 2 << 20).unwrap_err(),
        vmdk::create_child(&store.path("y.vmdk"), &a, None).unwrap_err(),
        Chain::open(&base, Access::ReadWrite, &store.roots).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    }
    drop(running);
    vmdk::delete(&a).unwrap();
    assert!(!a.exists());
}

#[test]
fn a_child_of_a_changed_parent_does_not_open() {
    let store = Store::new();
    let (base, child) = (store.path("base.vmdk"), store.path("child.vmdk"));
    let before = vmdk::create_flat(&base, 1 << 20).unwrap();
    vmdk::create_child(&child, &base, None).unwrap();
    drop(store.open(&base, Access::ReadWrite));
    assert_eq!(
        vmdk::inspect(&base).unwrap().cid,
        before.cid,
        "opening alone changes nothing"
    );
    store
        .open(&base, Access::ReadWrite)
        .write_at(&[1], 0)
        .unwrap();
    assert_ne!(vmdk::inspect(&base).unwrap().cid, before.cid);
    let refused = Chain::open(&child, Access::ReadOnly, &store.roots).unwrap_err();
    assert!(matches!(refused, Error::ParentModified { .. }), "{refused}");
}

#[test]
fn no_path_leads_out_of_the_datastores() {
    let (store, other) = (Store::new(), Store::new());
    let (outside, child) = (other.path("o.vmdk"), store.path("c.vmdk"));
    vmdk::create_flat(&outside, 1 << 20).unwrap();
    vmdk::create_child(&child, &outside, None).unwrap();
    let refused = Chain::open(&child, Access::ReadOnly, &store.roots).unwrap_err();
    assert!(matches!(refused, Error::Outside { .. }), "{refused}");
    let link = store.path("link.vmdk");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    assert!(matches!(
        Chain::open(&link, Access::ReadOnly, &store.roots),
        Err(Error::Outside { .. })
    ));
    // The extent of a descriptor may not be a link either.
    let flat = store.path("f.vmdk");
    vmdk::create_flat(&flat, 1 << 20).unwrap();
    let extent = store.path("f-flat.vmdk");
    fs::remove_file(&extent).unwrap();
    std::os::unix::fs::symlink(other.path("o-flat.vmdk"), &extent).unwrap();
    assert!(Chain::open(&flat, Access::ReadOnly, &store.roots).is_err());
}

#[test]
fn a_loop_of_parents_is_refused() {
    let store = Store::new();
    let (base, a) = (store.path("base.vmdk"), store.path("a.vmdk"));
    vmdk::create_flat(&base, 1 << 20).unwrap();
    let info = vmdk::create_child(&a, &base, None).unwrap();
    let mut raw = fs::read(&a).unwrap();
    let text = String::from_utf8(raw[512..512 + 20 * 512].to_vec()).unwrap();
    let mut text = text
        .replace("\"base.vmdk\"", "\"a.vmdk\"")
        .replace(
            &format!("{:08x}", info.parent_cid),
            &format!("{:08x}", info.cid),
        )
        .into_bytes();
    text.resize(20 * 512, 0);
    raw[512..512 + 20 * 512].copy_from_slice(&text);
    fs::write(&a, raw).unwrap();
    let refused = Chain::open(&a, Access::ReadOnly, &store.roots).unwrap_err();
    assert!(matches!(refused, Error::ChainTooLong { .. }), "{refused}");
}

#[test]
fn copies_are_sparse_flattened_and_of_their_own() {
    let store = Store::new();
    let (base, top) = (store.path("base.vmdk"), store.path("top.vmdk"));
    vmdk::create_flat(&base, 8 << 30).unwrap();
    store
        .open(&base, Access::ReadWrite)
        .write_at(&pattern(1, 100_000), 4 << 30)
        .unwrap();
    vmdk::create_child(&top, &base, None).unwrap();
    store
        .open(&top, Access::ReadWrite)
        .write_at(&pattern(2, 100_000), 5 << 30)
        .unwrap();
    for (from, name) in [(&base, "flat copy.vmdk"), (&top, "chain copy.vmdk")] {
        let to = store.path(name);
        let info = vmdk::copy(from, &to, &store.roots).unwrap();
        assert_eq!((info.capacity, info.parent), (8 << 30, None));
        assert!(
            info.allocated < 4 << 20,
            "{} bytes allocated",
            info.allocated
        );
        assert_ne!(info.uuid, vmdk::inspect(from).unwrap().uuid);
        let mut got = vec![0; 100_000];
        store
            .open(&to, Access::ReadOnly)
            .read_at(&mut got, 4 << 30)
            .unwrap();
        assert_eq!(got, pattern(1, 100_000));
        assert!(matches!(
            vmdk::copy(from, &to, &store.roots),
            Err(Error::AlreadyExists { .. })
        ));
    }
    let mut got = vec![0; 100_000];
    store
        .open(&store.path("chain copy.vmdk"), Access::ReadOnly)
        .read_at(&mut got, 5 << 30)
        .unwrap();
    assert_eq!(got, pattern(2, 100_000));
}

#[test]
fn disks_move_with_their_extents_and_find_their_parents_again() {
    let store = Store::new();
    let (base, child) = (store.path("d/base.vmdk"), store.path("d/child.vmdk"));
    vmdk::create_flat(&base, 1 << 20).unwrap();
    vmdk::create_child(&child, &base, None).unwrap();
    let moved = store.path("e/f/kid.vmdk");
    vmdk::rename(&child, &moved).unwrap();
    assert!(!child.exists());
    assert_eq!(store.open(&moved, Access::ReadOnly).depth(), 2);
    qemu_img(&["info", "--backing-chain", moved.to_str().unwrap()]);
    vmdk::delete(&moved).unwrap();
    let away = store.path("e/root.vmdk");
    let info = vmdk::rename(&base, &away).unwrap();
    assert_eq!(info.extent, store.path("e/root-flat.vmdk"));
    assert_eq!(fs::read_dir(store.dir.path().join("d")).unwrap().count(), 0);
    let info = vmdk::extend(&away, 3 << 20).unwrap();
    assert_eq!(info.capacity, 3 << 20);
    assert!(matches!(
        vmdk::extend(&away, 1 << 20),
        Err(Error::Invalid { .. })
    ));
    assert!(qemu_img(&["info", away.to_str().unwrap()]).contains("3 MiB"));
}

#[test]
fn zeros_take_no_space_and_closing_gives_back_what_was_not_needed() {
    let store = Store::new();
    let (base, child) = (store.path("base.vmdk"), store.path("child.vmdk"));
    vmdk::create_flat(&base, 1 << 30).unwrap();
    vmdk::create_child(&child, &base, None).unwrap();
    let empty = fs::metadata(&child).unwrap().len();
    let chain = store.open(&child, Access::ReadWrite);
    chain.zero_at(0, 1 << 30).unwrap();
    chain.write_at(&vec![0; 1 << 20], 1 << 20).unwrap();
    chain.write_at(b"x", 5 << 20).unwrap();
    drop(chain);
    let meta = fs::metadata(&child).unwrap();
    assert_eq!(meta.len(), empty + GRAIN);
    assert!(meta.blocks() * 512 < 1 << 20);
    qemu_img(&["check", child.to_str().unwrap()]);
}

#[test]
fn a_larger_child_reads_zeros_behind_its_parent() {
    let store = Store::new();
    let (base, child) = (store.path("base.vmdk"), store.path("child.vmdk"));
    vmdk::create_flat(&base, (1 << 20) + 512).unwrap();
    store
        .open(&base, Access::ReadWrite)
        .write_at(&pattern(1, 1024), (1 << 20) - 512)
        .unwrap();
    vmdk::create_child(&child, &base, Some(3 << 20)).unwrap();
    store
        .open(&child, Access::ReadWrite)
        .write_at(b"y", (1 << 20) + 600)
        .unwrap();
    let ours = we_read(&store.open(&child, Access::ReadOnly));
    assert_eq!(ours.len(), 3 << 20);
    assert!(ours == qemu_reads(&store, &child));
    assert!(matches!(
        vmdk::create_child(&store.path("small.vmdk"), &child, Some(1 << 20)),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn a_killed_writer_leaves_a_consistent_disk_with_all_answered_writes() {
    // The writer is this test binary again; it says each write that was answered, and is killed
    // at a random one.
    if let Ok(dir) = std::env::var("VMDK_WRITER") {
        let roots = Roots::new([&dir]).unwrap();
        let chain =
            Chain::open(&Path::new(&dir).join("c.vmdk"), Access::ReadWrite, &roots).unwrap();
        for i in 0u64.. {
            let at = (i * 37 % 400) * 40_960;
            chain.write_at(&pattern(i as u8, 40_960), at).unwrap();
            println!("\nwrote {i}");
        }
    }
    let store = Store::new();
    let (base, child) = (store.path("b.vmdk"), store.path("c.vmdk"));
    vmdk::create_flat(&base, 32 << 20).unwrap();
    store
        .open(&base, Access::ReadWrite)
        .write_at(&pattern(77, 16 << 20), 0)
        .unwrap();
    for kill_at in [3u64, 90, 333] {
        let _ = vmdk::delete(&child);
        vmdk::create_child(&child, &base, None).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_killed_writer_leaves_a_consistent_disk_with_all_answered_writes",
                "--nocapture",
            ])
            .env("VMDK_WRITER", store.dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(writer.stdout.take().unwrap()));
        let mut last = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("wrote ") {
                last = n.parse().unwrap();
                if last == kill_at {
                    writer.kill().unwrap();
                }
            }
        }
        writer.wait().unwrap();
        assert!(last >= kill_at);
        qemu_img(&["check", child.to_str().unwrap()]);
        let mut expected = pattern(77, 16 << 20);
        expected.resize(32 << 20, 0);
        for i in 0..=last {
            let at = ((i * 37 % 400) * 40_960) as usize;
            expected[at..at + 40_960].copy_from_slice(&pattern(i as u8, 40_960));
        }
        // The write that was under way may be there or not, in whole grains or in part.
        let open = (((last + 1) * 37 % 400) * 40_960) as usize;
        let mut got = we_read(&store.open(&child, Access::ReadWrite));
        got[open..open + 40_960].copy_from_slice(&expected[open..open + 40_960]);
        assert!(got == expected, "after {last} writes");
        let more = store.open(&child, Access::ReadWrite);
        more.write_at(&pattern(5, 500_000), 17 << 20).unwrap();
        drop(more);
        qemu_img(&["check", child.to_str().unwrap()]);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: usize, seed: u8 },
    WriteZeros { at: u64, len: usize },
    Zero { at: u64, len: usize },
    Reopen,
    Descend,
}

const SIZE: u64 = 1 << 20;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let place =
        (0..SIZE, 1usize..200_000).prop_map(|(at, len)| (at, len.min((SIZE - at) as usize)));
    let op = prop_oneof![
        6 => (place.clone(), any::<u8>()).prop_map(|((at, len), seed)| Op::Write { at, len, seed }),
        2 => place.clone().prop_map(|(at, len)| Op::WriteZeros { at, len }),
        2 => place.prop_map(|(at, len)| Op::Zero { at, len }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Descend),
    ];
    proptest::collection::vec(op, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_chain_behaves_like_an_array_of_bytes(ops in ops()) {
        let store = Store::new();
        let mut depth = 0;
        let mut top = store.path("d0.vmdk");
        vmdk::create_flat(&top, SIZE).unwrap();
        let mut chain = store.open(&top, Access::ReadWrite);
        let mut model = vec![0u8; SIZE as usize];
        for op in ops {
            match op {
                Op::Write { at, len, seed } => {
                    let data = pattern(seed, len);
                    chain.write_at(&data, at).unwrap();
                    model[at as usize..at as usize + len].copy_from_slice(&data);
                }
                Op::WriteZeros { at, len } => {
                    chain.write_at(&vec![0; len], at).unwrap();
                    model[at as usize..at as usize + len].fill(0);
                }
                Op::Zero { at, len } => {
                    chain.zero_at(at, len as u64).unwrap();
                    model[at as usize..at as usize + len].fill(0);
                }
                Op::Reopen => {
                    drop(chain);
                    chain = store.open(&top, Access::ReadWrite);
                }
                Op::Descend => {
                    drop(chain);
                    depth += 1;
                    let child = store.path(&format!("d{depth}.vmdk"));
                    vmdk::create_child(&child, &top, None).unwrap();
                    top = child;
                    chain = store.open(&top, Access::ReadWrite);
                }
            }
        }
        prop_assert!(we_read(&chain) == model);
        drop(chain);
        prop_assert!(qemu_reads(&store, &top) == model);
    }
}
