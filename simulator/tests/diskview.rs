//! Attached disks as block devices, with the kernel's ext4 on them. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use simulator::diskview::{AttachedDisk, DiskView, Error};
use simulator::vmdk::{self, Access, Roots};

const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    view: DiskView,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let view =
            DiskView::start(Roots::new([dir.path()]).unwrap()).expect("these tests need root");
        Self { dir, view }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn formatted(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        vmdk::create_flat(&path, size).unwrap();
        let disk = self.view.attach(&path, Access::ReadWrite).unwrap();
        run("mkfs.ext4", &["-q", &node(&disk)]);
        disk.detach(DEADLINE).unwrap();
        path
    }
}

fn node(disk: &AttachedDisk) -> String {
    format!("/dev/loop{}", disk.number())
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A mount that a failing test does not leave behind.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &str, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "ext4", device, at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn ext4_lives_on_a_chain_and_its_files_are_there_again() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 1 << 30);
    let child = bench.path("child.vmdk");
    vmdk::create_child(&child, &base, None).unwrap();
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    {
        let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
        assert_eq!(disk.capacity(), 1 << 30);
        assert_eq!(disk.device().0, 7);
        let mounted = Mounted::new(&node(&disk), bench.path("mnt"));
        fs::write(mounted.0.join("hello"), &data).unwrap();
        drop(mounted);
        disk.detach(DEADLINE).unwrap();
    }
    assert_eq!(bench.view.attached(), 0);
    run("qemu-img", &["check", child.to_str().unwrap()]);
    let raw = bench.path("all.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-O",
            "raw",
            child.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    );
    run("e2fsck", &["-fn", raw.to_str().unwrap()]);
    let disk = bench.view.attach(&child, Access::ReadOnly).unwrap();
    let mounted = {
        let at = bench.path("again");
        fs::create_dir_all(&at).unwrap();
        run(
            "mount",
            &["-t", "ext4", "-o", "ro", &node(&disk), at.to_str().unwrap()],
        );
        Mounted(at)
    };
    assert!(fs::read(mounted.0.join("hello")).unwrap() == data);
}

#[test]
fn a_disk_in_use_is_locked_until_its_last_user_is_gone() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 64 << 20);
    let disk = bench.view.attach(&base, Access::ReadWrite).unwrap();
    let refused = bench.view.attach(&base, Access::ReadWrite).unwrap_err();
    assert!(
        matches!(
            &refused,
            Error::Disk {
                source: vmdk::Error::Locked { .. },
                ..
            }
        ),
        "{refused}"
    );
    let other_opener = fs::File::open(node(&disk)).unwrap();
    let refused = disk.detach(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    drop(other_opener);
    // Now it goes by itself; the next attach waits for nothing but that.
    let deadline = Instant::now() + DEADLINE;
    while bench.view.attached() > 0 {
        assert!(Instant::now() < deadline, "the disk was never let go");
        std::thread::yield_now();
    }
    bench
        .view
        .attach(&base, Access::ReadWrite)
        .unwrap()
        .detach(DEADLINE)
        .unwrap();
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 8 << 20);
    let disk = bench.view.attach(&base, Access::ReadOnly).unwrap();
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(node(&disk));
    assert!(device.is_err() || device.unwrap().write_all_at(&[0; 512], 0).is_err());
    disk.detach(DEADLINE).unwrap();
}

#[test]
fn discarded_space_is_given_back() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 256 << 20);
    let child = bench.path("child.vmdk");
    vmdk::create_child(&child, &base, None).unwrap();
    let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
    let mounted = Mounted::new(&node(&disk), bench.path("mnt"));
    let file = mounted.0.join("big");
    fs::write(&file, vec![7u8; 64 << 20]).unwrap();
    run("sync", &["-f", file.to_str().unwrap()]);
    let full = vmdk::inspect(&child).unwrap().allocated;
    fs::remove_file(&file).unwrap();
    // The blocks are free when the journal says so.
    run("sync", &["-f", mounted.0.to_str().unwrap()]);
    run("fstrim", &[mounted.0.to_str().unwrap()]);
    let trimmed = vmdk::inspect(&child).unwrap().allocated;
    assert!(
        full > 64 << 20 && trimmed + (48 << 20) < full,
        "{full} → {trimmed}"
    );
    drop(mounted);
    disk.detach(DEADLINE).unwrap();
}

#[test]
fn many_disks_come_and_go_at_once() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 64 << 20);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (bench, base) = (&bench, &base);
            scope.spawn(move || {
                for turn in 0..5 {
                    let child = bench.path(&format!("c{worker}-{turn}.vmdk"));
                    vmdk::create_child(&child, base, None).unwrap();
                    let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
                    disk.file()
                        .write_all_at(&[worker as u8 + 1; 4096], 32 << 20)
                        .unwrap();
                    disk.file().sync_all().unwrap();
                    disk.detach(DEADLINE).unwrap();
                    vmdk::delete(&child).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.view.attached(), 0);
}

/// Runs in a process of its own (this test binary again) and is killed while ext4 on its disk is
/// written with syncs.
fn victim(dir: &Path) -> ! {
    let view = DiskView::start(Roots::new([dir]).unwrap()).unwrap();
    let disk = view
        .attach(&dir.join("child.vmdk"), Access::ReadWrite)
        .unwrap();
    println!("\nattached {}", disk.number());
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_is_left_after_a_kill() {
    const NAME: &str = "nothing_is_left_after_a_kill";
    if let Ok(dir) = std::env::var("DISKVIEW_VICTIM") {
        victim(Path::new(&dir));
    }
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 256 << 20);
    let child = bench.path("child.vmdk");
    vmdk::create_child(&child, &base, None).unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("DISKVIEW_VICTIM", bench.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let number = BufReader::new(server.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("attached ").map(str::to_owned))
        .unwrap();
    let mounted = Mounted::new(&format!("/dev/loop{number}"), bench.path("mnt"));
    let mut writer = Command::new("sh")
        .args(["-c", "i=0; while dd if=/dev/zero of=f$i bs=64k count=16 conv=fsync 2>/dev/null; do i=$((i+1)); echo $i; done"])
        .current_dir(&mounted.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    for _ in 0..5 {
        lines.next().unwrap().unwrap();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    // The writer sees an error, not a hang.
    writer.wait().unwrap();
    run("umount", &[mounted.0.to_str().unwrap()]);
    std::mem::forget(mounted);
    let deadline = Instant::now() + DEADLINE;
    let backing = format!("/sys/block/loop{number}/loop/backing_file");
    while fs::read_to_string(&backing).is_ok() {
        assert!(Instant::now() < deadline, "the loop device is still there");
        std::thread::yield_now();
    }
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains("vic-disks")
    );
    // The disk opens again, is consistent, and the journal repairs the file system at its mount.
    run("qemu-img", &["check", child.to_str().unwrap()]);
    let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
    let mounted = Mounted::new(&node(&disk), bench.path("again"));
    assert!(mounted.0.join("f3").metadata().unwrap().len() == 1 << 20);
    drop(mounted);
    run("e2fsck", &["-fn", &node(&disk)]);
    disk.detach(DEADLINE).unwrap();
}

/// Prints what the path gives here; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput_and_latency() {
    let bench = Bench::new();
    let base = bench.formatted("base.vmdk", 8 << 30);
    let child = bench.path("child.vmdk");
    let start = Instant::now();
    vmdk::create_child(&child, &base, None).unwrap();
    println!("create child {:?}", start.elapsed());
    for _ in 0..5 {
        let start = Instant::now();
        let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
        let attached = start.elapsed();
        let at = bench.path("mnt");
        let mounted = Mounted::new(&node(&disk), at.clone());
        let mount = start.elapsed() - attached;
        let start = Instant::now();
        drop(mounted);
        let umount = start.elapsed();
        let start = Instant::now();
        disk.detach(DEADLINE).unwrap();
        println!(
            "attach {attached:?} mount {mount:?} umount {umount:?} detach {:?}",
            start.elapsed()
        );
    }
    let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
    let mounted = Mounted::new(&node(&disk), bench.path("mnt"));
    let file = mounted.0.join("f");
    for round in 0..3 {
        let dd = |args: &[&str]| {
            let out = Command::new("dd").args(args).output().unwrap();
            String::from_utf8_lossy(&out.stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()
        };
        let of = format!("of={}", file.display());
        let input = format!("if={}", file.display());
        let source = "if=/dev/urandom";
        let _ = source;
        let data = bench.path("data");
        if round == 0 {
            fs::write(
                &data,
                (0..256usize << 20)
                    .map(|i| (i >> 7) as u8 | 1)
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        }
        println!(
            "write {}",
            dd(&[
                &format!("if={}", data.display()),
                &of,
                "bs=1M",
                "conv=fsync,notrunc"
            ])
        );
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        println!("read  {}", dd(&[&input, "of=/dev/null", "bs=1M"]));
    }
}

/// Prints what a long chain costs; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_price_of_a_long_chain() {
    let bench = Bench::new();
    let mut top = bench.formatted("d0.vmdk", 8 << 30);
    let mut depth = 1;
    for wanted in [2, 8, 32, 64, 128] {
        while depth < wanted {
            let child = bench.path(&format!("d{depth}.vmdk"));
            vmdk::create_child(&child, &top, None).unwrap();
            let disk = bench.view.attach(&child, Access::ReadWrite).unwrap();
            let mounted = Mounted::new(&node(&disk), bench.path("mnt"));
            fs::write(
                mounted.0.join(format!("f{depth}")),
                vec![depth as u8; 4 << 20],
            )
            .unwrap();
            drop(mounted);
            disk.detach(DEADLINE).unwrap();
            (top, depth) = (child, depth + 1);
        }
        let start = Instant::now();
        let disk = bench.view.attach(&top, Access::ReadWrite).unwrap();
        let attach = start.elapsed();
        let mounted = Mounted::new(&node(&disk), bench.path("mnt"));
        let mount = start.elapsed() - attach;
        let start = Instant::now();
        let bytes: usize = (1..depth)
            .map(|i| fs::read(mounted.0.join(format!("f{i}"))).unwrap().len())
            .sum();
        let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e6;
        drop(mounted);
        disk.detach(DEADLINE).unwrap();
        println!("depth {depth}: attach {attach:?}, mount {mount:?}, read {rate:.0} MB/s");
    }
}
