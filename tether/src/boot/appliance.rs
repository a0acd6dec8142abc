//! The appliance: supervises `vch`, which gets the configuration as one document.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tether_protocol::config::{ApplianceConfig, Session, StateKeys};
use tether_protocol::log::Source;
use tether_protocol::rpci::{self, Request};
use tether_sys::mount::{self, MS_BIND};
use tether_sys::power::Power;
use tether_sys::process::{self, Ended};
use tether_sys::signals::SignalFd;

use super::{BootError, Machine, prepare};
use crate::launch::{self, Sandbox, Stdio};
use crate::logport::LogPort;
use crate::network::Network;
use crate::rpc::Rpc;
use crate::signals::signal_number;
use crate::upkeep::Upkeep;
use crate::{clock, disk, say};

/// The document for `vch`.
const DOCUMENT: &str = "/run/vch/config.json";
/// First pause before a process that ended is started again; doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A process that ran this long begins with the first pause again.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// Seconds that processes get to end when the appliance stops.
const STOP_TIMEOUT: u32 = 20;

/// One supervised process.
struct Supervised<'a> {
    id: &'a str,
    spec: &'a Session,
    pid: Option<i32>,
    stdio: Stdio,
    started: Instant,
    pause: Duration,
    start_at: Option<Instant>,
    resurrections: u32,
}

/// Runs the appliance until it should go off.
pub(super) fn run(
    machine: &Machine,
    config: &ApplianceConfig,
    mut rpc: Rpc,
    signals: SignalFd,
) -> Result<Power, BootError> {
    let executor = &config.executor;
    writable_etc(machine).map_err(prepare("/etc"))?;
    process::set_hostname(executor.host_name()).map_err(prepare("the host name"))?;
    let network = Network::set_up(executor).map_err(BootError::Network)?;
    let upkeep = Upkeep::new(executor, network, "/etc".into());
    upkeep.write_names().map_err(prepare("name files"))?;
    write_document(config).map_err(prepare("the configuration document"))?;
    upkeep.report(&mut rpc);
    let port = executor.log_port.map(|number| machine.port(number));
    let log = LogPort::open(port.as_deref(), 1).map_err(prepare("the log port"))?;
    let mut tclo = UnixStream::connect(&machine.tclo).ok();
    if let Some(tclo) = &mut tclo {
        tclo.set_nonblocking(true)
            .map_err(prepare("the hypervisor's requests"))?;
    }
    let sandbox = Sandbox {
        config: executor,
        root: None,
        volumes: &[],
        names: &[],
        cgroup: None,
        joined: &[],
    };
    let processes = executor.sessions.iter().map(|(id, spec)| Supervised {
        id,
        spec,
        pid: None,
        stdio: Stdio::default(),
        started: Instant::now(),
        pause: FIRST_PAUSE,
        start_at: Some(Instant::now()),
        resurrections: 0,
    });
    let processes = processes.collect();
    let supervisor = Supervisor {
        sandbox,
        processes,
        rpc,
        log,
        signals,
        tclo,
        heard: Vec::new(),
        stopping: None,
        upkeep,
    };
    Ok(supervisor.run())
}

/// The ISO's `/etc` with room for files that are written here.
fn writable_etc(machine: &Machine) -> io::Result<()> {
    let copy = machine.state.join("etc");
    fs::create_dir_all(&copy)?;
    disk::copy_tree(Path::new("/etc"), &copy)?;
    mount::mount(Some(&copy), Path::new("/etc"), None, MS_BIND, None)
}

fn write_document(config: &ApplianceConfig) -> io::Result<()> {
    let path = Path::new(DOCUMENT);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(config).map_err(io::Error::other)?)
}

struct Supervisor<'a> {
    sandbox: Sandbox<'a>,
    processes: Vec<Supervised<'a>>,
    rpc: Rpc,
    log: LogPort,
    signals: SignalFd,
    tclo: Option<UnixStream>,
    heard: Vec<u8>,
    stopping: Option<(Power, Instant)>,
    upkeep: Upkeep<'a>,
}

impl Supervisor<'_> {
    fn run(mut self) -> Power {
        loop {
            self.start_due();
            if let Some((power, deadline)) = self.stopping {
                let running = self.processes.iter().any(|p| p.pid.is_some());
                if !running || Instant::now() >= deadline {
                    return power;
                }
            } else if self
                .processes
                .iter()
                .all(|p| p.pid.is_none() && p.start_at.is_none())
            {
                say!("nothing is left to supervise");
                return Power::Off;
            }
            self.wait();
            self.copy_output();
            self.reap();
            self.hear();
            self.upkeep.turn(&mut self.rpc);
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let mut states = BTreeMap::new();
        for process in &mut self.processes {
            if self.stopping.is_some() || process.start_at.is_none_or(|at| at > now) {
                continue;
            }
            process.start_at = None;
            match launch::start(&self.sandbox, process.spec) {
                Ok(launched) => {
                    process.pid = Some(launched.pid);
                    process.stdio = launched.stdio;
                    process.started = now;
                    states.insert(StateKeys::started(process.id), "true".to_owned());
                    let time = clock::now_nanos().to_string();
                    states.insert(StateKeys::start_time(process.id), time);
                }
                Err(error) => {
                    say!("{}: {error}", process.id);
                    states.insert(StateKeys::started(process.id), error.text);
                    process.again();
                }
            }
        }
        let states: Vec<_> = states.into_iter().collect();
        if !states.is_empty()
            && let Err(error) = self.rpc.set(&states)
        {
            say!("reporting starts: {error}");
        }
    }

    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(tclo) = &self.tclo {
            fds.push(PollFd::new(tclo.as_fd(), PollFlags::POLLIN));
        }
        for process in &self.processes {
            let outputs = [&process.stdio.stdout, &process.stdio.stderr];
            for file in outputs.into_iter().flatten() {
                fds.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
            }
        }
        fds.extend(
            self.upkeep
                .sockets()
                .map(|socket| PollFd::new(socket, PollFlags::POLLIN)),
        );
        let due = self.processes.iter().filter_map(|p| p.start_at);
        let due = due.chain(self.upkeep.due());
        let deadline = due.chain(self.stopping.map(|(_, at)| at)).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |d| clock::millis_until(d).into());
        // An interruption is as good as an event: everything is looked at.
        let _ = poll(&mut fds, timeout);
    }

    fn copy_output(&mut self) {
        let mut buffer = [0; 16 * 1024];
        for process in &mut self.processes {
            let outputs = [
                (&mut process.stdio.stdout, Source::Stdout),
                (&mut process.stdio.stderr, Source::Stderr),
            ];
            for (output, source) in outputs {
                while let Some(file) = output {
                    match file.read(&mut buffer) {
                        Ok(0) => *output = None,
                        Ok(count) => {
                            self.log.write(source, &buffer[..count]);
                            if source == Source::Stderr {
                                // The console shows it too: there is no shell in here.
                                let _ = io::stderr().write_all(&buffer[..count]);
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(_) => *output = None,
                    }
                }
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(received)) = self.signals.read() {
            if !matches!(received.signal, nix::libc::SIGCHLD | nix::libc::SIGHUP) {
                self.stop(Power::Off);
            }
        }
        while let Ok(Some((pid, how))) = process::reap_any() {
            let Some(process) = self.processes.iter_mut().find(|p| p.pid == Some(pid)) else {
                continue;
            };
            process.pid = None;
            let code = match how {
                Ended::Exited(code) => code,
                Ended::Signaled(signal) => 128 + signal,
            };
            say!("{} ended with {code}", process.id);
            if process.started.elapsed() >= SOUND_AFTER {
                process.pause = FIRST_PAUSE;
            }
            let mut states = vec![
                (StateKeys::status(process.id), code.to_string()),
                (
                    StateKeys::stop_time(process.id),
                    clock::now_nanos().to_string(),
                ),
            ];
            if process.spec.restart {
                process.again();
                let count = process.resurrections.to_string();
                states.push((StateKeys::resurrections(process.id), count));
            }
            if let Err(error) = self.rpc.set(&states) {
                say!("reporting an end: {error}");
            }
        }
    }

    fn hear(&mut self) {
        let mut buffer = [0; 1024];
        match self.tclo.as_mut().map(|tclo| tclo.read(&mut buffer)) {
            Some(Ok(0)) => self.tclo = None,
            Some(Ok(count)) => self.heard.extend_from_slice(&buffer[..count]),
            Some(Err(_)) | None => {}
        }
        while let Ok(Some(message)) = rpci::take_message(&mut self.heard) {
            let mut reply = Vec::new();
            rpci::write_message(&mut reply, b"OK ");
            if let Some(tclo) = &mut self.tclo {
                // A hypervisor that does not read its answers gets none.
                let _ = tclo.write_all(&reply);
            }
            match Request::decode(&message) {
                Request::Halt => self.stop(Power::Off),
                Request::Reboot => self.stop(Power::Restart),
                Request::Ping | Request::Other(_) => {}
            }
        }
    }

    fn stop(&mut self, power: Power) {
        if self.stopping.is_some() {
            return;
        }
        let mut longest = 0;
        for process in &self.processes {
            longest = longest.max(process.spec.stop_timeout.unwrap_or(STOP_TIMEOUT));
            if let Some(pid) = process.pid
                && let Err(error) = process::kill(pid, signal_number(&process.spec.stop_signal))
            {
                say!("stopping {}: {error}", process.id);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(longest.into());
        self.stopping = Some((power, deadline));
    }
}

impl Supervised<'_> {
    fn again(&mut self) {
        self.start_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        self.resurrections += 1;
    }
}
