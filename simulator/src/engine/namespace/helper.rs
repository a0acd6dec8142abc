//! The helper: a small single-threaded process that makes guests and watches them.
//!
//! It exists because a guest must be forked from a process without threads, because the guest's
//! life must hang on something (each guest's PID 1 asks to die with the helper, the helper with the
//! simulator), and because mounts need a namespace of their own. It is this same program, started
//! anew with [`ARGV0`] before anything else runs.
//!
//! ```text
//! vic-sim ──socket pair──► helper ──clone3──► PID 1 of guest, PID 1 of guest, …
//!    └ dies: end of file ─────┘ kills all, removes cgroups, exits
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::libc;
use tether_sys::{fdpass, mount, poll, process};

use super::protocol::{Call, Done, Failure, How, MAX_MESSAGE, Report, Request};
use super::walls::Walls;

mod cgroup;
mod child;
mod guest;
mod stem;

use cgroup::Cgroups;
use guest::Guest;
use stem::Stem;

/// The name under which the helper is started.
pub(super) const ARGV0: &str = "vic-sim-helper";

/// How often to look again for cgroups that could not be removed at once.
const TIDY_MS: i32 = 20;

/// Becomes the helper if this process was started as one; returns otherwise.
///
/// A program that uses the `namespace` engine calls this first in `main`, before any thread runs.
pub fn helper_main() {
    if std::env::args().next().as_deref() != Some(ARGV0) {
        return;
    }
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{ARGV0}: {error}");
            1
        }
    };
    std::process::exit(code);
}

/// A step that failed.
pub(super) struct StepError {
    what: String,
    source: io::Error,
}

/// Names a step, for `map_err`.
pub(super) fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> StepError {
    let what = what.into();
    move |source| StepError { what, source }
}

/// All that the helper holds.
pub(super) struct Helper {
    cgroups: Cgroups,
    netlink: Option<tether_sys::netlink::Netlink>,
    roots: PathBuf,
    guests: BTreeMap<u64, Guest>,
    walls: Walls,
    /// The process that the next guest will be made of.
    stem: Option<Stem>,
    /// How many stems there were: the names of cgroups.
    stems: u64,
    /// Whether making a stem has failed; a start tries again.
    stemless: bool,
    /// Cgroups of guests that are gone, which the kernel did not let go of yet.
    untidy: Vec<cgroup::GuestCgroup>,
}

/// Where the helper keeps its own mounts, in its own mount namespace: a directory that is there on
/// every Linux and that the helper itself has no use for.
const WORK: &str = "/mnt";

fn run() -> io::Result<()> {
    // The other end is the simulator's; standard input is ours by the way we were started.
    let control: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    process::set_parent_death_signal(libc::SIGKILL)?;
    // Terminal signals go to the simulator, which tells us by closing the socket.
    process::setsid()?;
    process::set_name(ARGV0)?;
    process::unshare(process::NEWNS)?;
    let root = std::path::Path::new("/");
    mount::mount(None, root, None, mount::MS_REC | mount::MS_SLAVE, None)?;
    let work = std::path::Path::new(WORK);
    mount::mount(
        Some("vic".as_ref()),
        work,
        Some("tmpfs"),
        0,
        Some("mode=0700"),
    )?;
    mount::mount(None, work, None, mount::MS_PRIVATE, None)?;
    let roots = work.join("roots");
    std::fs::create_dir(&roots)?;
    std::fs::create_dir(work.join(child::STAGE))?;

    let mut helper = Helper {
        cgroups: Cgroups::open()?,
        netlink: None,
        roots,
        guests: BTreeMap::new(),
        walls: Walls::default(),
        stem: None,
        stems: 0,
        stemless: false,
        untidy: Vec::new(),
    };
    let result = helper.serve(control.as_fd());
    helper.end();
    result
}

impl Helper {
    fn serve(&mut self, control: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let ids: Vec<u64> = self.guests.keys().copied().collect();
            let mut fds = vec![control];
            fds.extend(self.guests.values().map(Guest::pidfd));
            let timeout = if self.wants_stem() {
                0
            } else if self.untidy.is_empty() {
                -1
            } else {
                TIDY_MS
            };
            let ready = poll::readable(&fds, timeout)?;
            if self.wants_stem() && !ready.contains(&true) {
                // Nothing else to do: a good time. If it fails, the next start says why.
                self.stem = Stem::make(self).ok();
                self.stemless = self.stem.is_none();
            }
            self.untidy.retain(|cgroup| !cgroup.remove());
            for (id, ready) in ids.iter().zip(&ready[1..]) {
                if *ready {
                    self.ended(control, *id)?;
                }
            }
            if ready[0] {
                let (length, fds) = fdpass::receive(control, &mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                let call: Call = serde_json::from_slice(&buffer[..length])?;
                self.answer(control, call, fds)?;
            }
        }
    }

    fn wants_stem(&self) -> bool {
        self.stem.is_none() && !self.stemless && self.netlink.is_some()
    }

    /// Takes the stem, or makes one now.
    fn take_stem(&mut self) -> Result<Stem, StepError> {
        self.stemless = false;
        match self.stem.take() {
            Some(stem) if stem.is_alive() => Ok(stem),
            Some(dead) => {
                self.untidy.push(dead.abandon());
                Stem::make(self)
            }
            None => Stem::make(self),
        }
    }

    fn ended(&mut self, control: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        let Some(guest) = self.guests.get(&id) else {
            return Ok(());
        };
        let Some(ended) = process::reap(guest.pid())? else {
            return Ok(());
        };
        if let Some(guest) = self.guests.remove(&id) {
            let cgroup = guest.into_cgroup();
            cgroup.kill();
            if !cgroup.remove() {
                self.untidy.push(cgroup);
            }
        }
        let how = match ended {
            process::Ended::Exited(code) => How::Exited(code),
            process::Ended::Signaled(signal) => How::Signaled(signal),
        };
        send(control, &Report::Ended { guest: id, how }, &[])
    }

    fn answer(&mut self, control: BorrowedFd<'_>, call: Call, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut listeners = Vec::new();
        let result = self
            .perform(call.request, fds, &mut listeners)
            .map_err(|e| Failure {
                errno: e.source.raw_os_error().unwrap_or(0),
                what: if e.source.raw_os_error().is_some() {
                    e.what
                } else {
                    format!("{}: {}", e.what, e.source)
                },
            });
        let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        send(
            control,
            &Report::Answer {
                id: call.id,
                result,
            },
            &fds,
        )
    }

    fn perform(
        &mut self,
        request: Request,
        mut fds: Vec<OwnedFd>,
        listeners: &mut Vec<OwnedFd>,
    ) -> Result<Done, StepError> {
        let mut done = Done {
            pid: None,
            steps: Vec::new(),
        };
        let missing = || StepError {
            what: "find the descriptor or guest of a request".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        match request {
            Request::Hello { walls } => {
                self.netlink = Some(fds.pop().ok_or_else(missing)?.into());
                self.walls = walls;
            }
            Request::AddRoot { root } => {
                let fd = fds.pop().ok_or_else(missing)?;
                let path = self.roots.join(root);
                std::fs::create_dir(&path).map_err(step("make a directory for a root"))?;
                mount::attach(fd.as_fd(), &path).map_err(step("mount a root"))?;
            }
            Request::Start(start) => {
                let id = start.guest;
                let console = fds.pop().ok_or_else(missing)?;
                let guest = Guest::start(self, &start, console, listeners, &mut done.steps)?;
                done.pid = Some(guest.pid());
                self.guests.insert(id, guest);
            }
            Request::AddDisk { guest, disk } => {
                self.guests
                    .get_mut(&guest)
                    .ok_or_else(missing)?
                    .add_disk(disk)?;
            }
            Request::RemoveDisk { guest, slot } => {
                self.guests
                    .get_mut(&guest)
                    .ok_or_else(missing)?
                    .remove_disk(slot)?;
            }
            Request::Kill { guest } => {
                if let Some(guest) = self.guests.get(&guest) {
                    guest.kill();
                }
            }
        }
        Ok(done)
    }

    /// Kills all guests, waits for them, and removes every cgroup.
    fn end(&mut self) {
        if let Some(stem) = self.stem.take() {
            self.untidy.push(stem.abandon());
        }
        for guest in self.guests.values() {
            guest.kill();
        }
        for (_, guest) in std::mem::take(&mut self.guests) {
            // An error means that it is reaped already.
            let _ = process::wait(guest.pid());
            self.untidy.push(guest.into_cgroup());
        }
        // The kernel may count a dead process for some milliseconds more.
        for _ in 0..100 {
            self.untidy.retain(|cgroup| !cgroup.remove());
            if self.untidy.is_empty() {
                break;
            }
            let _ = poll::readable(&[], TIDY_MS);
        }
        self.cgroups.close();
    }
}

fn send(control: BorrowedFd<'_>, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    fdpass::send(control, &serde_json::to_vec(report)?, fds)
}
