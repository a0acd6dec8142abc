//! The guests of a bench: what tether does in a VM, played by the test with tether's own link, without a process.
//!
//! What a container's first argument says is what it does: `exit N` ends at once with that code, `absent` cannot be
//! launched, `stubborn` takes no notice of signals, `deaf` never dials, anything else runs until a signal. Execs: `say TEXT` prints it, `log TEXT` writes one record to the
//! container's log, `fail N` ends with that code, anything else runs until a signal or the end of its input.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use simulator::engine::inert::InertGuest;
use simulator::engine::{GuestEvent, PowerOffCause, SerialBacking};
use tether_protocol::config::{ExecutorConfig, ProcessState, ProcessStatus, StateKeys};
use tether_protocol::log::{Record, Source};
use tether_protocol::session::{
    Event, Identity, Known, Message, PRIMARY, Process, ProcessRow, SessionGuest, Stream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long a guest waits before it dials again a hub that is not there.
const REDIAL: Duration = Duration::from_millis(10);

/// How many runs of each container there were, by its id: a run too many is a failure of idempotence.
pub type Runs = Arc<Mutex<BTreeMap<String, u32>>>;

/// Plays every guest that is powered on.
pub async fn play(
    mut guests: mpsc::UnboundedReceiver<Arc<InertGuest>>,
    hub: watch::Receiver<Option<SocketAddr>>,
    runs: Runs,
) {
    let mut playing = JoinSet::new();
    while let Some(guest) = guests.recv().await {
        while playing.try_join_next().is_some() {}
        let keys = guest.spec().guestinfo.snapshot();
        let Ok(config) = ExecutorConfig::decode(&keys) else {
            continue;
        };
        let Some(argv) = config.primary().map(|s| s.args.clone()) else {
            continue;
        };
        *runs.lock().unwrap().entry(config.id.clone()).or_default() += 1;
        playing.spawn(run(guest, config, argv, hub.clone()));
    }
}

fn set(guest: &InertGuest, keys: Vec<(String, String)>) {
    for (key, value) in keys {
        guest.info_set(&key, &value);
    }
}

fn now() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    i64::try_from(now).unwrap()
}

async fn run(
    guest: Arc<InertGuest>,
    config: ExecutorConfig,
    argv: Vec<String>,
    hub: watch::Receiver<Option<SocketAddr>>,
) {
    let id = config.id.clone();
    // As tether: what the last run left is cleared before a new boot has a name.
    let identity = Identity::generate().unwrap();
    for key in ProcessState::cleared(&id) {
        guest.info_set(&key, "");
    }
    guest.info_set(StateKeys::BOOT, &format!("{:016x}", rand::random::<u64>()));
    guest.info_set(StateKeys::KEY, &identity.public_key().to_base64());
    let running = |status| ProcessState {
        status,
        started_at: Some(now()),
        stopped_at: None,
    };
    let off = GuestEvent::PoweredOff(PowerOffCause::PoweredOff);
    if argv.first().is_some_and(|a| a == "absent") {
        let error = "exec: \"absent\": executable file not found in $PATH: unknown".to_owned();
        let failed = running(ProcessStatus::Failed { error, code: 127 });
        set(&guest, failed.encode(&id));
        guest.end(off);
        return;
    }
    set(&guest, running(ProcessStatus::Running).encode(&id));
    guest.send(GuestEvent::ToolsRunning(true));
    let code = match argv.first().map(String::as_str) {
        Some("exit") => argv[1].parse().unwrap(),
        Some("deaf") => return guest.ended().await,
        _ => {
            let session = SessionGuest::new(&identity, &id, &config.vch_key).unwrap();
            let stubborn = argv.first().is_some_and(|a| a == "stubborn");
            let mut life = Life::new(&guest, session, stubborn);
            tokio::select! {
                code = life.run(hub) => code,
                () = guest.ended() => return,
            }
        }
    };
    let ended = ProcessState {
        status: ProcessStatus::Exited { code },
        started_at: None,
        stopped_at: Some(now()),
    };
    set(&guest, ended.encode(&id));
    guest.end(off);
}

struct Exec {
    id: String,
    code: Option<i32>,
}

struct Life {
    session: SessionGuest,
    stubborn: bool,
    execs: BTreeMap<Process, Exec>,
    log: PathBuf,
    next: u64,
    live: bool,
    frozen: bool,
    code: Option<i32>,
}

impl Life {
    fn new(guest: &InertGuest, session: SessionGuest, stubborn: bool) -> Self {
        let backings = guest.spec().serials.into_iter().map(|s| s.backing);
        let log = backings
            .filter_map(|b| match b {
                SerialBacking::File(path) => Some(path),
                _ => None,
            })
            .next()
            .expect("a log port");
        // Numbers go on where the last run stopped.
        let written = std::fs::read(&log).unwrap_or_default();
        let next = written.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let mut life = Self {
            session,
            stubborn,
            execs: BTreeMap::new(),
            next: next.count() as u64 + 1,
            log,
            live: false,
            frozen: false,
            code: None,
        };
        life.record("started");
        life
    }

    /// Runs until the container's process ends; gives its exit code.
    async fn run(&mut self, hub: watch::Receiver<Option<SocketAddr>>) -> i32 {
        loop {
            let address = *hub.clone().wait_for(Option::is_some).await.unwrap();
            if let Ok(mut line) = TcpStream::connect(address.unwrap()).await {
                line.set_nodelay(true).unwrap();
                self.talk(&mut line).await;
                self.session.line_down();
            } else {
                tokio::time::sleep(REDIAL).await;
            }
            if let Some(code) = self.code {
                return code;
            }
        }
    }

    /// Talks until the line ends or the process does.
    async fn talk(&mut self, line: &mut TcpStream) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let Ok(n @ 1..) = line.read(&mut buffer).await else {
                return;
            };
            self.session.receive(&buffer[..n]);
            while let Some(event) = self.session.poll_event() {
                self.event(event);
            }
            let out = self.session.take_output();
            if line.write_all(&out).await.is_err() || self.code.is_some() {
                return;
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Up { resumed: false } => {
                self.live = false;
                let known = |(process, exec): (&Process, &Exec)| Known {
                    process: *process,
                    id: exec.id.clone(),
                    pid: exec.code.is_none().then_some(100),
                    code: exec.code,
                };
                let primary = Known {
                    process: PRIMARY,
                    id: String::new(),
                    pid: Some(1),
                    code: None,
                };
                let processes = [primary].into_iter().chain(self.execs.iter().map(known));
                self.session.send(Message::Inventory {
                    processes: processes.collect(),
                    frozen: self.frozen,
                    log_next: self.next,
                });
            }
            Event::Message(message) => self.obey(message),
            Event::Data {
                process,
                stream,
                data,
            } => self.session.consumed(process, stream, data.len()),
            Event::Up { .. } | Event::Credit { .. } => {}
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Subscribe {
                process: PRIMARY,
                log,
                ..
            } => self.live = log,
            Message::Signal {
                process: PRIMARY, ..
            } if self.stubborn => {}
            Message::Signal {
                process: PRIMARY,
                signal,
            } => {
                self.record(&format!("signal {signal}"));
                let code = 128 + signal;
                self.code = Some(code);
                self.exited(PRIMARY, code);
            }
            Message::Signal { process, signal } => self.end_exec(process, 128 + signal),
            Message::CloseStdin { process } if process != PRIMARY => self.end_exec(process, 0),
            Message::Release { process } => drop(self.execs.remove(&process)),
            Message::Freeze { frozen } => {
                self.frozen = frozen;
                self.session.send(Message::Frozen { frozen });
            }
            Message::List { request } => {
                let row = ProcessRow {
                    user: "root".into(),
                    pid: 1,
                    command: "serve".into(),
                    ..Default::default()
                };
                let rows = vec![row];
                self.session.send(Message::Processes { request, rows });
            }
            Message::Exec { process, id, spec } => self.exec(process, id, &spec.args),
            _ => {}
        }
    }

    fn exec(&mut self, process: Process, id: String, argv: &[String]) {
        if self.execs.contains_key(&process) {
            return;
        }
        self.execs.insert(process, Exec { id, code: None });
        self.session.send(Message::Started {
            process,
            pid: 100,
            time: now(),
        });
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        match argv[..] {
            ["say", text] => {
                let sent = self
                    .session
                    .send_data(process, Stream::Stdout, text.as_bytes());
                assert_eq!(sent, text.len());
                self.end_exec(process, 0);
            }
            ["log", text] => {
                self.record(text);
                self.end_exec(process, 0);
            }
            ["fail", code] => self.end_exec(process, code.parse().unwrap()),
            _ => {}
        }
    }

    fn end_exec(&mut self, process: Process, code: i32) {
        if let Some(exec) = self.execs.get_mut(&process)
            && exec.code.is_none()
        {
            exec.code = Some(code);
            self.exited(process, code);
        }
    }

    fn exited(&mut self, process: Process, code: i32) {
        let time = now();
        self.session.send(Message::Exited {
            process,
            code,
            time,
        });
    }

    /// Writes one record to the file, and to those who follow.
    fn record(&mut self, text: &str) {
        let record = Record {
            time: now(),
            source: Source::Stdout,
            seq: self.next,
            data: format!("{text}\n").into(),
        };
        self.next += 1;
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let opened = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&self.log);
        opened.unwrap().write_all(&bytes).unwrap();
        if self.live {
            self.session.send_data(PRIMARY, Stream::Log, &bytes);
        }
    }
}
