//! The event loop: everything that happens while the VM is on.
//!
//! ```text
//!            process ─ pipes/pty ─▶ log port (ttyS1)
//!               ▲  │                      │ live copy
//!       signals │  └──── output ──────────┤
//!               │                         ▼
//!  TCLO ──▶  event loop  ◀── credit ──  link (ttyS0) ──▶ VCH
//!               │
//!               └── exit status ──▶ guest RPC, first
//! ```
//! States: running → ending (the primary process has ended, output is being delivered) → off.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tether_protocol::config::{ExecutorConfig, Session as Spec};
use tether_protocol::log::Source;
use tether_protocol::session::{Message, PRIMARY, Process as Number, Stream};
use tether_sys::power::Power;
use tether_sys::signals::SignalFd;

use crate::clock;
use crate::launch::{Launched, Sandbox};
use crate::link::Link;
use crate::logport::LogPort;
use crate::rpc::Rpc;
use crate::upkeep::Upkeep;

mod ending;
pub mod freezer;
mod host;
pub mod process;
pub mod top;

use freezer::Freezer;
use process::{CHUNK, Process, Wanted};

/// Milliseconds without an event after which the first rush is over.
const IDLE_AFTER: u8 = 20;

/// The longest that a rush is taken for the first: some programs never pause.
const RUSH: Duration = Duration::from_millis(200);

const SIGNALS: u64 = 0;
const HYPERVISOR: u64 = 1;
const LINE: u64 = 2;
const LEASES: u64 = 3;
/// Tokens of processes: the number, and which of its files.
const PROCESSES: u64 = 16;

/// What the loop works with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The VM's configuration.
    pub config: &'a ExecutorConfig,
    /// What execs need.
    pub sandbox: Sandbox<'a>,
    /// Guest RPC.
    pub rpc: &'a mut Rpc,
    /// Requests of the hypervisor.
    pub tclo: Option<UnixStream>,
    /// The line to the VCH; none when the VM has none.
    pub link: Option<Link>,
    /// The log.
    pub log: &'a mut LogPort,
    /// Signals.
    pub signals: SignalFd,
    /// The container's cgroup.
    pub freezer: &'a mut Freezer,
    /// What goes on beside the processes.
    pub upkeep: &'a mut Upkeep<'a>,
}

/// The loop's state.
#[derive(Debug)]
pub struct Guest<'a> {
    parts: Parts<'a>,
    processes: BTreeMap<Number, Process>,
    primary_pidfd: Option<OwnedFd>,
    heard: Vec<u8>,
    kill_at: Option<Instant>,
    ending: Option<Instant>,
    power: Power,
}

impl<'a> Guest<'a> {
    /// A loop for the primary process, which was just launched.
    pub fn new(parts: Parts<'a>, spec: &Spec, mut launched: Launched) -> Self {
        let primary_pidfd = launched.pidfd.take();
        let mut primary = Process::new(PRIMARY, &parts.config.id, spec, launched, spec.attach);
        if parts.link.is_none() {
            primary.subscribe(Wanted::default());
        }
        Self {
            parts,
            processes: BTreeMap::from([(PRIMARY, primary)]),
            primary_pidfd,
            heard: Vec::new(),
            kill_at: None,
            ending: None,
            power: Power::Off,
        }
    }

    /// Runs until the VM should go off, and tells how. vSphere is told about the guest when the first
    /// rush is over.
    pub fn run(mut self) -> Power {
        let (mut fresh, began) = (true, Instant::now());
        loop {
            self.link_events();
            self.report_exits();
            let line_full = self.parts.link.as_mut().is_some_and(Link::transmit);
            if self.is_over() {
                self.parts.log.finish_all();
                return self.power;
            }
            let ready = self.wait(line_full, fresh);
            if fresh && (ready.is_empty() || began.elapsed() >= RUSH) {
                fresh = false;
                self.parts.upkeep.report(self.parts.rpc);
            }
            for token in ready {
                self.handle(token);
            }
            self.deadlines();
        }
    }

    /// Waits for something to do, and tells what.
    fn wait(&self, line_full: bool, briefly: bool) -> Vec<u64> {
        let mut tokens = vec![SIGNALS];
        let mut fds = vec![PollFd::new(self.parts.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(tclo) = &self.parts.tclo {
            tokens.push(HYPERVISOR);
            fds.push(PollFd::new(tclo.as_fd(), PollFlags::POLLIN));
        }
        if let Some(port) = self.parts.link.as_ref().and_then(Link::port) {
            let out = if line_full {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            };
            tokens.push(LINE);
            fds.push(PollFd::new(port, PollFlags::POLLIN | out));
        }
        for socket in self.parts.upkeep.sockets() {
            tokens.push(LEASES);
            fds.push(PollFd::new(socket, PollFlags::POLLIN));
        }
        for (number, process) in &self.processes {
            let base = PROCESSES + u64::from(*number) * 4;
            if let Some(stdin) = process.stdin.as_ref().filter(|_| !process.typed.is_empty()) {
                tokens.push(base);
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
            }
            for (i, output) in process.outputs.iter().enumerate() {
                if let Some(file) = output.file.as_ref().filter(|_| process.may_read(i)) {
                    tokens.push(base + 1 + i as u64);
                    fds.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
                }
            }
        }
        let timeout = match self.next_deadline() {
            _ if briefly => PollTimeout::from(IDLE_AFTER),
            Some(deadline) => PollTimeout::from(clock::millis_until(deadline)),
            None => PollTimeout::NONE,
        };
        // An interruption is an empty answer.
        let _ = poll(&mut fds, timeout);
        let ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
        tokens
            .iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|(token, _)| *token)
            .collect()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let dial = self.parts.link.as_ref().and_then(Link::dial_at);
        let waiting = self.processes.values().filter_map(Process::deadline);
        [dial, self.kill_at, self.ending, self.parts.upkeep.due()]
            .into_iter()
            .flatten()
            .chain(waiting)
            .min()
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        if let Some(link) = &mut self.parts.link
            && link.dial_at().is_some_and(|at| at <= now)
        {
            link.dial();
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.signal(PRIMARY, nix::libc::SIGKILL);
        }
        if self.parts.upkeep.due().is_some_and(|at| at <= now) {
            self.parts.upkeep.turn(self.parts.rpc);
        }
    }

    fn handle(&mut self, token: u64) {
        match token {
            SIGNALS => self.on_signals(),
            HYPERVISOR => self.on_hypervisor(),
            LEASES => self.parts.upkeep.turn(self.parts.rpc),
            LINE => {
                if let Some(link) = &mut self.parts.link {
                    link.receive();
                }
            }
            token => {
                let (number, file) = ((token - PROCESSES) / 4, (token - PROCESSES) % 4);
                let number = Number::try_from(number).unwrap_or_default();
                match usize::try_from(file)
                    .ok()
                    .and_then(|file| file.checked_sub(1))
                {
                    None => self.feed(number),
                    Some(index) => self.pump(number, index),
                }
            }
        }
    }

    /// Moves output from a process to the log and the link.
    fn pump(&mut self, number: Number, index: usize) {
        let Some(process) = self.processes.get_mut(&number) else {
            return;
        };
        let mut buffer = vec![0; CHUNK];
        for _ in 0..16 {
            if !process.may_read(index) {
                break;
            }
            let stream = process.outputs[index].stream;
            let count = process.read(index, &mut buffer);
            if count.is_none() && process.outputs[index].file.is_some() {
                break;
            }
            let bytes = &buffer[..count.unwrap_or(0)];
            if number == PRIMARY {
                let source = if stream == Stream::Stderr {
                    Source::Stderr
                } else {
                    Source::Stdout
                };
                let lines = match count {
                    Some(_) => self.parts.log.write(source, bytes),
                    None => self.parts.log.finish(source),
                };
                if let Some(link) = &mut self.parts.link
                    && process.wanted.log
                {
                    live_copy(process, &lines, link);
                }
            }
            match &mut self.parts.link {
                Some(link) => process.take(index, bytes, &mut link.session),
                None => process.outputs[index].pending.clear(),
            }
        }
    }

    /// Moves what was typed to a process.
    fn feed(&mut self, number: Number) {
        let Some(process) = self.processes.get_mut(&number) else {
            return;
        };
        let done = process.write_typed();
        if let Some(link) = &mut self.parts.link {
            link.session.consumed(number, Stream::Stdin, done);
        }
    }
}

/// Sends log records to a subscriber. One that does not keep up is told that its copy has ended,
/// and goes on from the file.
fn live_copy(process: &mut Process, lines: &[u8], link: &mut Link) {
    if link.session.credit(process.number, Stream::Log) < lines.len() {
        process.wanted.log = false;
        link.session.send(Message::End {
            process: process.number,
            stream: Stream::Log,
        });
    } else {
        link.session.send_data(process.number, Stream::Log, lines);
    }
}
