//! The link: the connection to the container's tether, and everything that runs over it.
//!
//! ```text
//!  serial hub ── Line ──▶ greeting done, key known ──▶ up ── line cut ──▶ waits for the next line
//!  client ◀─ forwarder ◀─ unbounded, limited by credit ◀─ link        credit returns when the client took it
//! ```
//! A child of its container. What a crash loses: the attached clients (their streams end; they can attach again)
//! and bytes in flight to them. The processes in the guest, the log and the exit status do not notice.

mod clients;
mod heard;
mod line;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tether_protocol::config::Session as ProcessConfig;
use tether_protocol::session::{
    Echo, Identity, Known, Message as Frame, Process, ProcessRow, PublicKey, SessionHost,
    Stream as Channel,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::clients::Subscriber;
use crate::error::{Error, chain};
use crate::streams::{ConsoleSize, Input, Output};

/// The two directions of a serial line.
pub type LineReader = Box<dyn AsyncRead + Send + Unpin>;
/// See [`LineReader`].
pub type LineWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// A serial connection that said which container it belongs to.
pub struct Line {
    /// From the guest.
    pub reader: LineReader,
    /// To the guest.
    pub writer: LineWriter,
    /// The guest's answer to the greeting.
    pub echo: Echo,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.echo.id())
    }
}

/// What a link can be asked.
#[derive(Debug)]
pub enum Message {
    /// A new serial connection of this container; replaces the one before.
    Line(Box<Line>),
    /// A new boot of the guest begins: forget the old session. Clients stay attached.
    NewRun,
    /// The public key that the guest published at this boot.
    GuestKey(String),
    /// The run is over: end what is attached to the container's process when it is drained.
    RunEnded,
    /// Connect a client to a process's streams.
    Attach(Subscribe, RpcReplyPort<Subscription>),
    /// Follow the log: whole records as the guest writes them. Answers when the guest has begun to send them.
    FollowLog(RpcReplyPort<Followed>),
    /// Send a signal to a process; answers when it is under way, and sends nothing when nobody waits for the answer
    /// any more.
    Signal(Process, i32, RpcReplyPort<()>),
    /// Set the size of a terminal.
    Resize(Process, ConsoleSize),
    /// Freeze or thaw; answers when it is so.
    Freeze(bool, RpcReplyPort<Result<(), Error>>),
    /// Run a process.
    Exec {
        /// Its number.
        process: Process,
        /// What the guest shall call it in its inventory.
        label: String,
        /// What to run.
        config: Box<ProcessConfig>,
    },
    /// Tell again what is known of a process: its actor has been restarted.
    Report(Process),
    /// Forget a process that has ended.
    Release(Process),
    /// List the processes.
    List(RpcReplyPort<Vec<ProcessRow>>),
    /// Internal: bytes of a line.
    #[doc(hidden)]
    Received(u64, Vec<u8>),
    /// Internal: a line ended.
    #[doc(hidden)]
    LineClosed(u64),
    /// Internal: a client took bytes, or left.
    #[doc(hidden)]
    Delivered {
        subscriber: u64,
        channel: Channel,
        bytes: usize,
    },
    /// Internal: a client left.
    #[doc(hidden)]
    Left(u64),
    /// Internal: input of a client; the port is answered when it is under way.
    #[doc(hidden)]
    Input(Process, Input, oneshot::Sender<()>),
}

/// Which streams of which process.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe {
    /// The process.
    pub process: Process,
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Whether the end of this client's input is the end of the process's.
    pub close_stdin: bool,
}

/// A client's ends.
#[derive(Debug)]
pub struct Subscription {
    /// Output until the process's streams end.
    pub output: mpsc::Receiver<Output>,
    /// Input.
    pub input: Option<mpsc::Sender<Input>>,
}

/// A follower's end of the log. The guest waits for no follower: one that is too slow is left behind, and reads the
/// file.
#[derive(Debug)]
pub struct Followed {
    /// Records until the run is over, or the follower is left behind.
    pub records: mpsc::Receiver<Bytes>,
    /// Why they ended.
    pub left_behind: Arc<AtomicBool>,
}

/// The ends of a process's output to its clients: dropped, the output is over. They travel with the news of the
/// process's end, so that nobody sees the end of its output before its exit code is on the shelf.
#[derive(Clone, Default)]
pub struct Ends(Vec<mpsc::UnboundedSender<(Channel, Bytes)>>);

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ends({})", self.0.len())
    }
}

/// What the guest says that concerns the container.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The link is up, and the guest had not met us before: all that it knows.
    Met {
        /// The processes that it knows.
        processes: Vec<Known>,
        /// They are frozen.
        frozen: bool,
    },
    /// The guest knows nothing of a process that was started.
    Lost(Process),
    /// A process runs.
    Started {
        /// Its number.
        process: Process,
        /// Its process id in the container.
        pid: i32,
    },
    /// A process could not be started.
    Failed {
        /// Its number.
        process: Process,
        /// docker's text.
        error: String,
        /// docker's exit code.
        code: i32,
        /// Its output, which has the text too.
        ends: Ends,
    },
    /// A process has ended; all its output has been handed to its clients' queues.
    Exited {
        /// Its number.
        process: Process,
        /// Its exit code.
        code: i32,
        /// Its output.
        ends: Ends,
    },
}

/// What a link is started with.
#[derive(Clone)]
pub struct Args {
    /// The VCH's key.
    pub identity: Identity,
    /// Where notices go.
    pub notify: Arc<dyn Fn(Notice) + Send + Sync>,
    /// The guest's key, when it is known already.
    pub guest_key: String,
}

/// The link actor.
#[derive(Debug)]
pub struct Link;

/// What is known of a process.
#[derive(Debug, Clone)]
enum Heard {
    /// The guest was asked to start it.
    Asked,
    Started(i32),
    Failed(String, i32),
    Ended(i32),
}

/// A running link.
pub struct State {
    args: Args,
    session: SessionHost,
    guest_key: Option<PublicKey>,
    waiting: Option<Box<Line>>,
    writer: Option<mpsc::UnboundedSender<Vec<u8>>>,
    line: u64,
    subscribers: HashMap<u64, Subscriber>,
    next: u64,
    /// Bytes received and bytes given back as credit, by stream.
    flow: HashMap<(Process, Channel), (u64, u64)>,
    /// The run is over, and no other has begun.
    over: bool,
    /// The guest of this run has been met: only then is input given to the session, which a new run replaces.
    met: bool,
    input: HashMap<Process, VecDeque<(Input, oneshot::Sender<()>)>>,
    /// Processes that this link, or the guest when it was met, spoke of.
    known: BTreeMap<Process, Heard>,
    /// The guest has told all that it knows.
    told: bool,
    /// Signals that wait for the guest.
    signals: Vec<(Process, i32, RpcReplyPort<()>)>,
    freezes: Vec<(bool, RpcReplyPort<Result<(), Error>>)>,
    lists: HashMap<u64, RpcReplyPort<Vec<ProcessRow>>>,
    follows: HashMap<u64, (RpcReplyPort<Followed>, Followed)>,
    tasks: JoinSet<()>,
    line_tasks: JoinSet<()>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "link::State({} subscribers)", self.subscribers.len())
    }
}

impl Actor for Link {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            session: SessionHost::new(&args.identity),
            guest_key: PublicKey::from_base64(&args.guest_key),
            args,
            waiting: None,
            writer: None,
            line: 0,
            subscribers: HashMap::new(),
            next: 0,
            flow: HashMap::new(),
            over: false,
            met: false,
            input: HashMap::new(),
            known: BTreeMap::new(),
            told: false,
            signals: Vec::new(),
            freezes: Vec::new(),
            lists: HashMap::new(),
            follows: HashMap::new(),
            tasks: JoinSet::new(),
            line_tasks: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            Message::Line(line) => {
                state.waiting = Some(line);
                state.connect(&myself);
            }
            Message::GuestKey(key) => {
                state.guest_key = PublicKey::from_base64(&key);
                state.connect(&myself);
            }
            Message::NewRun => state.new_run(),
            Message::RunEnded => state.run_ended(),
            Message::Attach(wanted, reply) => {
                // The asker may have left.
                let _ = reply.send(state.attach(&myself, wanted));
            }
            Message::FollowLog(reply) => state.follow_log(reply),
            Message::Signal(process, signal, reply) => {
                state.signals.push((process, signal, reply));
                state.send_signals();
            }
            Message::Resize(process, size) => state.session.send(Frame::Resize {
                process,
                rows: size.height,
                cols: size.width,
            }),
            Message::Freeze(frozen, reply) => {
                state.freezes.push((frozen, reply));
                state.session.send(Frame::Freeze { frozen });
            }
            Message::Exec {
                process,
                label,
                config,
            } => {
                state.known.insert(process, Heard::Asked);
                state.session.send(Frame::Exec {
                    process,
                    id: label,
                    spec: *config,
                });
                state.subscribe(process);
            }
            Message::Report(process) => state.report(process),
            Message::Release(process) => {
                state.known.remove(&process);
                state.session.send(Frame::Release { process });
            }
            Message::List(reply) => {
                let request = state.number();
                state.lists.insert(request, reply);
                state.session.send(Frame::List { request });
            }
            Message::Received(line, bytes) if line == state.line => {
                if let Err(why) = state.session.receive(&bytes) {
                    tracing::debug!(why = %chain(&why), "link: line dropped");
                    state.drop_line();
                }
            }
            Message::LineClosed(line) if line == state.line => state.drop_line(),
            Message::Received(..) | Message::LineClosed(_) => {}
            Message::Delivered {
                subscriber,
                channel,
                bytes,
            } => {
                if let Some(s) = state.subscribers.get_mut(&subscriber) {
                    *s.taken.entry(channel).or_default() += bytes as u64;
                    let process = s.process;
                    state.give_credit(process, channel);
                }
            }
            Message::Left(subscriber) => state.left(subscriber),
            Message::Input(process, input, done) => {
                state
                    .input
                    .entry(process)
                    .or_default()
                    .push_back((input, done));
                state.send_input(process);
            }
        }
        state.drain_events();
        state.flush();
        Ok(())
    }
}
