//! The stem: an empty process, already in cgroups and namespaces of its own, of which the next
//! guest is made.
//!
//! It is no guest: it has no root, no devices, no limits, and does not know whose it will be. It is
//! there because entering cgroups makes the kernel wait for all its CPUs once (10 to 20 ms where
//! this was measured), which no power-on should wait for.
//!
//! ```text
//! made ──► enters cgroups ──► waits ──parts──► puts its root together ──go──► exec /init
//!                                └ helper gone: ends
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use tether_sys::{fdpass, poll, process};

use super::super::walls::Wall;
use super::cgroup::GuestCgroup;
use super::{Helper, StepError, child, step};

/// A process that waits to become a guest.
pub(super) struct Stem {
    child: process::Child,
    cgroup: GuestCgroup,
    socket: OwnedFd,
}

impl Stem {
    /// Makes one; it enters its cgroups in its own time.
    pub(super) fn make(helper: &mut Helper) -> Result<Self, StepError> {
        helper.stems += 1;
        let name = format!("guest-{}", helper.stems);
        let cgroup = helper
            .cgroups
            .make(&name)
            .map_err(step("make the guest's cgroups"))?;
        match Self::fork(helper, &cgroup) {
            Ok((child, socket)) => Ok(Self {
                child,
                cgroup,
                socket,
            }),
            Err(error) => {
                helper.untidy.push(cgroup);
                Err(error)
            }
        }
    }

    fn fork(helper: &Helper, cgroup: &GuestCgroup) -> Result<(process::Child, OwnedFd), StepError> {
        let (ours, theirs) = fdpass::pair().map_err(step("make a socket pair"))?;
        let walls = &helper.walls;
        let mut namespaces = process::NEWUTS | process::NEWIPC | process::NEWNS;
        if walls.has(Wall::Pids) {
            namespaces |= process::NEWPID;
        }
        if walls.has(Wall::Network) {
            namespaces |= process::NEWNET;
        }
        let args = process::CloneArgs {
            namespaces,
            cgroup: None,
        };
        // In the child this is a copy of the descriptor; the parent's is dropped below.
        let mut end = Some(theirs);
        let child = process::spawn(&args, || match end.take() {
            Some(socket) => child::main(socket, cgroup, walls),
            None => 1,
        })
        .map_err(step("clone"))?;
        drop(end);
        Ok((child, ours))
    }

    /// Tells whether it still waits.
    pub(super) fn is_alive(&self) -> bool {
        let ended = poll::readable(&[self.child.pidfd.as_fd()], 0);
        ended.is_ok_and(|ended| !ended.contains(&true))
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    pub(super) fn cgroup(&self) -> &GuestCgroup {
        &self.cgroup
    }

    /// Hands over what the guest's mounts are made of: root, `/dev`, console, then the files of
    /// serial ports, whose names below `/dev` come first.
    pub(super) fn send_parts(
        &self,
        names: &[String],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), StepError> {
        let message = serde_json::to_vec(names).map_err(|e| step("encode names")(e.into()))?;
        fdpass::send(self.socket.as_fd(), &message, fds).map_err(step("reach the new guest"))
    }

    /// Lets it go on, and waits until `/init` runs or a step has failed.
    pub(super) fn release(&self) -> Result<(), StepError> {
        // A step that failed has closed the other end, and its message lies in the socket.
        let sent = fdpass::send(self.socket.as_fd(), b"go", &[]);
        let mut buffer = [0; 1024];
        let (length, _) = fdpass::receive(self.socket.as_fd(), &mut buffer)
            .map_err(step("hear of the new guest"))?;
        if length == 0 {
            return sent.map_err(step("reach the new guest"));
        }
        let message = String::from_utf8_lossy(&buffer[..length]);
        let (errno, what) = message.split_once('\n').unwrap_or(("5", "start the guest"));
        let errno = errno.parse().unwrap_or(libc::EIO);
        Err(step(what)(io::Error::from_raw_os_error(errno)))
    }

    /// Takes it apart when it has become a guest.
    pub(super) fn into_parts(self) -> (process::Child, GuestCgroup) {
        (self.child, self.cgroup)
    }

    /// Ends it; returns the cgroups, which are to be removed.
    pub(super) fn abandon(self) -> GuestCgroup {
        // Either error means that it has ended and been reaped.
        let _ = process::pidfd_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(self.child.pid);
        self.cgroup.kill();
        self.cgroup
    }
}
