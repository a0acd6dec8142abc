//! Runs a program with a deadline and keeps what it printed.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest time that one command of a test may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a finished program left.
#[derive(Debug)]
pub struct Ran {
    /// Its command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// The exit code; -1 when a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Fails unless the program succeeded; gives its standard output without the last newline.
    ///
    /// # Errors
    /// With everything it printed.
    pub fn ok(self) -> Result<String> {
        self.exits(0)
    }

    /// Fails unless the program ended with `code`; gives its standard output without the last newline.
    ///
    /// # Errors
    /// With everything it printed.
    pub fn exits(self, code: i32) -> Result<String> {
        if self.code() != code {
            bail!(
                "{}: exit {} instead of {code}\nstdout: {}\nstderr: {}",
                self.command,
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout.trim_end_matches('\n').to_owned())
    }

    /// Fails unless the program failed with `code` and said `text` on its standard error.
    ///
    /// # Errors
    /// With everything it printed.
    pub fn fails_with(self, code: i32, text: &str) -> Result<()> {
        if self.code() != code || !self.stderr.contains(text) {
            bail!(
                "{}: exit {} instead of {code} with {text:?}\nstdout: {}\nstderr: {}",
                self.command,
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(())
    }
}

/// Runs `command` with `stdin` as its input, at most [`DEADLINE`] long.
///
/// # Errors
/// When it cannot be started or takes too long (then it is killed).
pub fn run(command: &mut Command, stdin: &[u8]) -> Result<Ran> {
    run_within(command, stdin, DEADLINE)
}

/// As [`run`], with a deadline of one's own.
///
/// # Errors
/// When it cannot be started or takes too long (then it is killed).
pub fn run_within(command: &mut Command, stdin: &[u8], deadline: Duration) -> Result<Ran> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {line}"))?;
    let mut input = child.stdin.take().context("stdin")?;
    let bytes = stdin.to_vec();
    // A program may end without reading its input: that is its right.
    let feeder = thread::spawn(move || drop(input.write_all(&bytes)));
    let stdout = collect(child.stdout.take().context("stdout")?);
    let stderr = collect(child.stderr.take().context("stderr")?);
    let status = wait(&mut child, deadline).with_context(|| line.clone())?;
    drop(feeder.join());
    let text = |r: mpsc::Receiver<Vec<u8>>| {
        String::from_utf8_lossy(&r.recv().unwrap_or_default()).into_owned()
    };
    Ok(Ran {
        command: line,
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        drop(from.read_to_end(&mut all));
        drop(sender.send(all));
    });
    receiver
}

/// Waits for the end of `child`, and kills it at the deadline.
///
/// # Errors
/// When the deadline passed.
pub fn wait(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    let pid = child.id();
    let (done, waited) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        let late = waited.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
        if late && let Ok(pid) = i32::try_from(pid) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        late
    });
    let status = child.wait()?;
    drop(done);
    match guard.join() {
        Ok(false) => Ok(status),
        _ => bail!("took longer than {deadline:?} and was killed"),
    }
}
