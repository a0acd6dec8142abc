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
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tether_protocol::config::{ExecutorConfig, ProcessState, ProcessStatus, Session as Spec};
use tether_protocol::log::Source;
use tether_protocol::rpci::{self, Request};
use tether_protocol::session::{Event, Known, Message, PRIMARY, Process as Number, Stream};
use tether_sys::power::Power;
use tether_sys::process::{self as sys, Ended};
use tether_sys::pty::{self, WinSize};
use tether_sys::signals::SignalFd;

use crate::clock;
use crate::launch::{self, Launched, Sandbox};
use crate::link::Link;
use crate::logport::LogPort;
use crate::rpc::Rpc;

pub mod freezer;
pub mod process;
pub mod top;

use freezer::Freezer;
use process::{CHUNK, Process, Wanted};

/// How long the end waits for a VCH that wants output and is not there.
const DELIVERS_FOR: Duration = Duration::from_secs(10);
/// How long it waits for the last acknowledgement when nobody wants output.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Seconds from a stop signal to KILL when the container says nothing.
const STOP_TIMEOUT: u32 = 10;

/// Milliseconds without an event after which the first rush is over.
const IDLE_AFTER: u8 = 20;

const SIGNALS: u64 = 0;
const HYPERVISOR: u64 = 1;
const LINE: u64 = 2;
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

    /// Runs until the VM should go off, and tells how. `idle` runs once, when the first rush is over.
    pub fn run(mut self, idle: impl FnOnce(&mut Rpc)) -> Power {
        let mut idle = Some(idle);
        loop {
            self.link_events();
            self.report_exits();
            let line_full = self.parts.link.as_mut().is_some_and(Link::transmit);
            if self.is_over() {
                self.parts.log.finish_all();
                return self.power;
            }
            let ready = self.wait(line_full, idle.is_some());
            if ready.is_empty()
                && let Some(idle) = idle.take()
            {
                idle(self.parts.rpc);
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
        [dial, self.kill_at, self.ending]
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
    }

    fn handle(&mut self, token: u64) {
        match token {
            SIGNALS => self.on_signals(),
            HYPERVISOR => self.on_hypervisor(),
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

    fn on_signals(&mut self) {
        while let Ok(Some(received)) = self.parts.signals.read() {
            match received.signal {
                nix::libc::SIGCHLD => {}
                nix::libc::SIGHUP => {}
                _ => self.stop(Power::Off),
            }
        }
        while let Ok(Some((pid, how))) = sys::reap_any() {
            let code = match how {
                Ended::Exited(code) => code,
                Ended::Signaled(signal) => 128 + signal,
            };
            let process = self
                .processes
                .values_mut()
                .find(|p| p.pid == pid && p.ended.is_none());
            let Some(process) = process else { continue };
            let time = clock::now_nanos();
            process.ended = Some((code, time));
            if process.number == PRIMARY {
                self.on_primary_end(code, time);
            }
        }
    }

    /// The exit status goes to the hypervisor before anything else.
    fn on_primary_end(&mut self, code: i32, time: i64) {
        let state = ProcessState {
            status: ProcessStatus::Exited { code },
            stopped_at: Some(time),
            started_at: None,
        };
        if let Err(error) = self.parts.rpc.set(&state.encode(&self.parts.config.id)) {
            crate::say!("reporting the exit status: {error}");
        }
        self.kill_at = None;
        let wanted = self
            .processes
            .values()
            .any(|p| p.wanted != Wanted::default() || p.holds_output());
        let patience = if wanted { DELIVERS_FOR } else { LAST_WORDS };
        self.ending = Some(Instant::now() + patience);
    }

    /// Tells the host of processes whose output has been delivered.
    fn report_exits(&mut self) {
        let numbers: Vec<_> = self.processes.keys().copied().collect();
        for number in numbers {
            let outputs = self.processes.get(&number).map_or(0, |p| p.outputs.len());
            if self
                .processes
                .get(&number)
                .is_some_and(|p| p.ended.is_some() && !p.reported)
            {
                // All that its pipes hold is there now.
                (0..outputs).for_each(|index| self.pump(number, index));
            }
            let Some(process) = self.processes.get_mut(&number) else {
                continue;
            };
            let Some((code, time)) = process.ended.filter(|_| !process.reported) else {
                continue;
            };
            // Children that were left behind may hold an exec's pipes open: docker does not wait.
            if number != PRIMARY {
                let idle = (0..outputs).all(|index| process.may_read(index));
                if idle {
                    process
                        .outputs
                        .iter_mut()
                        .for_each(|output| output.file = None);
                }
            }
            let Some(link) = &mut self.parts.link else {
                process.reported = true;
                continue;
            };
            process.flush(&mut link.session);
            if process.is_drained() && link.session.is_up() {
                process.reported = true;
                link.session.send(Message::Exited {
                    process: number,
                    code,
                    time,
                });
            }
        }
    }

    /// The primary has ended, and there is nothing to wait for any more.
    fn is_over(&mut self) -> bool {
        let Some(deadline) = self.ending else {
            return false;
        };
        let Some(primary) = self.processes.get(&PRIMARY) else {
            return true;
        };
        if Instant::now() >= deadline {
            return true;
        }
        let Some(link) = &self.parts.link else {
            return primary.is_drained();
        };
        if primary.is_drained() && !link.session.is_up() && link.session.all_acknowledged() {
            // The host never came, and nobody was promised anything.
            return true;
        }
        primary.reported && link.is_quiet()
    }

    fn on_hypervisor(&mut self) {
        let mut buffer = [0; 4096];
        let Some(tclo) = &mut self.parts.tclo else {
            return;
        };
        match tclo.read(&mut buffer) {
            Ok(0) => self.parts.tclo = None,
            Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
            Err(_) => {}
        }
        while let Ok(Some(message)) = rpci::take_message(&mut self.heard) {
            let request = Request::decode(&message);
            let mut reply = Vec::new();
            rpci::write_message(&mut reply, b"OK ");
            if let Some(tclo) = &mut self.parts.tclo
                && let Err(error) = tclo.write_all(&reply)
            {
                crate::say!("answering the hypervisor: {error}");
            }
            match request {
                Request::Halt => self.stop(Power::Off),
                Request::Reboot => self.stop(Power::Restart),
                Request::Ping | Request::Other(_) => {}
            }
        }
    }

    /// Stops the container as docker would: its signal, then KILL.
    fn stop(&mut self, power: Power) {
        self.power = power;
        if self.ending.is_some() {
            return;
        }
        let spec = self.parts.config.primary();
        let signal = spec.map_or("", |s| s.stop_signal.as_str());
        let timeout = spec.and_then(|s| s.stop_timeout).unwrap_or(STOP_TIMEOUT);
        if self.parts.freezer.is_frozen()
            && let Some(primary) = self.processes.get(&PRIMARY)
        {
            self.parts.freezer.set(false, primary.pid);
        }
        self.signal(PRIMARY, signal_number(signal));
        self.kill_at = Some(Instant::now() + Duration::from_secs(timeout.into()));
    }

    fn signal(&self, number: Number, signal: i32) {
        let Some(process) = self.processes.get(&number).filter(|p| p.ended.is_none()) else {
            return;
        };
        if let Err(error) = sys::kill(process.pid, signal) {
            crate::say!("signal {signal} to {}: {error}", process.pid);
        }
    }

    fn link_events(&mut self) {
        while let Some(event) = self
            .parts
            .link
            .as_mut()
            .and_then(|link| link.session.poll_event())
        {
            match event {
                Event::Up { resumed: true } => {}
                Event::Up { resumed: false } => self.greet(),
                Event::Data {
                    process,
                    stream: Stream::Stdin,
                    data,
                } => {
                    if let Some(process) = self.processes.get_mut(&process) {
                        process.type_in(&data);
                    }
                    self.feed(process);
                }
                Event::Data {
                    process,
                    stream,
                    data,
                } => {
                    if let Some(link) = &mut self.parts.link {
                        link.session.consumed(process, stream, data.len());
                    }
                }
                Event::Credit { process, .. } => self.flush(process),
                Event::Message(message) => self.obey(message),
            }
        }
    }

    fn flush(&mut self, number: Number) {
        if let (Some(process), Some(link)) =
            (self.processes.get_mut(&number), self.parts.link.as_mut())
        {
            process.flush(&mut link.session);
        }
    }

    /// A host that was not met before: it learns what there is, and gets nothing unasked.
    fn greet(&mut self) {
        for process in self.processes.values_mut() {
            process.unsubscribe();
            process.reported = false;
        }
        let known = |p: &Process| Known {
            process: p.number,
            id: p.id.clone(),
            pid: p.ended.is_none().then(|| top::inner_pid(p.pid)),
            code: p.ended.map(|(code, _)| code),
        };
        let processes = self.processes.values().map(known).collect();
        let frozen = self.parts.freezer.is_frozen();
        let log_next = self.parts.log.next();
        self.tell(Message::Inventory {
            processes,
            frozen,
            log_next,
        });
    }

    fn tell(&mut self, message: Message) {
        if let Some(link) = &mut self.parts.link {
            link.session.send(message);
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Subscribe {
                process,
                stdout,
                stderr,
                log,
            } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.subscribe(Wanted {
                        stdout,
                        stderr,
                        log,
                    });
                }
                self.flush(process);
            }
            Message::CloseStdin { process } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.end_input();
                }
                self.feed(process);
            }
            Message::Resize {
                process,
                rows,
                cols,
            } => {
                let process = self.processes.get(&process);
                let master = process.and_then(|p| p.outputs.first()?.file.as_ref());
                // Without a terminal there is no size to set.
                if let Some(master) = master {
                    let _ = pty::set_size(master.as_fd(), WinSize { rows, cols });
                }
            }
            Message::Signal { process, signal } => self.signal(process, signal),
            Message::Exec { process, id, spec } => self.exec(process, &id, &spec),
            Message::Release { process } if process != PRIMARY => {
                self.processes.remove(&process);
            }
            Message::Freeze { frozen } => {
                if let Some(primary) = self.processes.get(&PRIMARY).filter(|p| p.ended.is_none()) {
                    self.parts.freezer.set(frozen, primary.pid);
                }
                let frozen = self.parts.freezer.is_frozen();
                self.tell(Message::Frozen { frozen });
            }
            Message::List { request } => {
                let primary = self.processes.get(&PRIMARY).map_or(0, |p| p.pid);
                let passwd = format!("/proc/{primary}/root/etc/passwd");
                let passwd = std::fs::read_to_string(passwd).unwrap_or_default();
                let rows = top::list(primary, &passwd);
                self.tell(Message::Processes { request, rows });
            }
            // What only a guest says, and what the session keeps to itself.
            _ => {}
        }
    }

    fn exec(&mut self, number: Number, id: &str, spec: &Spec) {
        if self.processes.contains_key(&number) {
            return;
        }
        let Some(pidfd) = self
            .primary_pidfd
            .as_ref()
            .filter(|_| self.ending.is_none())
        else {
            let error = "the container's process has ended".to_owned();
            return self.tell(Message::Failed {
                process: number,
                error,
                code: 128,
            });
        };
        let spec = self.complete(spec);
        match launch::join(&self.parts.sandbox, pidfd.as_fd(), &spec) {
            Ok(launched) => {
                let pid = top::inner_pid(launched.pid);
                let process = Process::new(number, id, &spec, launched, true);
                self.processes.insert(number, process);
                self.tell(Message::Started {
                    process: number,
                    pid,
                    time: clock::now_nanos(),
                });
            }
            Err(error) => {
                let (error, code) = (error.text, error.code);
                self.tell(Message::Failed {
                    process: number,
                    error,
                    code,
                });
            }
        }
    }

    /// An exec has the container's environment, user and place where it says nothing itself.
    fn complete(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        if let Some(primary) = self.parts.config.primary() {
            let mut env = primary.env.clone();
            launch::merge(&mut env, &spec.env);
            spec.env = env;
            if spec.user.is_empty() {
                spec.user.clone_from(&primary.user);
                spec.groups.clone_from(&primary.groups);
            }
            if spec.dir.is_empty() {
                spec.dir.clone_from(&primary.dir);
            }
            let privileged = spec.security.privileged;
            spec.security = primary.security.clone();
            spec.security.privileged |= privileged;
        }
        spec.init = false;
        spec
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

/// Number of a signal by name (with or without `SIG`) or number; SIGTERM for what is neither.
pub fn signal_number(name: &str) -> i32 {
    use nix::libc as c;
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let names = [
        ("HUP", c::SIGHUP),
        ("INT", c::SIGINT),
        ("QUIT", c::SIGQUIT),
        ("ILL", c::SIGILL),
        ("TRAP", c::SIGTRAP),
        ("ABRT", c::SIGABRT),
        ("BUS", c::SIGBUS),
        ("FPE", c::SIGFPE),
        ("KILL", c::SIGKILL),
        ("USR1", c::SIGUSR1),
        ("SEGV", c::SIGSEGV),
        ("USR2", c::SIGUSR2),
        ("PIPE", c::SIGPIPE),
        ("ALRM", c::SIGALRM),
        ("TERM", c::SIGTERM),
        ("CHLD", c::SIGCHLD),
        ("CONT", c::SIGCONT),
        ("STOP", c::SIGSTOP),
        ("TSTP", c::SIGTSTP),
        ("TTIN", c::SIGTTIN),
        ("TTOU", c::SIGTTOU),
        ("URG", c::SIGURG),
        ("XCPU", c::SIGXCPU),
        ("XFSZ", c::SIGXFSZ),
        ("VTALRM", c::SIGVTALRM),
        ("PROF", c::SIGPROF),
        ("WINCH", c::SIGWINCH),
        ("IO", c::SIGIO),
        ("PWR", c::SIGPWR),
        ("SYS", c::SIGSYS),
    ];
    let realtime = || {
        let (base, rest) = match name.strip_prefix("RTMIN") {
            Some(rest) => (34, rest),
            None => (64, name.strip_prefix("RTMAX")?),
        };
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.parse().ok()?
        };
        Some(base + offset).filter(|signal| (34..=64).contains(signal))
    };
    names
        .iter()
        .find_map(|(known, number)| (*known == name).then_some(*number))
        .or_else(|| name.parse().ok().filter(|signal| (1..=64).contains(signal)))
        .or_else(realtime)
        .unwrap_or(c::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number("SIGQUIT"), 3);
        assert_eq!(signal_number("usr1"), 10);
        assert_eq!(signal_number("9"), 9);
        assert_eq!(signal_number("RTMIN+3"), 37);
        assert_eq!(signal_number(""), 15);
    }
}
