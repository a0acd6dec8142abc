//! What happens in the new process between clone and the guest's `/init`.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::libc;
use tether_protocol::config::capability_number;
use tether_sys::{caps, fdpass, mount, process, seccomp, signals};

use super::super::walls::{Wall, Walls, denied_calls, guest_capabilities};
use super::cgroup::GuestCgroup;
use super::{StepError, WORK, step};

/// Directory below [`WORK`] on which the guest's root is put together.
pub(super) const STAGE: &str = "stage";

/// Longest message from the helper.
const MAX_PARTS: usize = 16 * 1024;

/// Runs in the child; returns only when something failed. `socket` leads to the helper.
pub(super) fn main(socket: OwnedFd, cgroup: &GuestCgroup, walls: &Walls) -> i32 {
    // Copies of the helper's descriptors are none of a guest's business, and would keep alive what
    // other guests leave.
    let Ok(socket) = process::keep_only(socket) else {
        return 126;
    };
    let Err(error) = become_guest(&socket, cgroup, walls);
    let message = format!(
        "{}\n{}",
        error.source.raw_os_error().unwrap_or(libc::EIO),
        error.what
    );
    // Nobody is left to tell when this fails.
    let _ = fdpass::send(socket.as_fd(), message.as_bytes(), &[]);
    126
}

/// What the guest's mounts are made of.
struct Parts {
    root: OwnedFd,
    dev: OwnedFd,
    console: OwnedFd,
    /// File-backed serial ports: name below `/dev`, and a detached mount of the file.
    files: Vec<(String, OwnedFd)>,
}

fn become_guest(
    socket: &OwnedFd,
    cgroup: &GuestCgroup,
    walls: &Walls,
) -> Result<Infallible, StepError> {
    process::set_parent_death_signal(libc::SIGKILL).map_err(step("tie the guest to the helper"))?;
    let inner = walls.has(Wall::CgroupRoot);
    cgroup
        .join(inner)
        .map_err(step("enter the guest's cgroups"))?;
    if inner {
        process::unshare(process::NEWCGROUP).map_err(step("make a cgroup namespace"))?;
    }
    let private = mount::MS_REC | mount::MS_PRIVATE;
    mount::mount(None, "/".as_ref(), None, private, None).map_err(step("leave shared mounts"))?;

    let parts = receive_parts(socket).map_err(step("receive the guest's parts"))?;
    root(&parts, walls)?;
    let mut go = [0; 8];
    let (length, _) = fdpass::receive(socket.as_fd(), &mut go).map_err(step("wait to start"))?;
    if length == 0 {
        return Err(step("wait to start")(io::ErrorKind::UnexpectedEof.into()));
    }
    restrict(walls)?;
    exec(&parts.console).map_err(step("run /init"))
}

fn receive_parts(socket: &OwnedFd) -> io::Result<Parts> {
    let mut buffer = vec![0; MAX_PARTS];
    let (length, fds) = fdpass::receive(socket.as_fd(), &mut buffer)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let names: Vec<String> = serde_json::from_slice(&buffer[..length])?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(io::ErrorKind::UnexpectedEof);
    let (root, dev, console) = (next()?, next()?, next()?);
    Ok(Parts {
        root,
        dev,
        console,
        files: names.into_iter().zip(fds).collect(),
    })
}

fn root(parts: &Parts, walls: &Walls) -> Result<(), StepError> {
    let stage = Path::new(WORK).join(STAGE);
    mount::attach(parts.root.as_fd(), &stage).map_err(step("mount the root"))?;
    mount::attach(parts.dev.as_fd(), &stage.join("dev")).map_err(step("mount /dev"))?;
    for (name, tree) in &parts.files {
        mount::attach(tree.as_fd(), &stage.join("dev").join(name))
            .map_err(step("mount a serial file"))?;
    }
    let flags = mount::MS_NOSUID | mount::MS_NODEV;
    for (dir, options) in [("run", "mode=0755"), ("tmp", "mode=1777")] {
        mount::mount(
            Some(dir.as_ref()),
            &stage.join(dir),
            Some("tmpfs"),
            flags,
            Some(options),
        )
        .map_err(step(format!("mount /{dir}")))?;
    }
    if walls.has(Wall::Root) {
        let here = Path::new(".");
        nix::unistd::chdir(&stage).map_err(|e| step("enter the root")(e.into()))?;
        mount::pivot_root(here, here).map_err(step("change the root"))?;
        mount::umount(here, mount::MNT_DETACH).map_err(step("leave the host's root"))?;
    } else {
        process::chroot(&stage).map_err(step("change the root"))?;
    }
    nix::unistd::chdir("/").map_err(|e| step("enter the root")(e.into()))
}

fn restrict(walls: &Walls) -> Result<(), StepError> {
    if walls.has(Wall::Calls) {
        seccomp::install(&denied_calls().build()).map_err(step("install the call filter"))?;
    }
    if walls.has(Wall::Capabilities) {
        keep_capabilities(guest_capabilities()).map_err(step("limit capabilities"))?;
    }
    if !walls.has(Wall::Pids)
        && let Some(boot) = capability_number("SYS_BOOT")
    {
        // Outside a PID namespace, reboot means the host.
        keep_capabilities(caps::CapSet::ALL.without(boot)).map_err(step("limit capabilities"))?;
    }
    Ok(())
}

fn keep_capabilities(wanted: caps::CapSet) -> io::Result<()> {
    let keep = caps::permitted()?.and(wanted);
    caps::limit_bounding(keep)?;
    caps::clear_ambient()?;
    caps::set(keep, keep, caps::CapSet::default())
}

fn exec(console: &OwnedFd) -> io::Result<Infallible> {
    signals::reset()?;
    // The helper's session is not the guest's; a group leader cannot be here, so this succeeds.
    process::setsid()?;
    let null = File::open("/dev/null")?;
    process::dup_onto(null.as_fd(), 0)?;
    process::dup_onto(console.as_fd(), 1)?;
    process::dup_onto(console.as_fd(), 2)?;
    process::cloexec_from(3)?;
    let _ = process::umask(0o022);
    let argv = [CString::from(c"/init")];
    let env = [
        CString::from(c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
        CString::from(c"VIC_GUEST_ENGINE=namespace"),
        CString::from(c"HOME=/"),
    ];
    process::exec(Path::new("/init"), &argv, &env)
}
