//! One guest, as the helper holds it: how it is made, and its `/dev` while it runs.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use nix::libc;
use tether_sys::bpf::{DeviceRule, Program};
use tether_sys::netlink::{Netlink, Veth};
use tether_sys::{mount, process};

use super::super::protocol::{Disk, Nic, Start};
use super::super::walls::{Wall, Walls};
use super::cgroup::GuestCgroup;
use super::stem::Stem;
use super::{Helper, StepError, step};

/// Character devices that every guest has: name, major, minor, mode.
const NODES: [(&str, u32, u32, u32); 6] = [
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("tty", 5, 0, 0o666),
];

/// What may be opened without a node in the guest's `/dev`: ptmx, and the terminals of any devpts.
const PTMX: (u32, u32) = (5, 2);
/// Majors of Unix98 terminals.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// A guest that runs.
pub(super) struct Guest {
    child: process::Child,
    cgroup: GuestCgroup,
    /// The attached device program, and the cgroup directory that it is attached to.
    wall: Option<(Program, OwnedFd)>,
    disks: Vec<Disk>,
    /// The guest's `/dev` and `/dev/disk/by-slot`: held open, since the guest may move them about.
    dev: OwnedFd,
    by_slot: OwnedFd,
}

impl Guest {
    /// Makes a guest; returns when its PID 1 runs.
    pub(super) fn start(
        helper: &mut Helper,
        start: &Start,
        console: OwnedFd,
        listeners: &mut Vec<OwnedFd>,
        steps: &mut Vec<(String, u64)>,
    ) -> Result<Self, StepError> {
        let mut clock = Instant::now();
        let mut lap = |name: &str| {
            steps.push((name.to_owned(), clock.elapsed().as_micros() as u64));
            clock = Instant::now();
        };
        let stem = helper.take_stem()?;
        lap("stem");
        match Self::assemble(helper, &stem, start, &console, listeners, &mut lap) {
            Ok((wall, dev, by_slot)) => {
                let (child, cgroup) = stem.into_parts();
                let disks = start.disks.clone();
                Ok(Self {
                    child,
                    cgroup,
                    wall,
                    disks,
                    dev,
                    by_slot,
                })
            }
            Err(error) => {
                listeners.clear();
                helper.untidy.push(stem.abandon());
                Err(error)
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn assemble(
        helper: &mut Helper,
        stem: &Stem,
        start: &Start,
        console: &OwnedFd,
        listeners: &mut Vec<OwnedFd>,
        lap: &mut impl FnMut(&str),
    ) -> Result<(Option<(Program, OwnedFd)>, OwnedFd, OwnedFd), StepError> {
        helper
            .cgroups
            .limit(stem.cgroup(), start.cpu_millis, start.memory_mb);
        let wall = raise_walls(&helper.walls, start, stem.cgroup())?;
        lap("walls");
        let (dev, by_slot) = make_dev(start, listeners).map_err(step("make the guest's /dev"))?;
        lap("dev");
        let root = mount::clone_tree(&helper.roots.join(&start.root), false)
            .map_err(step("bind the guest's root"))?;
        let flags = mount::ATTR_RDONLY | mount::ATTR_NODEV | mount::ATTR_NOSUID;
        mount::set_attributes(root.as_fd(), flags).map_err(step("bind the guest's root"))?;
        let (mut names, mut fds) = (Vec::new(), vec![root.as_fd(), dev.as_fd(), console.as_fd()]);
        let files = bind_files(&start.serials)?;
        for (name, tree) in &files {
            names.push(name.clone());
            fds.push(tree.as_fd());
        }
        stem.send_parts(&names, &fds)?;
        lap("parts");
        // Without a namespace of its own, the guest's ends would be the host's links.
        let nics: &[Nic] = if helper.walls.has(Wall::Network) {
            &start.nics
        } else {
            &[]
        };
        plug(helper.netlink.as_mut(), nics, stem.pid())?;
        lap("nics");
        stem.release()?;
        lap("boot");
        Ok((wall, dev, by_slot))
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    pub(super) fn into_cgroup(self) -> GuestCgroup {
        self.cgroup
    }

    pub(super) fn kill(&self) {
        // Either may find that it is gone already.
        let _ = process::pidfd_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        self.cgroup.kill();
    }

    /// Lets the guest open a disk, then shows it.
    pub(super) fn add_disk(&mut self, disk: Disk) -> Result<(), StepError> {
        if self.disks.iter().any(|d| d.slot == disk.slot) {
            return Err(step("use a free slot")(io::Error::from_raw_os_error(
                libc::EEXIST,
            )));
        }
        self.disks.push(disk.clone());
        self.replace_program().inspect_err(|_| {
            self.disks.pop();
        })?;
        show_disk(self.dev.as_fd(), self.by_slot.as_fd(), &disk)
            .map_err(step("make the disk's node"))
    }

    /// Hides a disk, then forbids to open it.
    pub(super) fn remove_disk(&mut self, slot: (i32, i32)) -> Result<(), StepError> {
        self.disks.retain(|d| d.slot != slot);
        // The guest may have removed them itself.
        let _ = mount::unlink_at(self.by_slot.as_fd(), &slot_name(slot));
        let _ = mount::unlink_at(self.dev.as_fd(), &node_name(slot));
        self.replace_program()
    }

    fn replace_program(&mut self) -> Result<(), StepError> {
        if let Some((program, cgroup)) = &mut self.wall {
            let next =
                Program::devices(&rules(&self.disks)).map_err(step("load the device program"))?;
            next.attach(cgroup.as_fd(), Some(program))
                .map_err(step("replace the device program"))?;
            *program = next;
        }
        Ok(())
    }
}

fn bind_files(
    serials: &[(u32, Option<std::path::PathBuf>)],
) -> Result<Vec<(String, OwnedFd)>, StepError> {
    let mut files = Vec::new();
    for (index, path) in serials {
        let Some(path) = path else { continue };
        let what = format!("open the file of serial port {index}");
        let tree = mount::clone_tree(path, false).map_err(step(what))?;
        let flags = mount::ATTR_NODEV | mount::ATTR_NOSUID | mount::ATTR_NOEXEC;
        mount::set_attributes(tree.as_fd(), flags).map_err(step("bind a serial file"))?;
        files.push((format!("ttyS{index}"), tree));
    }
    Ok(files)
}

fn raise_walls(
    walls: &Walls,
    start: &Start,
    cgroup: &GuestCgroup,
) -> Result<Option<(Program, OwnedFd)>, StepError> {
    let needed = walls.has(Wall::Devices) || walls.has(Wall::Sysctls);
    let Some(path) = cgroup.v2() else {
        if needed {
            let source = io::Error::other("no cgroup2 hierarchy is mounted");
            return Err(step("put up the device wall")(source));
        }
        return Ok(None);
    };
    let open = || -> io::Result<OwnedFd> { Ok(std::fs::File::open(path)?.into()) };
    let dir = open().map_err(step("open the guest's cgroup"))?;
    if walls.has(Wall::Sysctls) {
        let program = Program::sysctls().map_err(step("load the sysctl program"))?;
        program
            .attach(dir.as_fd(), None)
            .map_err(step("attach the sysctl program"))?;
    }
    if !walls.has(Wall::Devices) {
        return Ok(None);
    }
    let program =
        Program::devices(&rules(&start.disks)).map_err(step("load the device program"))?;
    program
        .attach(dir.as_fd(), None)
        .map_err(step("attach the device program"))?;
    Ok(Some((program, dir)))
}

fn rules(disks: &[Disk]) -> Vec<DeviceRule> {
    let char = |major, minor| DeviceRule {
        block: false,
        major,
        minor,
    };
    let mut rules: Vec<_> = NODES
        .iter()
        .map(|(_, major, minor, _)| char(*major, Some(*minor)))
        .collect();
    rules.push(char(PTMX.0, Some(PTMX.1)));
    rules.extend(PTS_MAJORS.map(|major| char(major, None)));
    rules.extend(disks.iter().map(|d| DeviceRule {
        block: true,
        major: d.major,
        minor: Some(d.minor),
    }));
    rules
}

fn slot_name(slot: (i32, i32)) -> String {
    format!("{}:{}", slot.0, slot.1)
}

fn node_name(slot: (i32, i32)) -> String {
    format!("disk-{}-{}", slot.0, slot.1)
}

fn show_disk(dev: BorrowedFd<'_>, by_slot: BorrowedFd<'_>, disk: &Disk) -> io::Result<()> {
    let node = node_name(disk.slot);
    let _ = mount::unlink_at(dev, &node);
    let number = mount::makedev(disk.major, disk.minor);
    mount::mknod_at(dev, &node, libc::S_IFBLK | 0o600, number)?;
    let _ = mount::unlink_at(by_slot, &slot_name(disk.slot));
    mount::symlink_at(&format!("../../{node}"), by_slot, &slot_name(disk.slot))
}

/// Makes the tmpfs that becomes the guest's `/dev`, with nodes, disks and listening sockets.
fn make_dev(start: &Start, listeners: &mut Vec<OwnedFd>) -> io::Result<(OwnedFd, OwnedFd)> {
    let context = mount::FsContext::open("tmpfs")?;
    context.set("source", "dev")?;
    context.set("mode", "0755")?;
    context.set("size", "1m")?;
    let dev = context.mount(mount::ATTR_NOSUID | mount::ATTR_NOEXEC)?;
    let at = dev.as_fd();
    for (name, major, minor, mode) in NODES {
        mount::mknod_at(at, name, libc::S_IFCHR | mode, mount::makedev(major, minor))?;
    }
    for dir in ["pts", "shm", "vmware", "disk", "disk/by-slot", "mqueue"] {
        mount::mkdir_at(at, dir, 0o755)?;
    }
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        mount::symlink_at(target, at, name)?;
    }
    let by_slot = mount::open_at(at, "disk/by-slot", libc::O_DIRECTORY | libc::O_RDONLY, 0)?;
    for disk in &start.disks {
        show_disk(at, by_slot.as_fd(), disk)?;
    }
    let mut listen = |name: &str| -> io::Result<()> {
        let mut path = OsString::from(format!("/proc/self/fd/{}/", dev.as_raw_fd()));
        path.push(name);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        listeners.push(listener.into());
        Ok(())
    };
    listen("vmware/rpci")?;
    listen("vmware/tclo")?;
    for (index, file) in &start.serials {
        let name = format!("ttyS{index}");
        match file {
            None => listen(&name)?,
            Some(_) => mount::mknod_at(at, &name, libc::S_IFREG | 0o600, 0)?,
        }
    }
    Ok((dev, by_slot))
}

fn plug(netlink: Option<&mut Netlink>, nics: &[Nic], pid: i32) -> Result<(), StepError> {
    if nics.is_empty() {
        return Ok(());
    }
    let Some(netlink) = netlink else {
        return Err(step("use the simulator's network")(
            io::ErrorKind::NotConnected.into(),
        ));
    };
    let open = || -> io::Result<OwnedFd> {
        Ok(std::fs::File::open(format!("/proc/{pid}/ns/net"))?.into())
    };
    let netns = open().map_err(step("open the guest's network namespace"))?;
    for nic in nics {
        let veth = Veth {
            name: &nic.outer,
            master: nic.bridge,
            peer: &nic.name,
            peer_mac: nic.mac,
            peer_netns: Some(netns.as_fd()),
            mtu: 0,
        };
        netlink
            .add_veth(&veth)
            .and_then(|()| {
                if nic.connected {
                    return Ok(());
                }
                let index = netlink.index(&nic.outer)?;
                netlink.set_up(index, false)
            })
            .map_err(step(format!("plug in {}", nic.name)))?;
    }
    Ok(())
}
