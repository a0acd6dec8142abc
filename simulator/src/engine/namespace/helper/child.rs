//! What happens in the new process between clone and the guest's `/init`.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::libc;
use tether_sys::{caps, mount, process, seccomp, signals};

use super::super::walls::{Wall, Walls, denied_calls, guest_capabilities};
use super::cgroup::GuestCgroup;
use super::{StepError, WORK, step};

/// Directory below [`WORK`] on which the guest's root is put together.
pub(super) const STAGE: &str = "stage";

/// What the child needs; all of it is made by the helper before the clone.
pub(super) struct Plan<'a> {
    /// The root, a detached mount.
    pub(super) root: &'a OwnedFd,
    /// `/dev`, a detached mount.
    pub(super) dev: &'a OwnedFd,
    /// File-backed serial ports: name below `/dev`, and a detached mount of the file.
    pub(super) files: &'a [(String, OwnedFd)],
    /// Where PID 1's standard output and error go.
    pub(super) console: &'a OwnedFd,
    /// The guest's cgroups.
    pub(super) cgroup: &'a GuestCgroup,
    /// The walls that stand.
    pub(super) walls: &'a Walls,
    /// Read to learn that the network adapters are there; end of file means to give up.
    pub(super) go: &'a OwnedFd,
    /// Closed by exec, or written when a step fails.
    pub(super) fail: &'a OwnedFd,
    /// The helper's ends of both pipes, which this copy must not hold.
    pub(super) parents: [RawFd; 2],
}

/// Runs in the child; returns only when something failed.
pub(super) fn main(plan: &Plan<'_>) -> i32 {
    let Err(error) = prepare(plan);
    let message = format!(
        "{}\n{}",
        error.source.raw_os_error().unwrap_or(0),
        error.what
    );
    if let Ok(fail) = plan.fail.try_clone() {
        // Nobody is left to tell when this fails.
        let _ = File::from(fail).write_all(message.as_bytes());
    }
    126
}

/// Lets the child go on, and waits until `/init` runs or a step has failed.
pub(super) fn release(go: OwnedFd, fail: OwnedFd) -> Result<(), StepError> {
    File::from(go)
        .write_all(b"g")
        .map_err(step("start the guest"))?;
    let mut message = String::new();
    File::from(fail)
        .read_to_string(&mut message)
        .map_err(step("hear of the guest"))?;
    let Some((errno, what)) = message.split_once('\n') else {
        return Ok(());
    };
    let errno = errno.parse().unwrap_or(libc::EIO);
    Err(step(what)(io::Error::from_raw_os_error(errno)))
}

fn prepare(plan: &Plan<'_>) -> Result<std::convert::Infallible, StepError> {
    process::set_parent_death_signal(libc::SIGKILL).map_err(step("tie the guest to the helper"))?;
    for fd in plan.parents {
        // Ours is a copy: with it open, the helper's end would never be seen to close.
        let _ = nix::unistd::close(fd);
    }
    let inner = plan.walls.has(Wall::CgroupRoot);
    plan.cgroup
        .join(inner)
        .map_err(step("enter the guest's cgroups"))?;
    if inner {
        process::unshare(process::NEWCGROUP).map_err(step("make a cgroup namespace"))?;
    }
    root(plan)?;
    let mut go = [0];
    let go_pipe = plan.go.try_clone().map_err(step("wait for the network"))?;
    File::from(go_pipe)
        .read_exact(&mut go)
        .map_err(step("wait for the network"))?;
    restrict(plan.walls)?;
    exec(plan).map_err(step("run /init"))
}

fn root(plan: &Plan<'_>) -> Result<(), StepError> {
    let private = mount::MS_REC | mount::MS_PRIVATE;
    mount::mount(None, "/".as_ref(), None, private, None).map_err(step("leave shared mounts"))?;
    let stage = Path::new(WORK).join(STAGE);
    mount::attach(plan.root.as_fd(), &stage).map_err(step("mount the root"))?;
    mount::attach(plan.dev.as_fd(), &stage.join("dev")).map_err(step("mount /dev"))?;
    for (name, tree) in plan.files {
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
    if plan.walls.has(Wall::Root) {
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
        let keep = caps::permitted()
            .map_err(step("read capabilities"))?
            .and(guest_capabilities());
        caps::limit_bounding(keep).map_err(step("limit capabilities"))?;
        caps::clear_ambient().map_err(step("limit capabilities"))?;
        caps::set(keep, keep, caps::CapSet::default()).map_err(step("limit capabilities"))?;
    }
    if !walls.has(Wall::Pids)
        && let Some(boot) = caps::CapSet::number("SYS_BOOT")
    {
        // Outside a PID namespace, reboot means the host.
        let keep = caps::permitted()
            .map_err(step("read capabilities"))?
            .without(boot);
        caps::limit_bounding(keep).map_err(step("limit capabilities"))?;
        caps::set(keep, keep, caps::CapSet::default()).map_err(step("limit capabilities"))?;
    }
    Ok(())
}

fn exec(plan: &Plan<'_>) -> io::Result<std::convert::Infallible> {
    signals::reset()?;
    // The helper's session is not the guest's; a group leader cannot be here, so this succeeds.
    process::setsid()?;
    let null = File::open("/dev/null")?;
    process::dup_onto(null.as_fd(), 0)?;
    process::dup_onto(plan.console.as_fd(), 1)?;
    process::dup_onto(plan.console.as_fd(), 2)?;
    debug_assert!(plan.fail.as_raw_fd() > 2);
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
