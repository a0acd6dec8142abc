//! The clients of a link: who gets which stream, what they type, and the credit that comes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use ractor::{ActorRef, RpcReplyPort};
use tether_protocol::session::{Message as Frame, PRIMARY, Process, Stream as Channel};
use tokio::sync::{mpsc, oneshot};

use super::{Ends, Followed, Message, State, Subscribe, Subscription};
use crate::streams::{CHANNEL_DEPTH, Input, Output, Stream};

/// One client of one process.
pub(super) struct Subscriber {
    pub(super) process: Process,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) log: bool,
    pub(super) queue: Queue,
    /// Bytes that this client has taken, by stream.
    pub(super) taken: HashMap<Channel, u64>,
}

/// Where a client's bytes wait.
pub(super) enum Queue {
    Client(mpsc::UnboundedSender<(Channel, Bytes)>),
    Log(mpsc::Sender<Bytes>, Arc<AtomicBool>),
}

/// How many pieces of the log wait for a follower.
const LOG_DEPTH: usize = 64;

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn attach(&mut self, myself: &ActorRef<Message>, wanted: Subscribe) -> Subscription {
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

    pub(super) fn enter(&mut self, number: u64, wanted: Subscribe, queue: Queue) {
        // What others have had is not owed to a newcomer.
        let taken = self
            .flow
            .iter()
            .filter(|((process, _), _)| *process == wanted.process)
            .map(|((_, channel), (received, _))| (*channel, *received))
            .collect();
        let log = matches!(queue, Queue::Log(..));
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

    pub(super) fn follow_log(&mut self, reply: RpcReplyPort<Followed>) {
        if self.over {
            // Nothing more will come: the asker is told at once.
            return;
        }
        let (queue, records) = mpsc::channel(LOG_DEPTH);
        let left_behind = Arc::new(AtomicBool::new(false));
        let number = self.number();
        let nothing = Subscribe {
            process: PRIMARY,
            stdin: false,
            stdout: false,
            stderr: false,
            close_stdin: false,
        };
        self.enter(number, nothing, Queue::Log(queue, left_behind.clone()));
        // The guest answers in order: when this answer is there, the subscription holds.
        let request = self.number();
        let followed = Followed {
            records,
            left_behind,
        };
        self.follows.insert(request, (reply, followed));
        self.session.send(Frame::List { request });
    }

    /// Tells the guest which streams of a process somebody wants.
    pub(super) fn subscribe(&mut self, process: Process) {
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

    pub(super) fn left(&mut self, subscriber: u64) {
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
    pub(super) fn give_credit(&mut self, process: Process, channel: Channel) {
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

    pub(super) fn send_input(&mut self, process: Process) {
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

    pub(super) fn run_ended(&mut self) {
        self.over = true;
        self.subscribers.clear();
        self.input.clear();
        self.fail_requests();
    }

    /// Takes the clients of a process that has ended off the list; their output is over when the ends are dropped.
    pub(super) fn process_ended(&mut self, process: Process) -> Ends {
        let mut ends = Ends::default();
        self.subscribers.retain(|_, s| {
            let stays = s.process != process || s.log;
            if let (false, Queue::Client(queue)) = (stays, &s.queue) {
                ends.0.push(queue.clone());
            }
            stays
        });
        self.input.remove(&process);
        ends
    }
}

impl Subscriber {
    pub(super) fn wants(&self, channel: Channel) -> bool {
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
