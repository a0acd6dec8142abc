//! The streams of a process: pipes or a terminal, `/dev/null` for what nobody gave.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, fchown};

use tether_protocol::config::Session;
use tether_sys::process::{dup_onto, pipe, set_nonblocking};
use tether_sys::pty::{self, Pty, WinSize};

use crate::accounts::Account;

/// Tether's ends, non-blocking.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Writes to the process, when it has an input.
    pub stdin: Option<File>,
    /// Reads its output, or its terminal.
    pub stdout: Option<File>,
    /// Reads its errors; none with a terminal.
    pub stderr: Option<File>,
}

/// The process's ends.
#[derive(Debug, Default)]
pub(super) struct ChildStdio {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

pub(super) fn open(spec: &Session) -> io::Result<(Stdio, ChildStdio)> {
    let (mut ours, mut theirs) = (Stdio::default(), ChildStdio::default());
    if spec.tty {
        return Ok((ours, theirs));
    }
    if spec.open_stdin {
        let (read, write) = pipe()?;
        set_nonblocking(&write, true)?;
        ours.stdin = Some(write.into());
        theirs.stdin = Some(read);
    }
    let (read, write) = pipe()?;
    set_nonblocking(&read, true)?;
    ours.stdout = Some(read.into());
    theirs.stdout = Some(write);
    let (read, write) = pipe()?;
    set_nonblocking(&read, true)?;
    ours.stderr = Some(read.into());
    theirs.stderr = Some(write);
    Ok((ours, theirs))
}

impl Stdio {
    /// Takes the terminal's master as both input and output.
    pub(super) fn with_master(self, master: Option<OwnedFd>) -> io::Result<Self> {
        let Some(master) = master else {
            return Ok(self);
        };
        set_nonblocking(&master, true)?;
        let master = File::from(master);
        Ok(Self {
            stdin: Some(master.try_clone()?),
            stdout: Some(master),
            stderr: None,
        })
    }
}

/// Gives a new terminal the size that was asked for, before its process can look.
pub(super) fn first_size(pty: &Pty, spec: &Session) -> io::Result<()> {
    match (u16::try_from(spec.rows), u16::try_from(spec.cols)) {
        (Ok(rows), Ok(cols)) if rows > 0 && cols > 0 => {
            pty::set_size(pty.master.as_fd(), WinSize { rows, cols })
        }
        _ => Ok(()),
    }
}

impl ChildStdio {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clone = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            stdin: clone(&self.stdin)?,
            stdout: clone(&self.stdout)?,
            stderr: clone(&self.stderr)?,
        })
    }

    /// Puts the streams, or the terminal, at 0, 1 and 2.
    pub(super) fn take_place(&self, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if let Some(terminal) = terminal {
            pty::make_controlling(terminal)?;
            return (0..3).try_for_each(|number| dup_onto(terminal, number));
        }
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let or_null = |fd| Option::<&OwnedFd>::map_or(fd, null.as_fd(), AsFd::as_fd);
        dup_onto(or_null(self.stdin.as_ref()), 0)?;
        dup_onto(or_null(self.stdout.as_ref()), 1)?;
        dup_onto(or_null(self.stderr.as_ref()), 2)
    }
}

/// Gives the streams to the user, so that `/dev/stdout` can be opened by one who is not root.
pub(super) fn own(account: &Account) {
    if account.uid == 0 {
        return;
    }
    for fd in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        let Ok(file) = fd.try_clone_to_owned().map(File::from) else {
            continue;
        };
        let terminal = tether_sys::pty::size(file.as_fd()).is_ok();
        let pipe = file.metadata().is_ok_and(|data| data.file_type().is_fifo());
        if terminal || pipe {
            // One that cannot be given stays root's, as with docker.
            let _ = fchown(&file, Some(account.uid), None);
        }
    }
}
