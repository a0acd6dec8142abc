//! An exec: one more process in a container's guest.
//!
//! ```text
//!  created ── Start ──▶ asked of the guest ── Started ──▶ running ── Exited, VM off ──▶ ended ── 5 min ──▶ gone
//!                                └── Failed ────────────────────────────────────────────▲
//! ```
//! A child of its container. What a crash loses: a client that waits for a detached start; the process does not
//! notice, and the link tells again what it knows of it. After a restart of the whole program the execs are made
//! again from the guest's inventory, which carries their [`Label`]s; those that were never started are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use strategy::{Address, AskError};
use tether_protocol::config::Session;
use tether_protocol::session::Process as Number;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::link::{self, Ends, Subscribe, Subscription};
use super::message::{Reply, StartExec};
use super::snapshot::{ContainerSnapshot, ExecSnapshot, ExecSpec, Phase};
use super::spec::ProcessSpec;
use super::vm;
use crate::context::Context;
use crate::error::Error;
use crate::events::{Event, EventKind};
use crate::ids::{ContainerId, ExecId};
use crate::streams::{Attachment, ConsoleSize};

/// How long an ended exec stays on the shelf, as in moby.
const KEPT: Duration = Duration::from_secs(300);

/// How long an answer of the guest may take.
const GUEST_DEADLINE: Duration = Duration::from_secs(20);

/// Exit code of an exec whose end nobody saw, because its VM went off.
const LOST: i64 = 137;

/// Longest label that carries an exec's environment too.
const MAX_LABEL: usize = 4096;

/// What an exec can be asked.
#[derive(Debug)]
pub enum Message {
    /// Runs it. Detached: answers when it was launched, with an attachment whose channels are closed.
    /// [`Error::ExecAlreadyRan`], [`Error::NotRunning`], [`Error::Paused`], detached also [`Error::Launch`].
    Start(StartExec, Reply<Attachment>),
    /// Sets the size of its terminal; held until its process exists.
    Resize(ConsoleSize, Reply<()>),
    /// The guest says something of its process.
    Heard(Heard),
    /// Internal: the actor has been started again; what does the link know?
    #[doc(hidden)]
    Look,
    /// Internal: its time on the shelf is over.
    #[doc(hidden)]
    Forget,
}

/// What happened to an exec's process.
#[derive(Debug, Clone)]
pub enum Heard {
    /// It runs, with this process id in the container.
    Started(i32),
    /// It could not be started: docker's text and exit code.
    Failed(String, i32, Ends),
    /// It ended with this code.
    Exited(i32, Ends),
    /// The guest does not know it: what asked for it was lost on the way.
    Lost,
    /// Its VM is off.
    Off,
}

/// What the guest calls an exec in its inventory, so that it can be shown again after a restart of this program.
#[derive(Debug, Serialize, Deserialize)]
pub struct Label {
    /// Its id.
    pub id: ExecId,
    /// What it was created from; a long environment is left out.
    pub spec: ExecSpec,
}

impl Label {
    /// The label as the guest keeps it.
    pub fn write(id: ExecId, spec: &ExecSpec) -> String {
        let mut label = Self {
            id,
            spec: spec.clone(),
        };
        let mut text = serde_json::to_string(&label).unwrap_or_default();
        if text.len() > MAX_LABEL {
            label.spec.process.env.clear();
            text = serde_json::to_string(&label).unwrap_or_default();
        }
        text
    }

    /// Reads a label; `None` for what is none.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The exec actor.
#[derive(Debug)]
pub struct Exec;

/// What it is started with.
#[derive(Debug, Clone)]
pub struct Args {
    /// What all share.
    pub context: Context,
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// Its number on the link.
    pub number: Number,
    /// What it was created from.
    pub spec: ExecSpec,
    /// It was found in the guest: it was started in an earlier life of this program.
    pub found: bool,
    /// The container's link.
    pub link: Address<link::Message>,
}

/// A running exec actor.
#[derive(Debug)]
pub struct State {
    args: Args,
    snapshot: ExecSnapshot,
    launched: Vec<oneshot::Sender<Result<(), Error>>>,
    /// How it was started, and whether the link has been told.
    options: StartExec,
    asked: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Actor for Exec {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let last = args.context.snapshots().exec(&args.id);
        let again = last.is_some();
        let snapshot = last.map_or_else(
            || ExecSnapshot {
                id: args.id,
                container: args.container,
                spec: args.spec.clone(),
                started: args.found,
                running: args.found,
                exit_code: None,
                pid: 0,
            },
            |last| (*last).clone(),
        );
        let state = State {
            args,
            snapshot,
            launched: vec![],
            options: StartExec::default(),
            // Of an earlier life, it is not known: asking twice does no harm.
            asked: Arc::new(again.into()),
            tasks: JoinSet::new(),
        };
        state.publish();
        if again {
            myself.send_message(Message::Look)?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            Message::Start(options, reply) => match state.refusal() {
                // The asker may have left.
                Some(why) => drop(reply.send(Err(why))),
                None => state.start(&options, reply),
            },
            Message::Resize(size, reply) => drop(reply.send(state.resize(size))),
            Message::Heard(heard) => state.heard(&myself, heard),
            Message::Look if state.snapshot.exit_code.is_some() => {
                myself.send_after(KEPT, || Message::Forget);
            }
            Message::Look if state.snapshot.started => {
                // A link that is down tells when it has met the guest.
                state
                    .args
                    .link
                    .tell(link::Message::Report(state.args.number));
            }
            Message::Look => {}
            Message::Forget => {
                state.args.context.snapshots().remove_exec(&state.args.id);
                state.args.context.leave_exec(state.args.id);
                myself.stop(None);
            }
        }
        Ok(())
    }
}

impl State {
    fn container(&self) -> Option<Arc<ContainerSnapshot>> {
        self.args
            .context
            .snapshots()
            .container(&self.args.container)
    }

    /// Why it cannot be started, if it cannot.
    fn refusal(&self) -> Option<Error> {
        if self.snapshot.started {
            return Some(Error::ExecAlreadyRan(self.args.id.to_string()));
        }
        match self.container() {
            Some(container) => refusal(&container),
            None => Some(Error::NoSuchContainer(self.args.container.to_string())),
        }
    }

    fn start(&mut self, options: &StartExec, reply: Reply<Attachment>) {
        let Some(container) = self.container() else {
            return;
        };
        self.snapshot.started = true;
        self.snapshot.running = true;
        self.options = options.clone();
        let (process, config) = self.config(&container);
        let wanted = &self.args.spec;
        let tty = process.tty;
        let run = Run {
            link: self.args.link.clone(),
            label: Label::write(self.args.id, wanted),
            subscribe: Subscribe {
                process: self.args.number,
                stdin: process.open_stdin,
                stdout: wanted.attach_stdout && !options.detach,
                stderr: wanted.attach_stderr && !options.detach && !tty,
                close_stdin: true,
            },
            config,
            asked: self.asked.clone(),
        };
        let launched = options.detach.then(|| {
            let (launched, was_launched) = oneshot::channel();
            self.launched.push(launched);
            was_launched
        });
        self.tasks.spawn(async move {
            let answer = run.run(launched).await.map(|s| Attachment {
                output: s.output,
                input: s.input,
                tty,
            });
            // The client may have left.
            let _ = reply.send(answer);
        });
        self.publish();
        let command = self.args.spec.process.argv.join(" ");
        self.emit(&format!("exec_start: {command}"), vec![]);
    }

    /// What the guest shall run: the exec's process, where it says nothing as the container's own.
    fn config(&self, container: &ContainerSnapshot) -> (ProcessSpec, Session) {
        let options = &self.options;
        let wanted = &self.args.spec;
        let mut process = wanted.process.clone();
        let own = &container.spec.process;
        // The container's environment first, then the exec's own.
        process.env = own.env.iter().chain(&wanted.process.env).cloned().collect();
        if process.user.is_empty() {
            process.user.clone_from(&own.user);
        }
        if process.cwd.is_empty() {
            process.cwd.clone_from(&own.cwd);
        }
        process.console = options.console.or(process.console);
        process.open_stdin = wanted.attach_stdin && !options.detach;
        process.stdin_once = process.open_stdin;
        let mut security = container.spec.security.clone();
        security.privileged |= wanted.privileged;
        let config = vm::session_of(&process, &security);
        (process, config)
    }

    fn resize(&self, size: ConsoleSize) -> Result<(), Error> {
        if self.snapshot.started && !self.snapshot.running {
            return Err(Error::internal("resize", "the exec has ended"));
        }
        // Frames keep their order: it comes after the exec's start.
        self.args
            .link
            .tell(link::Message::Resize(self.args.number, size));
        Ok(())
    }

    fn heard(&mut self, myself: &ActorRef<Message>, heard: Heard) {
        if self.snapshot.exit_code.is_some() || !self.snapshot.started {
            return;
        }
        match heard {
            Heard::Started(pid) => {
                self.snapshot.pid = u32::try_from(pid).unwrap_or_default();
                self.answer(&Ok(()));
                self.publish();
            }
            Heard::Failed(text, code, ends) => {
                let exit_code = i64::from(code);
                self.ended(exit_code, &Err(Error::Launch { text, exit_code }), myself);
                drop(ends);
            }
            Heard::Exited(code, ends) => {
                self.ended(code.into(), &Ok(()), myself);
                drop(ends);
            }
            Heard::Lost => self.ask_again(),
            Heard::Off => {
                let why = Err(Error::NotRunning(self.args.container));
                self.ended(LOST, &why, myself);
            }
        }
    }

    /// The guest does not know it: the link died with what asked for it. A number is run once, however often it is
    /// asked for.
    fn ask_again(&self) {
        if let (true, Some(container)) = (self.asked.load(Ordering::Acquire), self.container()) {
            let (_, config) = self.config(&container);
            self.args.link.tell(link::Message::Exec {
                process: self.args.number,
                label: Label::write(self.args.id, &self.args.spec),
                config: Box::new(config),
            });
        }
    }

    fn ended(&mut self, code: i64, launch: &Result<(), Error>, myself: &ActorRef<Message>) {
        self.snapshot.running = false;
        self.snapshot.exit_code = Some(code);
        self.answer(launch);
        self.publish();
        self.args
            .link
            .tell(link::Message::Release(self.args.number));
        self.emit("exec_die", vec![("exitCode", code.to_string())]);
        myself.send_after(KEPT, || Message::Forget);
    }

    /// Answers those who wait for a detached start.
    fn answer(&mut self, launch: &Result<(), Error>) {
        for waiting in self.launched.drain(..) {
            let _ = waiting.send(launch.clone());
        }
    }

    fn publish(&self) {
        let snapshot = Arc::new(self.snapshot.clone());
        self.args.context.snapshots().put_exec(snapshot);
    }

    fn emit(&self, action: &str, extra: Vec<(&'static str, String)>) {
        if let Some(container) = self.container() {
            let mut extra = extra;
            extra.push(("execID", self.args.id.to_string()));
            emit(&self.args.context, &container, action, extra);
        }
    }
}

/// Why a container takes no exec in its present state, if so.
pub fn refusal(container: &ContainerSnapshot) -> Option<Error> {
    match container.phase {
        Phase::Running | Phase::Stopping => None,
        Phase::Paused => Some(Error::Paused {
            what: "Container",
            name: container.name.clone(),
            verb: "exec",
        }),
        _ => Some(Error::NotRunning(container.id)),
    }
}

/// Tells the world of something that happened to a container.
pub fn emit(
    context: &Context,
    container: &ContainerSnapshot,
    action: &str,
    extra: Vec<(&'static str, String)>,
) {
    let mut attributes = container.spec.labels.clone();
    attributes.insert("name".into(), container.name.clone());
    attributes.insert("image".into(), container.spec.image_name.clone());
    attributes.extend(extra.into_iter().map(|(k, v)| (k.to_owned(), v)));
    context.emit(Event {
        kind: EventKind::Container,
        action: action.to_owned(),
        id: container.id.to_string(),
        attributes,
        time: OffsetDateTime::now_utc(),
    });
}

/// Everything that a start takes to the link.
struct Run {
    link: Address<link::Message>,
    label: String,
    subscribe: Subscribe,
    config: Session,
    asked: Arc<AtomicBool>,
}

impl Run {
    async fn run(
        self,
        launched: Option<oneshot::Receiver<Result<(), Error>>>,
    ) -> Result<Subscription, Error> {
        let failed = |why: AskError| Error::failed("exec", &why);
        let subscribe = self.subscribe;
        let streams = match &launched {
            None => self
                .link
                .ask(GUEST_DEADLINE, |r| link::Message::Attach(subscribe, r))
                .await
                .map_err(failed)?,
            Some(_) => Subscription {
                output: mpsc::channel(1).1,
                input: None,
            },
        };
        let sent = self.link.tell(link::Message::Exec {
            process: subscribe.process,
            label: self.label,
            config: Box::new(self.config),
        });
        self.asked.store(true, Ordering::Release);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ProcessSpec;

    #[test]
    fn a_label_gives_back_what_inspect_shows() {
        let spec = |env: Vec<String>| ExecSpec {
            process: ProcessSpec {
                argv: vec!["sh".into(), "-c".into(), "a | b\n".into()],
                env,
                tty: true,
                ..ProcessSpec::default()
            },
            attach_stdin: true,
            ..ExecSpec::default()
        };
        let id = ExecId::random();
        let short = spec(vec!["A=1".into()]);
        let read = Label::read(&Label::write(id, &short)).unwrap();
        assert_eq!((read.id, read.spec), (id, short));
        let long = spec(vec!["x".repeat(128 << 10)]);
        let text = Label::write(id, &long);
        assert!(text.len() < MAX_LABEL);
        assert_eq!(Label::read(&text).unwrap().spec, spec(vec![]));
        assert!(Label::read(&id.to_string()).is_none());
    }
}
