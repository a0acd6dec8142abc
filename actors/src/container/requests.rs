//! The container actor's answers: one function per message.

use ractor::{ActorProcessingErr, ActorRef};
use strategy::{Address, AskError};
use tether_protocol::session::PRIMARY;
use tokio::sync::mpsc;

use super::super::event::{Event, Ticket};
use super::super::exec::Heard;
use super::super::link::{self, Notice, Subscribe, Subscription};
use super::super::message::{
    AttachOptions, LogsOptions, Message, ProcessList, Reply, Signal, StopOptions,
};
use super::super::snapshot::Phase;
use super::{GUEST_DEADLINE, Running};
use crate::container::logs;
use crate::error::Error;
use crate::streams::{Attachment, Output};

impl Running {
    pub(super) async fn request(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ready(reply) => {
                // The asker may have left.
                let _ = reply.send(Ok(()));
                Ok(())
            }
            Message::Start(reply) => {
                let ticket = self.ticket(reply);
                self.step(myself, Event::Start(ticket)).await
            }
            Message::Stop(options, reply) => self.stop(myself, options, false, reply).await,
            Message::Restart(options, reply) => self.stop(myself, options, true, reply).await,
            Message::Kill(signal, reply) => {
                let ticket = self.ticket(reply);
                self.step(myself, Event::Kill { ticket, signal }).await
            }
            Message::Pause(reply) => {
                let ticket = self.ticket(reply);
                self.step(
                    myself,
                    Event::Pause {
                        ticket,
                        pause: true,
                    },
                )
                .await
            }
            Message::Unpause(reply) => {
                let ticket = self.ticket(reply);
                self.step(
                    myself,
                    Event::Pause {
                        ticket,
                        pause: false,
                    },
                )
                .await
            }
            Message::Remove(options, reply) => {
                let ticket = self.ticket(reply);
                self.step(myself, Event::Remove { ticket, options }).await
            }
            Message::Rename(name, reply) => {
                self.rename(myself, name, reply);
                Ok(())
            }
            Message::Attach(options, reply) => {
                self.start_link(myself).await?;
                self.attach(options, reply);
                Ok(())
            }
            Message::Resize(size, reply) => {
                let answer = if self.is_up() {
                    self.link.tell(link::Message::Resize(PRIMARY, size));
                    Ok(())
                } else {
                    Err(Error::NotRunning(self.id))
                };
                let _ = reply.send(answer);
                Ok(())
            }
            Message::Logs(options, reply) => {
                self.logs(options, reply);
                Ok(())
            }
            Message::Top(arguments, reply) => {
                self.top(arguments, reply);
                Ok(())
            }
            Message::CreateExec(spec, reply) => {
                let answer = self.create_exec(*spec).await?;
                let _ = reply.send(answer);
                Ok(())
            }
            // Events never wait for a look-up.
            Message::Settle | Message::Event(_) => Ok(()),
        }
    }

    fn ticket(&mut self, reply: Reply<()>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, reply);
        ticket
    }

    fn is_up(&self) -> bool {
        matches!(
            self.machine.phase,
            Phase::Running | Phase::Paused | Phase::Stopping
        )
    }

    async fn stop(
        &mut self,
        myself: &ActorRef<Message>,
        options: StopOptions,
        restart: bool,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        let spec = self.spec.as_deref();
        let own = spec
            .and_then(|s| s.stop_signal.as_deref())
            .and_then(Signal::parse);
        let signal = options.signal.or(own).unwrap_or(Signal(15));
        let seconds = options
            .timeout
            .or(spec.and_then(|s| s.stop_timeout))
            .unwrap_or(10);
        let ticket = self.ticket(reply);
        let timeout = u64::try_from(seconds).ok();
        self.step(
            myself,
            Event::Stop {
                ticket,
                signal,
                timeout,
                restart,
            },
        )
        .await
    }

    fn attach(&mut self, options: AttachOptions, reply: Reply<Attachment>) {
        if self.machine.phase == Phase::Paused {
            let (what, verb) = ("container", "attach");
            let _ = reply.send(Err(Error::Paused {
                what,
                name: options.name,
                verb,
            }));
            return;
        }
        let process = self
            .spec
            .as_ref()
            .map(|s| s.process.clone())
            .unwrap_or_default();
        let wanted = Subscribe {
            process: PRIMARY,
            stdin: options.stdin && process.open_stdin,
            stdout: options.stdout,
            stderr: options.stderr && !process.tty,
            close_stdin: process.stdin_once,
        };
        let link = self.link.clone();
        let log = options.logs.then(|| {
            let past = LogsOptions {
                stdout: options.stdout,
                stderr: options.stderr,
                ..LogsOptions::default()
            };
            logs::read(self.log_source(), past)
        });
        let tty = process.tty;
        self.tasks.spawn(async move {
            let live = match options.stream {
                true => subscribe(&link, wanted).await,
                false => Ok(None),
            };
            let live = match live {
                Ok(live) => live,
                Err(why) => {
                    let _ = reply.send(Err(why));
                    return;
                }
            };
            let attachment = match (live, log) {
                (Some(Subscription { output, input }), None) => Attachment { output, input, tty },
                (live, log) => {
                    let (sender, output) = mpsc::channel(crate::streams::CHANNEL_DEPTH);
                    let (live, input) = live.map_or((None, None), |l| (Some(l.output), l.input));
                    tokio::spawn(replay(log, live, sender));
                    Attachment { output, input, tty }
                }
            };
            let _ = reply.send(Ok(attachment));
        });
        self.emit("attach", vec![]);
    }

    fn log_source(&self) -> logs::Source {
        let snapshot = self.context.snapshots().container(&self.id);
        logs::Source {
            vsphere: self.context.vsphere().clone(),
            path: snapshot.map(|s| s.vm.log_path.clone()).unwrap_or_default(),
            link: self.is_up().then(|| self.link.clone()),
        }
    }

    fn logs(
        &mut self,
        options: LogsOptions,
        reply: Reply<mpsc::Receiver<super::super::LogRecord>>,
    ) {
        let _ = reply.send(Ok(logs::read(self.log_source(), options)));
    }

    fn top(&mut self, arguments: String, reply: Reply<ProcessList>) {
        if !self.is_up() {
            let _ = reply.send(Err(Error::NotRunning(self.id)));
            return;
        }
        let link = self.link.clone();
        self.tasks.spawn(async move {
            let rows = link.ask(GUEST_DEADLINE, link::Message::List).await;
            let _ = reply.send(match rows {
                Ok(rows) => crate::container::top::table(&rows, &arguments),
                Err(why) => Err(Error::failed("list the processes", &why)),
            });
        });
    }

    /// What the guest said of a process.
    pub(super) async fn guest(
        &mut self,
        myself: &ActorRef<Message>,
        notice: Notice,
    ) -> Result<(), ActorProcessingErr> {
        match notice {
            Notice::Met { processes, frozen } => {
                self.met(processes).await?;
                self.step(myself, Event::Frozen(frozen)).await?;
            }
            Notice::Started {
                process: PRIMARY,
                pid,
            } => self.pid = u32::try_from(pid).unwrap_or_default(),
            // Of the container's own process, guestinfo tells, sooner or later than its link.
            Notice::Exited {
                process: PRIMARY,
                ends,
                ..
            } if self.is_up() || self.machine.phase == Phase::Starting => self.ends = ends,
            Notice::Exited {
                process: PRIMARY, ..
            }
            | Notice::Failed {
                process: PRIMARY, ..
            }
            | Notice::Lost(PRIMARY) => {}
            Notice::Started { process, pid } => self.exec_heard(process, Heard::Started(pid)),
            Notice::Failed {
                process,
                error,
                code,
                ends,
            } => self.exec_heard(process, Heard::Failed(error, code, ends)),
            Notice::Exited {
                process,
                code,
                ends,
            } => self.exec_heard(process, Heard::Exited(code, ends)),
            Notice::Lost(process) => self.exec_heard(process, Heard::Lost),
        }
        Ok(())
    }
}

/// Connects to a process's streams; to none when there is no link any more.
async fn subscribe(
    link: &Address<link::Message>,
    wanted: Subscribe,
) -> Result<Option<Subscription>, Error> {
    loop {
        match link
            .ask(GUEST_DEADLINE, |r| link::Message::Attach(wanted, r))
            .await
        {
            Ok(subscription) => return Ok(Some(subscription)),
            // Nothing has come of it: its successor is asked.
            Err(AskError::Interrupted) => {}
            Err(AskError::Gone) => return Ok(None),
            Err(why) => return Err(Error::failed_for_now("attach", &why)),
        }
    }
}

/// The log first, then live output.
async fn replay(
    log: Option<mpsc::Receiver<super::super::LogRecord>>,
    live: Option<mpsc::Receiver<Output>>,
    client: mpsc::Sender<Output>,
) {
    if let Some(mut log) = log {
        while let Some(record) = log.recv().await {
            if client
                .send(Output {
                    stream: record.stream,
                    data: record.data,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    }
    if let Some(mut live) = live {
        while let Some(output) = live.recv().await {
            if client.send(output).await.is_err() {
                return;
            }
        }
    }
}
