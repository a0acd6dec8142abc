//! A program on a terminal of its own, typed at and read as by a person.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use system_tests::run::wait;

/// What Ctrl-C sends; the terminal makes it a SIGINT for everything in its foreground.
pub const CTRL_C: &str = "\x03";

/// A running program.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
    /// How much of it was waited for already.
    read: usize,
}

impl Terminal {
    /// Starts a shell's command line; `set` gives it its environment.
    pub fn start(line: &str, set: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--flush", "--command", line])
            .arg("/dev/null")
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        set(&mut command);
        let mut child = command
            .spawn()
            .context("starting script (Debian package bsdutils)")?;
        let mut output = child.stdout.take().context("stdout")?;
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = output.read(&mut bytes) {
                if count == 0 || sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            keyboard: child.stdin.take().context("stdin")?,
            child,
            screen,
            seen: String::new(),
            read: 0,
        })
    }

    /// Types.
    pub fn types(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(text.as_bytes())?;
        Ok(self.keyboard.flush()?)
    }

    /// Waits until `wanted` is shown, and gives what was shown before it since the last wait.
    pub fn until(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen[self.read..].find(wanted) {
                let text = self.seen[self.read..self.read + at].to_owned();
                self.read += at + wanted.len();
                return Ok(text);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
                    self.seen.push_str(&text);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{wanted:?} is not shown within {limit:?}:\n{}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{wanted:?} was never shown:\n{}", self.seen)
                }
            }
        }
    }

    /// Waits for the end; gives the exit code and everything that was shown.
    pub fn end(mut self, limit: Duration) -> Result<(i32, String)> {
        let status = wait(&mut self.child, limit).with_context(|| self.seen.clone())?;
        while let Ok(bytes) = self.screen.recv() {
            let text = String::from_utf8_lossy(&bytes).replace('\r', "");
            self.seen.push_str(&text);
        }
        let seen = std::mem::take(&mut self.seen);
        Ok((status.code().unwrap_or(-1), seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
