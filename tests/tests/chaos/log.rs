//! The log of the container that counts: the file's numbers, and what docker's clients see of them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::http::{Body, hijack};
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

/// How a client reads the numbers live.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// Attached, by the API: docker's own client would wait for the container's end when its stream has ended.
    Attach,
    /// `docker logs -f`.
    Follow,
}

/// A client that reads the numbers live, and comes back whenever its stream ends.
pub struct Reader {
    how: How,
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
    /// Starts a client.
    pub fn start(vch: &Installed, how: How) -> Self {
        let shared = Arc::new(Shared::default());
        let (ours, server) = (shared.clone(), vch.docker_address());
        let mut command = vch.docker_command();
        command
            .args(["logs", "-f", "--tail", "1", TICKER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let thread = std::thread::spawn(move || {
            while !ours.stop.load(Ordering::SeqCst) {
                let session = match how {
                    How::Attach => ours.attach(server),
                    How::Follow => ours.follow(&mut command),
                };
                if let Err(why) = session {
                    *lock(&ours.gap) = Some(format!("{how:?}: {why:#}"));
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        Self {
            how,
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
            ensure!(
                last > now,
                "{:?} has come to {last}, the log was at {now} long ago",
                self.how
            );
            Ok(())
        })
    }

    /// How often the client had to come.
    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// One life of docker's client: its numbers follow each other.
    fn follow(&self, command: &mut std::process::Command) -> Result<()> {
        let mut child = command.spawn().context("starting docker")?;
        let output = child.stdout.take().context("stdout")?;
        *lock(&self.child) = Some(child);
        let mut counted = Counted::default();
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            self.count(&mut counted, &line)?;
            line.clear();
        }
        if let Some(mut child) = lock(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    }

    /// One attach, until the server ends it.
    fn attach(&self, server: SocketAddr) -> Result<()> {
        let path = format!("/containers/{TICKER}/attach?stream=1&stdout=1&stderr=1");
        // Refused while what serves it is being started again: the next try follows.
        let Ok(mut stream) = hijack(server, &path, Duration::from_secs(20)) else {
            return Ok(());
        };
        let nap = Some(Duration::from_millis(100));
        stream.get_ref().set_read_timeout(nap)?;
        let (mut counted, mut raw, mut buffer) = (Counted::default(), Vec::new(), [0; 4096]);
        while !self.stop.load(Ordering::SeqCst) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => raw.extend_from_slice(&buffer[..count]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                // Broken off: as good as ended.
                Err(_) => break,
            }
            while let Some(frame) = take_frame(&mut raw) {
                self.count(&mut counted, &frame)?;
            }
        }
        Ok(())
    }

    fn count(&self, counted: &mut Counted, bytes: &[u8]) -> Result<()> {
        if let Some(number) = counted.take(bytes)? {
            if !std::mem::replace(&mut counted.begun, true) {
                self.sessions.fetch_add(1, Ordering::SeqCst);
            }
            self.last.store(number, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The numbers of one stream.
#[derive(Default)]
struct Counted {
    begun: bool,
    last: Option<u64>,
    /// Of a line whose end has not come.
    part: Vec<u8>,
}

impl Counted {
    /// The last number after these bytes.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        self.part.extend_from_slice(bytes);
        while let Some(at) = self.part.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.part.drain(..=at).collect();
            let line = String::from_utf8(line)?;
            let number = line.trim_end().parse::<u64>();
            let number = number.with_context(|| format!("{line:?}"))?;
            if let Some(last) = self.last {
                ensure!(number == last + 1, "{number} follows {last}");
            }
            self.last = Some(number);
        }
        Ok(self.last)
    }
}

/// The content of the first whole frame.
fn take_frame(raw: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = raw.get(..8)?;
    let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    raw.get(8..8 + size)?;
    Some(raw.drain(..8 + size).skip(8).collect())
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
