//! The log of the container that counts: the file's numbers, and what docker's clients see of them.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::http::Body;
use system_tests::installed::{Installed, until};

use super::workload::{TICKER, consecutive, stdout};

/// Reads the file on, from where it was read to.
#[derive(Default)]
pub struct LogFile {
    offset: u64,
    last: u64,
}

impl LogFile {
    /// Fails when a record is missing or doubled, in the file or in what docker prints of it.
    pub fn check(&mut self, vch: &Installed, id: &str) -> Result<()> {
        let folder = format!("{TICKER}-{}", &id[..12]);
        let path = vch.datastore().join(folder).join(format!("{id}.log"));
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may be half written.
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            let mut fields = line.split(' ');
            let number = fields.nth(2).and_then(|seq| seq.parse::<u64>().ok());
            let text = fields.next().and_then(|text| text.parse::<u64>().ok());
            self.last += 1;
            // The container counts as its log does.
            ensure!(
                number == Some(self.last) && text == Some(self.last),
                "record {line:?} at number {}",
                self.last
            );
        }
        self.offset += whole as u64;
        let tail = tail(vch, "100")?;
        ensure!(
            tail >= self.last,
            "docker logs ends at {tail}, the file at {}",
            self.last
        );
        Ok(())
    }
}

/// The last number that `docker logs` gives, of so many lines that have no gap.
pub fn tail(vch: &Installed, lines: &str) -> Result<u64> {
    let path = format!("/containers/{TICKER}/logs?stdout=1&tail={lines}");
    let answer = vch.request("GET", &path, &Body::None, Duration::from_secs(20))?;
    ensure!(answer.is_success(), "logs: {}", answer.text());
    consecutive(&stdout(&answer.body)?)
}

/// A docker client that reads the numbers live, and comes back whenever its stream ends.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    last: AtomicU64,
    sessions: AtomicU64,
    child: Mutex<Option<Child>>,
    gap: Mutex<Option<String>>,
}

impl Reader {
    /// Starts `docker ARGS` on the container that counts.
    pub fn start(vch: &Installed, args: &[&str]) -> Self {
        let shared = Arc::new(Shared::default());
        let (ours, args) = (shared.clone(), args.join(" "));
        let mut command = vch.docker_command();
        command
            .args(args.split(' '))
            .arg(TICKER)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let thread = std::thread::spawn(move || {
            while !ours.stop.load(Ordering::SeqCst) {
                let session = ours.session(&mut command);
                if let Err(why) = session {
                    *lock(&ours.gap) = Some(format!("docker {args}: {why:#}"));
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until a number comes that was counted after this moment; fails when one was lost or came twice.
    pub fn alive(&self, vch: &Installed) -> Result<()> {
        let now = tail(vch, "1")?;
        until(Duration::from_secs(30), || {
            if let Some(gap) = lock(&self.shared.gap).clone() {
                return Err(anyhow::anyhow!(gap));
            }
            let last = self.shared.last.load(Ordering::SeqCst);
            ensure!(last > now, "the reader is at {last}, the log at {now}");
            Ok(())
        })
    }

    /// How often the client had to come.
    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// One life of the client: its numbers follow each other.
    fn session(&self, command: &mut std::process::Command) -> Result<()> {
        let mut child = command.spawn().context("starting docker")?;
        let output = child.stdout.take().context("stdout")?;
        *lock(&self.child) = Some(child);
        self.sessions.fetch_add(1, Ordering::SeqCst);
        let mut before: Option<u64> = None;
        let mut lines = BufReader::new(output);
        let mut line = String::new();
        // A line that has no end was cut off with the stream.
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let number: u64 = line
                .trim_end()
                .parse()
                .with_context(|| format!("{line:?}"))?;
            if let Some(before) = before {
                ensure!(number == before + 1, "{number} follows {before}");
            }
            before = Some(number);
            self.last.store(number, Ordering::SeqCst);
            line.clear();
        }
        if let Some(mut child) = lock(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(child) = &mut *lock(&self.shared.child) {
            let _ = child.kill();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
