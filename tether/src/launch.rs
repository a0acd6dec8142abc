//! Starting a process: the container's own in new namespaces, others joining it, the appliance's.
//!
//! ```text
//! tether ── clone3(NEWNS NEWPID NEWUTS NEWIPC, into cgroup) ──▶ child: root, identity, exec
//! tether ── clone3() ──▶ helper: setns ── clone3(into cgroup) ──▶ process: identity, exec
//! ```
//! The child tells by a socket that closes at exec: nothing but its end is success, and until then a
//! terminal's master, the process id of an exec, or the error that docker would give.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use tether_protocol::config::{ExecutorConfig, Session};
use tether_sys::process::{self, CloneArgs, NEWCGROUP, NEWIPC, NEWNS, NEWPID, NEWUTS};
use tether_sys::{fdpass, pty};

mod environment;
mod error;
mod program;
mod root;
mod security;
mod stdio;

pub(crate) use environment::merge;
pub use error::LaunchError;
pub use stdio::Stdio;

use error::Step;
use stdio::ChildStdio;

/// What every process of the container needs to know.
#[derive(Debug)]
pub struct Sandbox<'a> {
    /// The VM's configuration.
    pub config: &'a ExecutorConfig,
    /// Where the root file system is mounted; none in the appliance.
    pub root: Option<&'a Path>,
    /// Where the volumes are mounted, by index of `config.mounts`.
    pub volumes: &'a [Option<std::path::PathBuf>],
    /// Files that are bound into `/etc`.
    pub names: &'a [std::path::PathBuf],
    /// The cgroup of the container's processes.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Lists of members of further cgroups.
    pub joined: &'a [OwnedFd],
}

impl Sandbox<'_> {
    /// Moves this process into the cgroups that it cannot be started in.
    fn join_cgroups(&self) -> Result<(), LaunchError> {
        for members in self.joined {
            nix::unistd::write(members, b"0")
                .map_err(std::io::Error::from)
                .step("joining the container's cgroups")?;
        }
        Ok(())
    }
}

/// A process that was started.
#[derive(Debug)]
pub struct Launched {
    /// Process id as tether sees it.
    pub pid: i32,
    /// Its pidfd; none for an exec, which is not a direct child.
    pub pidfd: Option<OwnedFd>,
    /// The other ends of its streams.
    pub stdio: Stdio,
}

/// Starts the container's own process, or one of the appliance's.
///
/// # Errors
/// What docker would say, with its exit code.
pub fn start(sandbox: &Sandbox<'_>, spec: &Session) -> Result<Launched, LaunchError> {
    let start = |source| LaunchError::internal("starting a process", &source);
    let (ours, theirs) = stdio::open(spec).map_err(start)?;
    let (channel, child_end) = fdpass::pair().map_err(start)?;
    let namespaces = match sandbox.root {
        Some(_) => NEWNS | NEWPID | NEWUTS | NEWIPC,
        None => 0,
    };
    let args = CloneArgs {
        namespaces,
        cgroup: sandbox.cgroup,
    };
    let child = process::spawn(&args, || {
        let outcome = in_child(sandbox, spec, &theirs, child_end.as_fd());
        fail(child_end.as_fd(), outcome)
    })
    .map_err(start)?;
    drop(theirs);
    drop(child_end);
    let told = listen(&channel)?;
    if let Some(error) = told.error {
        let _ = process::wait(child.pid);
        return Err(error);
    }
    let stdio = ours.with_master(told.master).map_err(start)?;
    Ok(Launched {
        pid: child.pid,
        pidfd: Some(child.pidfd),
        stdio,
    })
}

fn in_child(
    sandbox: &Sandbox<'_>,
    spec: &Session,
    stdio: &ChildStdio,
    channel: BorrowedFd<'_>,
) -> Result<i32, LaunchError> {
    let with_init = spec.init && sandbox.root.is_some();
    if !with_init {
        process::setsid().step("starting a session")?;
    }
    sandbox.join_cgroups()?;
    if let Some(root) = sandbox.root {
        if sandbox.cgroup.is_some() {
            process::unshare(NEWCGROUP).step("making a cgroup namespace")?;
        }
        root::enter(sandbox, root, spec)?;
    }
    let account = program::account(spec)?;
    program::make_working_directory(spec)?;
    let terminal = if spec.tty {
        let pty = terminal(spec, channel)?;
        root::console(sandbox, &pty)?;
        Some(pty.slave)
    } else {
        None
    };
    let finish = || -> Result<i32, LaunchError> {
        stdio
            .take_place(terminal.as_ref().map(AsFd::as_fd))
            .step("placing the streams")?;
        stdio::own(&account);
        let env = environment::complete(sandbox.config, spec, &account);
        security::confine(sandbox, spec, &account)?;
        program::run(spec, &env)
    };
    if !with_init {
        return finish();
    }
    // The process becomes a child of the reaper, which then takes this one's place.
    let reaper_stdio = stdio.try_clone().step("placing the streams")?;
    let child = process::spawn(&CloneArgs::default(), || {
        let outcome = process::setsid()
            .step("starting a session")
            .and_then(|_| finish());
        fail(channel, outcome)
    })
    .step("starting the container's process")?;
    reaper_stdio.take_place(None).step("placing the streams")?;
    security::confine(sandbox, spec, &account)?;
    program::become_reaper(child.pid)
}

/// Starts another process in the container, whose own is `primary`.
///
/// # Errors
/// What docker would say, with its exit code.
pub fn join(
    sandbox: &Sandbox<'_>,
    primary: BorrowedFd<'_>,
    spec: &Session,
) -> Result<Launched, LaunchError> {
    let start = |source| LaunchError::internal("starting a process", &source).of_exec();
    let (ours, theirs) = stdio::open(spec).map_err(start)?;
    let (channel, child_end) = fdpass::pair().map_err(start)?;
    let helper = process::spawn(&CloneArgs::default(), || {
        let outcome = helper(sandbox, primary, spec, &theirs, child_end.as_fd());
        fail(child_end.as_fd(), outcome)
    })
    .map_err(start)?;
    drop(theirs);
    drop(child_end);
    let told = listen(&channel).map_err(LaunchError::of_exec)?;
    // The helper ends as soon as it has made the process, which is then tether's child.
    let _ = process::wait(helper.pid);
    if let Some(error) = told.error {
        // What could not become a program is gone before anybody hears of it: the container and
        // `docker top` never see a process of tether's.
        if told.pid != 0 {
            let _ = process::wait(told.pid);
        }
        return Err(error.of_exec());
    }
    let stdio = ours.with_master(told.master).map_err(start)?;
    Ok(Launched {
        pid: told.pid,
        pidfd: None,
        stdio,
    })
}

fn helper(
    sandbox: &Sandbox<'_>,
    primary: BorrowedFd<'_>,
    spec: &Session,
    stdio: &ChildStdio,
    channel: BorrowedFd<'_>,
) -> Result<i32, LaunchError> {
    let mut namespaces = NEWNS | NEWPID | NEWUTS | NEWIPC;
    if sandbox.cgroup.is_some() {
        namespaces |= NEWCGROUP;
    }
    process::setns(primary, namespaces).step("joining the container")?;
    let args = CloneArgs {
        namespaces: 0,
        cgroup: sandbox.cgroup,
    };
    let child = process::spawn(&args, || {
        let outcome = joined(sandbox, spec, stdio, channel);
        fail(channel, outcome)
    })
    .step("starting a process")?;
    let pid = format!("p{}", child.pid);
    fdpass::send(channel, pid.as_bytes(), &[]).step("telling the process id")?;
    Ok(0)
}

fn joined(
    sandbox: &Sandbox<'_>,
    spec: &Session,
    stdio: &ChildStdio,
    channel: BorrowedFd<'_>,
) -> Result<i32, LaunchError> {
    process::setsid().step("starting a session")?;
    sandbox.join_cgroups()?;
    std::env::set_current_dir("/").step("entering the root")?;
    let account = program::account(spec)?;
    let terminal = if spec.tty {
        let pty = terminal(spec, channel)?;
        Some(pty.slave)
    } else {
        None
    };
    stdio
        .take_place(terminal.as_ref().map(AsFd::as_fd))
        .step("placing the streams")?;
    stdio::own(&account);
    let env = environment::complete(sandbox.config, spec, &account);
    security::confine(sandbox, spec, &account)?;
    program::run(spec, &env)
}

/// Opens a terminal of the container's, in its first size, and gives its master to tether.
fn terminal(spec: &Session, channel: BorrowedFd<'_>) -> Result<pty::Pty, LaunchError> {
    let pty = pty::open(Path::new("/dev/pts/ptmx")).step("opening a terminal")?;
    stdio::first_size(&pty, spec).step("sizing the terminal")?;
    fdpass::send(channel, b"m", &[pty.master.as_fd()]).step("handing over the terminal")?;
    Ok(pty)
}

/// Tells the parent why there is no process, and gives the exit code.
fn fail(channel: BorrowedFd<'_>, outcome: Result<i32, LaunchError>) -> i32 {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let message = format!("e{} {}", error.code, error.text);
            // If nobody listens any more, the exit code is all that is left to say.
            let _ = fdpass::send(channel, message.as_bytes(), &[]);
            error.code
        }
    }
}

#[derive(Default)]
struct Told {
    master: Option<OwnedFd>,
    pid: i32,
    error: Option<LaunchError>,
}

/// Hears the child until it has become its program, or everybody who could speak has ended: an error
/// may come before the process id of who had it.
fn listen(channel: &OwnedFd) -> Result<Told, LaunchError> {
    let mut told = Told::default();
    let mut buffer = [0; 4096];
    loop {
        let (count, fds) = fdpass::receive(channel.as_fd(), &mut buffer)
            .map_err(|source| LaunchError::internal("hearing the new process", &source))?;
        let text = String::from_utf8_lossy(buffer.get(1..count).unwrap_or_default()).into_owned();
        match buffer[..count].first() {
            None => return Ok(told),
            Some(b'm') => told.master = fds.into_iter().next(),
            Some(b'p') => told.pid = text.parse().unwrap_or(0),
            _ => {
                let (code, text) = text.split_once(' ').unwrap_or(("128", &text));
                told.error.get_or_insert(LaunchError {
                    text: text.to_owned(),
                    code: code.parse().unwrap_or(128),
                });
            }
        }
    }
}
