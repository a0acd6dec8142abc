//! The container's view of files: its disk as root, kernel file systems, devices, volumes, masks.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tether_protocol::config::{Mount, MountSource, Session};
use tether_sys::mount::{
    self, MNT_DETACH, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC,
    MS_REMOUNT, makedev,
};
use tether_sys::{process, pty::Pty};

use super::Sandbox;
use super::error::{LaunchError, Step};
use crate::disk;
use crate::network::names;

/// Size of `/dev/shm` when none is asked for.
const SHM_SIZE: u64 = 64 * 1024 * 1024;

/// Paths that show nothing.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that cannot be written.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// Makes `root` the root of this process, which has namespaces of its own, and puts everything in
/// its place.
pub(super) fn enter(sandbox: &Sandbox<'_>, root: &Path, spec: &Session) -> Result<(), LaunchError> {
    let config = sandbox.config;
    process::set_hostname(config.host_name()).step("setting the host name")?;
    if !config.domainname.is_empty() {
        process::set_domainname(&config.domainname).step("setting the domain name")?;
    }
    mount::mount(None, Path::new("/"), None, MS_REC | MS_PRIVATE, None)
        .step("making mounts private")?;
    // What comes from outside is held by descriptors across the change of root.
    let clone = |path: &PathBuf| mount::clone_tree(path, false);
    let names = sandbox
        .names
        .iter()
        .map(clone)
        .collect::<io::Result<Vec<_>>>();
    let names = names.step("taking the name files")?;
    let volumes = sandbox
        .volumes
        .iter()
        .map(|v| v.as_ref().map(clone).transpose());
    let volumes = volumes
        .collect::<io::Result<Vec<_>>>()
        .step("taking the volumes")?;
    change_root(root).step("entering the root file system")?;
    kernel_file_systems(sandbox).step("mounting kernel file systems")?;
    let privileged = spec.security.privileged;
    mount_volumes(&config.mounts, volumes)?;
    for (name, file) in names::FILES.iter().zip(&names) {
        bind_file(file, &Path::new("/etc").join(name)).step("placing the name files")?;
    }
    for sysctl in &config.sysctls {
        set_sysctl(sysctl)?;
    }
    if !privileged && !spec.security.paths_unmasked {
        mask().step("masking paths")?;
    }
    if config.rootfs.read_only {
        let flags = MS_REMOUNT | MS_BIND | MS_RDONLY;
        mount::mount(None, Path::new("/"), None, flags, None).step("making the root read-only")?;
    }
    Ok(())
}

fn change_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    let here = Path::new(".");
    if mount::pivot_root(here, here).is_ok() {
        mount::umount(here, MNT_DETACH)?;
    } else {
        // The kernel's own first root cannot be left, only covered.
        mount::mount(Some(here), Path::new("/"), None, mount::MS_MOVE, None)?;
        process::chroot(here)?;
    }
    std::env::set_current_dir("/")
}

fn kernel_file_systems(sandbox: &Sandbox<'_>) -> io::Result<()> {
    let careful = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    place("/proc", "proc", careful, "")?;
    place("/dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k")?;
    let dev = fs::File::open("/dev")?;
    let old = process::umask(0);
    for (name, major, minor) in NODES {
        let mode = nix::libc::S_IFCHR | 0o666;
        mount::mknod_at(dev.as_fd(), name, mode, makedev(*major, *minor))?;
    }
    let _ = process::umask(old);
    for (target, name) in LINKS {
        symlink(target, Path::new("/dev").join(name))?;
    }
    place(
        "/dev/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    let size = sandbox.config.shm_size;
    let size = if size == 0 { SHM_SIZE } else { size };
    place(
        "/dev/shm",
        "tmpfs",
        careful,
        &format!("mode=1777,size={size}"),
    )?;
    place("/dev/mqueue", "mqueue", careful, "")?;
    // An engine without a kernel of its own may refuse these two; programs live without them.
    if place("/sys", "sysfs", careful | MS_RDONLY, "").is_ok() && sandbox.cgroup.is_some() {
        let target = Path::new("/sys/fs/cgroup");
        let _ = mount::mount(
            Some(Path::new("cgroup")),
            target,
            Some("cgroup2"),
            careful | MS_RDONLY,
            None,
        );
    }
    Ok(())
}

/// Mounts a new file system of the kernel's at `target`.
fn place(target: &str, kind: &str, flags: u64, options: &str) -> io::Result<()> {
    let target = Path::new(target);
    if !target.is_dir() {
        fs::create_dir_all(target)?;
    }
    let options = Some(options).filter(|o| !o.is_empty());
    mount::mount(Some(Path::new(kind)), target, Some(kind), flags, options)
}

fn mount_volumes(mounts: &[Mount], volumes: Vec<Option<OwnedFd>>) -> Result<(), LaunchError> {
    let mut all: Vec<_> = mounts.iter().zip(volumes).collect();
    // A mount below another one comes after it.
    all.sort_by(|(a, _), (b, _)| a.dest.cmp(&b.dest));
    for (mount, volume) in all {
        let dest = Path::new(&mount.dest);
        let what = format!("mounting {} at {}", mount.name, mount.dest);
        fs::create_dir_all(dest).step(&what)?;
        match (mount.source(), volume) {
            (MountSource::Tmpfs, _) => tmpfs(mount).step(&what)?,
            (MountSource::Disk(_), Some(volume)) => {
                place_volume(mount, &volume).step(&what)?;
            }
            (MountSource::Disk(_), None) => {}
        }
    }
    Ok(())
}

fn tmpfs(mount: &Mount) -> io::Result<()> {
    let mut flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let mut options = Vec::new();
    for option in mount.options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => flags |= MS_RDONLY,
            "exec" => flags &= !MS_NOEXEC,
            "suid" => flags &= !MS_NOSUID,
            "dev" => flags &= !MS_NODEV,
            "rw" | "noexec" | "nosuid" | "nodev" => {}
            other => options.push(other),
        }
    }
    if mount.read_only {
        flags |= MS_RDONLY;
    }
    mount::mount(
        Some(Path::new("tmpfs")),
        Path::new(&mount.dest),
        Some("tmpfs"),
        flags,
        Some(options.join(",")).filter(|o| !o.is_empty()).as_deref(),
    )
}

fn place_volume(mount: &Mount, volume: &OwnedFd) -> io::Result<()> {
    let dest = Path::new(&mount.dest);
    // The volume is reached by its descriptor, so that nothing in the image is in the way. The dot stands for the
    // directory: without it, the owner that is set would be the link's.
    let inside = PathBuf::from(format!(
        "/proc/self/fd/{}/.",
        std::os::fd::AsRawFd::as_raw_fd(volume)
    ));
    if mount.copy_up && disk::is_empty(&inside) {
        disk::copy_owner(&fs::metadata(dest)?, &inside)?;
        disk::copy_tree(dest, &inside)?;
    }
    mount::attach(volume.as_fd(), dest)?;
    if !mount.subpath.is_empty() {
        let sub = dest.join(mount.subpath.trim_start_matches('/'));
        mount::mount(Some(&sub), dest, None, MS_BIND, None)?;
    }
    if mount.read_only {
        mount::mount(None, dest, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)?;
    }
    Ok(())
}

/// Puts a detached bind mount of a file over `target`, which is made when it is not there.
fn bind_file(file: &OwnedFd, target: &Path) -> io::Result<()> {
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
    }
    // An image's own may be a link to nowhere, or to a place of systemd's.
    if !target.is_file() {
        let _ = fs::remove_file(target);
        fs::write(target, "")?;
    }
    mount::attach(file.as_fd(), target)
}

fn set_sysctl(sysctl: &str) -> Result<(), LaunchError> {
    let (name, value) = sysctl.split_once('=').unwrap_or((sysctl, ""));
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(path, value).step(&format!("setting {name}"))
}

fn mask() -> io::Result<()> {
    for path in MASKED.iter().map(Path::new) {
        let Ok(data) = fs::metadata(path) else {
            continue;
        };
        if data.is_dir() {
            mount::mount(
                Some(Path::new("tmpfs")),
                path,
                Some("tmpfs"),
                MS_RDONLY,
                None,
            )?;
        } else {
            mount::mount(Some(Path::new("/dev/null")), path, None, MS_BIND, None)?;
        }
    }
    for path in READ_ONLY.iter().map(Path::new).filter(|path| path.exists()) {
        mount::mount(Some(path), path, None, MS_BIND | MS_REC, None)?;
        let flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
        mount::mount(None, path, None, flags, None)?;
    }
    Ok(())
}

/// Shows the terminal as `/dev/console`.
pub(super) fn console(sandbox: &Sandbox<'_>, pty: &Pty) -> Result<(), LaunchError> {
    if sandbox.root.is_none() {
        return Ok(());
    }
    let console = Path::new("/dev/console");
    let slave = PathBuf::from(format!("/dev/pts/{}", pty.number));
    fs::write(console, "").step("making the console")?;
    fs::set_permissions(console, fs::Permissions::from_mode(0o600)).step("making the console")?;
    mount::mount(Some(&slave), console, None, MS_BIND, None).step("placing the console")
}
