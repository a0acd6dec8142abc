//! The container actor's answers: one function per message.

use ractor::{ActorProcessingErr, ActorRef};
use tether_protocol::session::PRIMARY;
use tokio::sync::{mpsc, oneshot};

use super::super::event::{Event, Ticket};
use super::super::link::{self, Notice, Subscribe, Subscription};
use super::super::message::{
    AttachOptions, LogsOptions, Message, ProcessList, Reply, Signal, StartExec, StopOptions,
};
use super::super::snapshot::{ExecSnapshot, ExecSpec, Phase};
use super::super::vm;
use super::{EXEC_KEPT, Exec, GUEST_DEADLINE, Input, Running};
use crate::container::logs;
use crate::error::Error;
use crate::ids::ExecId;
use crate::streams::{Attachment, ConsoleSize, Output};

impl Running {
    pub(super) async fn request(
        &mut self,
        myself: &ActorRef<Message>,
        message: Message,
    ) -> Result<(), ActorProcessingErr> {
        match message {
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
                self.rename(name, reply);
                Ok(())
            }
            Message::Attach(options, reply) => {
                self.start_link(myself).await?;
                self.attach(options, reply);
                Ok(())
            }
            Message::Resize(size, reply) => {
                let answer = match (&self.link, self.is_up()) {
                    (Some(link), true) => {
                        let _ = link.send_message(link::Message::Resize(PRIMARY, size));
                        Ok(())
                    }
                    _ => Err(Error::NotRunning(self.id)),
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
                let answer = self.create_exec(*spec);
                let _ = reply.send(answer);
                Ok(())
            }
            Message::StartExec(id, options, reply) => {
                self.start_exec(id, &options, reply);
                Ok(())
            }
            Message::ResizeExec(id, size, reply) => {
                let _ = reply.send(self.resize_exec(id, size));
                Ok(())
            }
            // Events never wait for a look-up.
            Message::Event(_) => Ok(()),
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

    fn rename(&mut self, name: String, reply: Reply<()>) {
        let Some(record) = &mut self.record else {
            return;
        };
        let old = std::mem::replace(&mut record.name, name.clone());
        let (context, id, vm_id) = (self.context.clone(), self.id, self.vm.clone());
        self.publish();
        self.emit("rename", vec![("oldName", format!("/{old}"))]);
        self.tasks.spawn(async move {
            // One reconfigure: the VM's name and docker's.
            let spec = vmomi::types::VirtualMachineConfigSpec {
                name: Some(vm::vm_name(&name, id)),
                extra_config: vm::option_values(vm::Record::name_keys(&name)),
                ..Default::default()
            };
            let _ = reply.send(
                context
                    .vsphere()
                    .label(&vm_id, spec)
                    .await,
            );
        });
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
        let link = self.link_address.clone();
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
            let live = if options.stream {
                link.ask(GUEST_DEADLINE, |r| link::Message::Attach(wanted, r))
                    .await
                    .ok()
            } else {
                None
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
            link: self.is_up().then(|| self.link_address.clone()),
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
        let link = self.link_address.clone();
        self.tasks.spawn(async move {
            let rows = link.ask(GUEST_DEADLINE, link::Message::List).await;
            let _ = reply.send(match rows {
                Ok(rows) => crate::container::top::table(&rows, &arguments),
                Err(why) => Err(Error::failed("list the processes", &why)),
            });
        });
    }

    fn create_exec(&mut self, spec: ExecSpec) -> Result<ExecId, Error> {
        self.can_exec()?;
        let id = ExecId::random();
        let snapshot = ExecSnapshot {
            id,
            container: self.id,
            spec,
            started: false,
            running: false,
            exit_code: None,
            pid: 0,
        };
        let number = rand::random_range(2..u32::MAX);
        let command = snapshot.spec.process.argv.join(" ");
        self.execs.insert(
            id,
            Exec {
                number,
                snapshot,
                launched: vec![],
            },
        );
        self.publish();
        self.emit(
            &format!("exec_create: {command}"),
            vec![("execID", id.to_string())],
        );
        Ok(id)
    }

    fn can_exec(&self) -> Result<(), Error> {
        match self.machine.phase {
            Phase::Running | Phase::Stopping => Ok(()),
            Phase::Paused => Err(Error::Paused {
                what: "Container",
                name: self
                    .record
                    .as_ref()
                    .map(|r| r.name.clone())
                    .unwrap_or_default(),
                verb: "exec",
            }),
            _ => Err(Error::NotRunning(self.id)),
        }
    }

    fn start_exec(&mut self, id: ExecId, options: &StartExec, reply: Reply<Attachment>) {
        let refusal = match self.execs.get(&id) {
            None => Some(Error::NoSuchExec(id.to_string())),
            Some(exec) if exec.snapshot.started => Some(Error::ExecAlreadyRan(id.to_string())),
            Some(_) => self.can_exec().err(),
        };
        let (Some(exec), Some(spec), None) = (self.execs.get_mut(&id), &self.spec, &refusal) else {
            let _ = reply.send(Err(
                refusal.unwrap_or_else(|| Error::NoSuchExec(id.to_string()))
            ));
            return;
        };
        exec.snapshot.started = true;
        exec.snapshot.running = true;
        let wanted = exec.snapshot.spec.clone();
        let number = exec.number;
        let mut process = wanted.process.clone();
        // The container's environment first, then the exec's own.
        process.env = spec
            .process
            .env
            .iter()
            .chain(&wanted.process.env)
            .cloned()
            .collect();
        if process.user.is_empty() {
            process.user.clone_from(&spec.process.user);
        }
        if process.cwd.is_empty() {
            process.cwd.clone_from(&spec.process.cwd);
        }
        process.console = options.console.or(process.console);
        process.open_stdin = wanted.attach_stdin && !options.detach;
        process.stdin_once = process.open_stdin;
        let mut security = spec.security.clone();
        security.privileged |= wanted.privileged;
        let config = vm::session_of(&process, &security);
        let tty = process.tty;
        let subscribe = Subscribe {
            process: number,
            stdin: process.open_stdin,
            stdout: wanted.attach_stdout && !options.detach,
            stderr: wanted.attach_stderr && !options.detach && !tty,
            close_stdin: true,
        };
        let (launched, was_launched) = oneshot::channel();
        if options.detach {
            exec.launched.push(launched);
        }
        let link = self.link_address.clone();
        let detach = options.detach;
        let command = wanted.process.argv.join(" ");
        self.tasks.spawn(async move {
            let answer =
                run_exec(&link, id, subscribe, config, detach.then_some(was_launched)).await;
            let _ = reply.send(answer.map(|s| Attachment {
                output: s.output,
                input: s.input,
                tty,
            }));
        });
        self.publish();
        self.emit(
            &format!("exec_start: {command}"),
            vec![("execID", id.to_string())],
        );
    }

    fn resize_exec(&mut self, id: ExecId, size: ConsoleSize) -> Result<(), Error> {
        let exec = self
            .execs
            .get(&id)
            .ok_or_else(|| Error::NoSuchExec(id.to_string()))?;
        if exec.snapshot.started && !exec.snapshot.running {
            return Err(Error::internal("resize", "the exec has ended"));
        }
        if let Some(link) = &self.link {
            // Frames keep their order: it comes after the exec's start.
            let _ = link.send_message(link::Message::Resize(exec.number, size));
        }
        Ok(())
    }

    /// What the guest said of a process.
    pub(super) fn guest(
        &mut self,
        myself: &ActorRef<Message>,
        notice: Notice,
    ) -> Result<(), ActorProcessingErr> {
        match notice {
            Notice::Up => Ok(()),
            Notice::Started {
                process: PRIMARY,
                pid,
            } => {
                self.pid = u32::try_from(pid).unwrap_or_default();
                Ok(())
            }
            Notice::Exited {
                process: PRIMARY, ..
            }
            | Notice::Failed {
                process: PRIMARY, ..
            } => Ok(()),
            Notice::Started { process, pid } => {
                if let Some(exec) = self.execs.values_mut().find(|e| e.number == process) {
                    exec.snapshot.pid = u32::try_from(pid).unwrap_or_default();
                    for waiting in exec.launched.drain(..) {
                        let _ = waiting.send(Ok(()));
                    }
                    self.publish();
                }
                Ok(())
            }
            Notice::Failed {
                process,
                error,
                code,
            } => {
                let why = Error::Launch {
                    text: error,
                    exit_code: code.into(),
                };
                self.exec_ended(myself, process, code.into(), Some(why));
                Ok(())
            }
            Notice::Exited { process, code } => {
                self.exec_ended(myself, process, code.into(), None);
                Ok(())
            }
        }
    }

    fn exec_ended(
        &mut self,
        myself: &ActorRef<Message>,
        process: u32,
        code: i64,
        failure: Option<Error>,
    ) {
        let Some(exec) = self.execs.values_mut().find(|e| e.number == process) else {
            return;
        };
        if exec.snapshot.exit_code.is_some() {
            return;
        }
        exec.snapshot.running = false;
        exec.snapshot.exit_code = Some(code);
        let id = exec.snapshot.id;
        for waiting in exec.launched.drain(..) {
            let _ = waiting.send(failure.clone().map_or(Ok(()), Err));
        }
        if let Some(link) = &self.link {
            let _ = link.send_message(link::Message::Release(process));
        }
        self.publish();
        self.emit(
            "exec_die",
            vec![("execID", id.to_string()), ("exitCode", code.to_string())],
        );
        let forget = move || Message::Event(Box::new(Input::ForgetExec(id)));
        myself.send_after(EXEC_KEPT, forget);
    }

    /// The VM is off: no exec runs any more.
    pub(super) fn end_execs(&mut self) {
        for exec in self.execs.values_mut().filter(|e| e.snapshot.running) {
            exec.snapshot.running = false;
            exec.snapshot.exit_code = Some(137);
            exec.launched.clear();
        }
        self.execs.retain(|_, e| e.snapshot.started);
    }
}

async fn run_exec(
    link: &strategy::Address<link::Message>,
    id: ExecId,
    subscribe: Subscribe,
    config: tether_protocol::config::Session,
    launched: Option<oneshot::Receiver<Result<(), Error>>>,
) -> Result<Subscription, Error> {
    let failed = |why: strategy::AskError| Error::failed("exec", &why);
    let process = subscribe.process;
    let streams = match &launched {
        None => link
            .ask(GUEST_DEADLINE, |r| link::Message::Attach(subscribe, r))
            .await
            .map_err(failed)?,
        Some(_) => Subscription {
            output: mpsc::channel(1).1,
            input: None,
        },
    };
    let sent = link.tell(link::Message::Exec {
        process,
        id: id.to_string(),
        config: Box::new(config),
    });
    if !sent {
        return Err(Error::Interrupted("exec"));
    }
    if let Some(launched) = launched {
        match tokio::time::timeout(GUEST_DEADLINE, launched).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(Error::Interrupted("exec")),
            Err(_) => return Err(Error::Deadline("exec")),
        }
    }
    Ok(streams)
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
