//! The link: the connection to the container's tether, and everything that runs over it.
//!
//! ```text
//!  serial hub ── Line ──▶ greeting done, key known ──▶ up ── line cut ──▶ waits for the next line
//!  client ◀─ forwarder ◀─ unbounded, limited by credit ◀─ link        credit returns when the client took it
//! ```
//! A child of its container. What a crash loses: the attached clients (their streams end; they can attach again)
//! and bytes in flight to them. The processes in the guest, the log and the exit status do not notice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tether_protocol::config::Session as ProcessConfig;
use tether_protocol::session::{
    Echo, Event as LinkEvent, Identity, Message as Frame, PRIMARY, Process, ProcessRow, PublicKey,
    SessionHost, Stream as Channel,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::error::{Error, chain};
use crate::streams::{CHANNEL_DEPTH, ConsoleSize, Input, Output, Stream};

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
    FollowLog(RpcReplyPort<mpsc::UnboundedReceiver<Bytes>>),
    /// Send a signal to a process.
    Signal(Process, i32),
    /// Set the size of a terminal.
    Resize(Process, ConsoleSize),
    /// Freeze or thaw; answers when it is so.
    Freeze(bool, RpcReplyPort<Result<(), Error>>),
    /// Run a process.
    Exec {
        /// Its number.
        process: Process,
        /// Its id.
        id: String,
        /// What to run.
        config: Box<ProcessConfig>,
    },
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

/// What the guest says that concerns the container.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The link is up; the guest had not met us before.
    Up,
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
    },
    /// A process has ended; all its output has been handed to its clients' queues.
    Exited {
        /// Its number.
        process: Process,
        /// Its exit code.
        code: i32,
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

struct Subscriber {
    process: Process,
    stdout: bool,
    stderr: bool,
    log: bool,
    queue: Queue,
    /// Bytes that this client has taken, by stream.
    taken: HashMap<Channel, u64>,
}

enum Queue {
    Client(mpsc::UnboundedSender<(Channel, Bytes)>),
    Log(mpsc::UnboundedSender<Bytes>),
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
    /// The guest of this run has been met: only then is input given to the session, which a new run replaces.
    met: bool,
    input: HashMap<Process, VecDeque<(Input, oneshot::Sender<()>)>>,
    freezes: Vec<(bool, RpcReplyPort<Result<(), Error>>)>,
    lists: HashMap<u64, RpcReplyPort<Vec<ProcessRow>>>,
    follows: HashMap<
        u64,
        (
            RpcReplyPort<mpsc::UnboundedReceiver<Bytes>>,
            mpsc::UnboundedReceiver<Bytes>,
        ),
    >,
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
            met: false,
            input: HashMap::new(),
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
            Message::Signal(process, signal) => {
                state.session.send(Frame::Signal { process, signal })
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
                id,
                config,
            } => {
                state.session.send(Frame::Exec {
                    process,
                    id,
                    spec: *config,
                });
                state.subscribe(process);
            }
            Message::Release(process) => state.session.send(Frame::Release { process }),
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

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Begins TLS on the waiting line, once the guest's key is known.
    fn connect(&mut self, myself: &ActorRef<Message>) {
        let Some(key) = self.guest_key.clone() else {
            return;
        };
        let Some(line) = self.waiting.take() else {
            return;
        };
        let Line {
            mut reader,
            mut writer,
            echo,
        } = *line;
        self.drop_line();
        if let Err(why) = self.session.connect(echo, &key) {
            tracing::warn!(why = %chain(&why), "link: cannot begin");
            return;
        }
        let number = self.line;
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        self.writer = Some(sender);
        let to = myself.clone();
        self.line_tasks.spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
            }
            // The link may be gone.
            let _ = to.send_message(Message::LineClosed(number));
        });
        let to = myself.clone();
        self.line_tasks.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n) = reader.read(&mut buffer).await {
                if n == 0
                    || to
                        .send_message(Message::Received(number, buffer[..n].to_vec()))
                        .is_err()
                {
                    break;
                }
            }
            let _ = to.send_message(Message::LineClosed(number));
        });
    }

    fn drop_line(&mut self) {
        self.line += 1;
        self.writer = None;
        self.line_tasks.abort_all();
        self.session.line_down();
    }

    fn new_run(&mut self) {
        self.drop_line();
        self.waiting = None;
        self.guest_key = None;
        self.session = SessionHost::new(&self.args.identity);
        self.met = false;
        self.flow.clear();
        for subscriber in self.subscribers.values_mut() {
            subscriber.taken.clear();
        }
        self.fail_requests();
    }

    fn run_ended(&mut self) {
        self.subscribers.clear();
        self.input.clear();
        self.fail_requests();
    }

    fn fail_requests(&mut self) {
        for (_, reply) in self.freezes.drain(..) {
            let _ = reply.send(Err(Error::internal("freeze", "the container stopped")));
        }
        self.lists.clear();
        self.follows.clear();
    }

    fn flush(&mut self) {
        let mut bytes = Vec::new();
        self.session.transmit(&mut bytes);
        if let (false, Some(writer)) = (bytes.is_empty(), &self.writer) {
            // A closed writer reports itself.
            let _ = writer.send(bytes);
        }
    }

    fn attach(&mut self, myself: &ActorRef<Message>, wanted: Subscribe) -> Subscription {
        let number = self.number();
        let (sender, output) = mpsc::channel(CHANNEL_DEPTH);
        let (queue, queued) = mpsc::unbounded_channel();
        // Not one of our tasks: what it holds is still owed to the client when the container, and with it this actor,
        // is gone. It ends when the client has taken all of it, or has left.
        tokio::spawn(forward(myself.clone(), number, queued, sender));
        self.enter(number, wanted, Queue::Client(queue));
        let input = wanted.stdin.then(|| {
            let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
            self.tasks
                .spawn(pump_input(myself.clone(), wanted, receiver));
            sender
        });
        Subscription { output, input }
    }

    fn enter(&mut self, number: u64, wanted: Subscribe, queue: Queue) {
        // What others have had is not owed to a newcomer.
        let taken = self
            .flow
            .iter()
            .filter(|((process, _), _)| *process == wanted.process)
            .map(|((_, channel), (received, _))| (*channel, *received))
            .collect();
        let log = matches!(queue, Queue::Log(_));
        let Subscribe {
            process,
            stdout,
            stderr,
            ..
        } = wanted;
        self.subscribers.insert(
            number,
            Subscriber {
                process,
                stdout,
                stderr,
                log,
                queue,
                taken,
            },
        );
        self.subscribe(process);
    }

    fn follow_log(&mut self, reply: RpcReplyPort<mpsc::UnboundedReceiver<Bytes>>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let number = self.number();
        let nothing = Subscribe {
            process: PRIMARY,
            stdin: false,
            stdout: false,
            stderr: false,
            close_stdin: false,
        };
        self.enter(number, nothing, Queue::Log(queue));
        // The guest answers in order: when this answer is there, the subscription holds.
        let request = self.number();
        self.follows.insert(request, (reply, receiver));
        self.session.send(Frame::List { request });
    }

    /// Tells the guest which streams of a process somebody wants.
    fn subscribe(&mut self, process: Process) {
        let any = |which: fn(&Subscriber) -> bool| {
            self.subscribers
                .values()
                .any(|s| s.process == process && which(s))
        };
        let (stdout, stderr, log) = (any(|s| s.stdout), any(|s| s.stderr), any(|s| s.log));
        self.session.send(Frame::Subscribe {
            process,
            stdout,
            stderr,
            log,
        });
    }

    fn left(&mut self, subscriber: u64) {
        let Some(gone) = self.subscribers.remove(&subscriber) else {
            return;
        };
        if self.session.is_up() {
            self.subscribe(gone.process);
        }
        for channel in [Channel::Stdout, Channel::Stderr, Channel::Log] {
            self.give_credit(gone.process, channel);
        }
    }

    /// Gives back as credit what the slowest client has taken.
    fn give_credit(&mut self, process: Process, channel: Channel) {
        let Some((received, given)) = self.flow.get_mut(&(process, channel)) else {
            return;
        };
        let slowest = self
            .subscribers
            .values()
            .filter(|s| s.process == process && s.wants(channel))
            .map(|s| s.taken.get(&channel).copied().unwrap_or_default())
            .min()
            .unwrap_or(*received)
            .min(*received);
        if slowest > *given {
            let bytes = usize::try_from(slowest - *given).unwrap_or(usize::MAX);
            *given = slowest;
            self.session.consumed(process, channel, bytes);
        }
    }

    fn send_input(&mut self, process: Process) {
        if !self.met {
            return;
        }
        let Some(queue) = self.input.get_mut(&process) else {
            return;
        };
        while let Some((input, done)) = queue.pop_front() {
            match input {
                Input::Close => self.session.send(Frame::CloseStdin { process }),
                Input::Data(mut data) => {
                    let sent = self.session.send_data(process, Channel::Stdin, &data);
                    if sent < data.len() {
                        let rest = data.split_off(sent);
                        queue.push_front((Input::Data(rest), done));
                        return;
                    }
                }
            }
            // The client may have left.
            let _ = done.send(());
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                LinkEvent::Up { resumed } => {
                    if !resumed {
                        self.subscribe(PRIMARY);
                        (self.args.notify)(Notice::Up);
                    }
                    self.met = true;
                    for process in self.input.keys().copied().collect::<Vec<_>>() {
                        self.send_input(process);
                    }
                }
                LinkEvent::Credit { process, .. } => self.send_input(process),
                LinkEvent::Data {
                    process,
                    stream,
                    data,
                } => self.data(process, stream, data.into()),
                LinkEvent::Message(frame) => self.frame(frame),
            }
        }
    }

    fn data(&mut self, process: Process, channel: Channel, data: Bytes) {
        let size = data.len() as u64;
        self.flow.entry((process, channel)).or_default().0 += size;
        for subscriber in self.subscribers.values_mut() {
            if subscriber.process != process || !subscriber.wants(channel) {
                continue;
            }
            let sent = match &subscriber.queue {
                Queue::Client(queue) => queue.send((channel, data.clone())).is_ok(),
                Queue::Log(queue) => {
                    // Followers are tasks of ours that always read.
                    *subscriber.taken.entry(channel).or_default() += size;
                    queue.send(data.clone()).is_ok()
                }
            };
            if !sent {
                *subscriber.taken.entry(channel).or_default() = u64::MAX / 2;
            }
        }
        self.give_credit(process, channel);
    }

    fn frame(&mut self, frame: Frame) {
        let notice = match frame {
            Frame::Started { process, pid, .. } => Notice::Started { process, pid },
            Frame::Failed {
                process,
                error,
                code,
            } => {
                // The notice goes first: an exec's exit code is on the shelf before its output ends.
                (self.args.notify)(Notice::Failed {
                    process,
                    error: error.clone(),
                    code,
                });
                if process != PRIMARY {
                    let text = Bytes::from(format!("{error}\r\n"));
                    for s in self.subscribers.values().filter(|s| s.process == process) {
                        if let Queue::Client(queue) = &s.queue {
                            // The client may have left.
                            let _ = queue.send((Channel::Stdout, text.clone()));
                        }
                    }
                }
                self.process_ended(process);
                return;
            }
            Frame::Exited { process, code, .. } => {
                // The notice goes first: an exec's exit code is on the shelf before its output ends.
                (self.args.notify)(Notice::Exited { process, code });
                self.process_ended(process);
                return;
            }
            Frame::Inventory { processes, .. } => {
                for known in processes {
                    match (known.code, known.pid) {
                        (Some(code), _) => {
                            let process = known.process;
                            (self.args.notify)(Notice::Exited { process, code });
                        }
                        (None, Some(pid)) => {
                            (self.args.notify)(Notice::Started {
                                process: known.process,
                                pid,
                            });
                        }
                        (None, None) => {}
                    }
                }
                return;
            }
            Frame::Frozen { frozen } => {
                for (wanted, reply) in std::mem::take(&mut self.freezes) {
                    if wanted == frozen {
                        let _ = reply.send(Ok(()));
                    } else {
                        self.freezes.push((wanted, reply));
                    }
                }
                return;
            }
            Frame::End {
                process,
                stream: Channel::Log,
            } => {
                // The live copy lagged and stopped; followers see the gap and read the file.
                self.subscribe(process);
                return;
            }
            Frame::Processes { request, rows } => {
                if let Some(reply) = self.lists.remove(&request) {
                    let _ = reply.send(rows);
                } else if let Some((reply, receiver)) = self.follows.remove(&request) {
                    let _ = reply.send(receiver);
                }
                return;
            }
            _ => return,
        };
        (self.args.notify)(notice);
    }

    fn process_ended(&mut self, process: Process) {
        self.subscribers
            .retain(|_, s| s.process != process || s.log);
        self.input.remove(&process);
    }
}

impl Subscriber {
    fn wants(&self, channel: Channel) -> bool {
        match channel {
            Channel::Stdout => self.stdout,
            Channel::Stderr => self.stderr,
            Channel::Log => self.log,
            Channel::Stdin => false,
        }
    }
}

/// Passes output on to a client, at the client's pace, and reports what it took.
async fn forward(
    link: ActorRef<Message>,
    subscriber: u64,
    mut queued: mpsc::UnboundedReceiver<(Channel, Bytes)>,
    client: mpsc::Sender<Output>,
) {
    loop {
        let next = tokio::select! {
            next = queued.recv() => next,
            () = client.closed() => None,
        };
        let Some((channel, data)) = next else { break };
        let stream = if channel == Channel::Stderr {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        let bytes = data.len();
        if client.send(Output { stream, data }).await.is_err() {
            break;
        }
        // The link may be gone; what it handed over before is delivered all the same.
        let _ = link.send_message(Message::Delivered {
            subscriber,
            channel,
            bytes,
        });
    }
    // As above.
    let _ = link.send_message(Message::Left(subscriber));
}

/// Passes a client's input on, one piece at a time.
async fn pump_input(link: ActorRef<Message>, wanted: Subscribe, mut client: mpsc::Receiver<Input>) {
    loop {
        let input = client.recv().await;
        let last = !matches!(input, Some(Input::Data(_)));
        if last && !wanted.close_stdin {
            return;
        }
        let (done, sent) = oneshot::channel();
        let input = input.unwrap_or(Input::Close);
        if link
            .send_message(Message::Input(wanted.process, input, done))
            .is_err()
        {
            return;
        }
        if last || sent.await.is_err() {
            return;
        }
    }
}
