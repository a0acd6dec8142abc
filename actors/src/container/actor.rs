//! The container actor: the state machine's hands.
//!
//! It owns one VM. A request becomes an event, an event becomes effects, an effect becomes a task that comes back
//! as an event: the mailbox never waits. At every transition a snapshot goes on the shelf.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use strategy::Address;
use tether_protocol::session::{PRIMARY, Process as Number};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::event::{Event, Power, Ticket, Work};
use super::link::{self, Link, Notice};
use super::message::{Message, Reply, Signal};
use super::snapshot::{ContainerSnapshot, ExecSnapshot, Phase, VmSnapshot};
use super::state::{Effect, State};
use super::vm::{self, Record};
use crate::context::Context;
use crate::error::Error;
use crate::events::{self, EventKind};
use crate::ids::{ContainerId, ExecId};
use crate::vsphere::VmFacts;

/// How long an ended exec stays on the shelf, as in moby.
const EXEC_KEPT: Duration = Duration::from_secs(300);

/// How long an answer of the guest may take.
const GUEST_DEADLINE: Duration = Duration::from_secs(20);

/// What a container actor is started with.
#[derive(Debug, Clone)]
pub struct Args {
    /// What all share.
    pub context: Context,
    /// The VM as it was when the actor was first started; a restarted actor asks vSphere.
    pub facts: Arc<std::sync::Mutex<Option<VmFacts>>>,
    /// The VM.
    pub vm: String,
    /// The container.
    pub id: ContainerId,
}

/// The container actor.
#[derive(Debug)]
pub struct Container;

/// A running container actor.
pub struct Running {
    context: Context,
    id: ContainerId,
    vm: String,
    record: Option<Record>,
    spec: Option<Arc<super::spec::CreateSpec>>,
    vm_name: String,
    vm_path: String,
    machine: State,
    revision: u64,
    tickets: HashMap<Ticket, Reply<()>>,
    next_ticket: u64,
    deferred: Vec<Message>,
    link: Option<ActorRef<link::Message>>,
    link_address: Address<link::Message>,
    pid: u32,
    execs: BTreeMap<ExecId, Exec>,
    tasks: JoinSet<()>,
    deadline: Option<tokio::task::AbortHandle>,
    gone: bool,
}

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) number: Number,
    pub(super) snapshot: ExecSnapshot,
    pub(super) launched: Vec<tokio::sync::oneshot::Sender<Result<(), Error>>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "container::Running({}, {:?})",
            self.id.short(),
            self.machine.phase
        )
    }
}

impl Actor for Container {
    type Msg = Message;
    type State = Running;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: Args,
    ) -> Result<Running, ActorProcessingErr> {
        let facts = args
            .facts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let mut state = Running {
            machine: State::created(args.id, false),
            context: args.context,
            id: args.id,
            vm: args.vm,
            record: None,
            spec: None,
            vm_name: String::new(),
            vm_path: String::new(),
            revision: 0,
            tickets: HashMap::new(),
            next_ticket: 0,
            deferred: Vec::new(),
            link: None,
            link_address: Address::default(),
            pid: 0,
            execs: BTreeMap::new(),
            tasks: JoinSet::new(),
            deadline: None,
            gone: false,
        };
        match facts {
            Some(facts) => state.adopt(&myself, facts).await?,
            None => state.look_up(&myself),
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        if let Message::Event(input) = message {
            return state.input(&myself, *input).await;
        }
        if state.record.is_none() {
            state.deferred.push(message);
            return Ok(());
        }
        state.request(&myself, message).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let ended = match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => cell,
            SupervisionEvent::ActorFailed(cell, why) => {
                tracing::warn!(container = %state.id.short(), %why, "link failed");
                cell
            }
            _ => return Ok(()),
        };
        if state
            .link
            .as_ref()
            .is_some_and(|l| l.get_id() == ended.get_id())
        {
            state.context.tree().leave(&state.link_path(), &ended);
            state.link = None;
            state.start_link(&myself).await?;
            // The line died with the link that owned it: the guest dials again by itself.
        }
        Ok(())
    }
}

/// An input that is not a request.
#[derive(Debug)]
pub enum Input {
    /// For the state machine.
    Machine(Event),
    /// The VM as vSphere shows it now; power and keys.
    Facts(Box<VmFacts>),
    /// The VM cannot be looked up now.
    LookUpFailed,
    /// vSphere has no such VM.
    VmGone,
    /// What the guest says.
    Guest(Notice),
    /// A serial connection of this container.
    Line(Box<link::Line>),
    /// An exec's time on the shelf is over.
    ForgetExec(ExecId),
}

impl Running {
    /// Takes the VM's keys as the truth: at the first start, and again after a restart.
    async fn adopt(
        &mut self,
        myself: &ActorRef<Message>,
        facts: VmFacts,
    ) -> Result<(), ActorProcessingErr> {
        let record = Record::read(&facts.keys).ok_or("the VM has no record of a container")?;
        let view = vm::view(self.id, &facts.power, &facts.keys);
        let last = self.context.snapshots().container(&self.id);
        self.machine = State::recovered(self.id, record.spec.auto_remove, view);
        if let Some(last) = last {
            self.revision = last.revision;
            self.machine.continue_from(&last);
        }
        self.spec = Some(Arc::new(record.spec.clone()));
        self.context.needs().enter(self.id, record.chains.clone());
        self.record = Some(record);
        self.note_names(&facts);
        self.publish();
        if self.machine.vm.power != Power::Off {
            self.start_link(myself).await?;
        }
        let effects = self.machine.resume();
        self.perform(myself, effects).await?;
        for message in std::mem::take(&mut self.deferred) {
            self.request(myself, message).await?;
        }
        Ok(())
    }

    fn note_names(&mut self, facts: &VmFacts) {
        self.vm_name.clone_from(&facts.name);
        self.vm_path.clone_from(&facts.path);
    }

    fn look_up(&mut self, myself: &ActorRef<Message>) {
        let (context, vm, me) = (self.context.clone(), self.vm.clone(), myself.clone());
        self.tasks.spawn(async move {
            let input = match context.vsphere().vm(&vm).await {
                Ok(Some(facts)) => Input::Facts(Box::new(facts)),
                Ok(None) => Input::VmGone,
                Err(why) => {
                    tracing::warn!(%why, vm, "cannot look up a container's VM");
                    Input::LookUpFailed
                }
            };
            // The actor may have ended.
            let _ = me.send_message(Message::Event(Box::new(input)));
        });
    }

    async fn input(
        &mut self,
        myself: &ActorRef<Message>,
        input: Input,
    ) -> Result<(), ActorProcessingErr> {
        match input {
            Input::LookUpFailed => Err("cannot look up the VM".into()),
            Input::Facts(facts) if self.record.is_none() => self.adopt(myself, *facts).await,
            Input::Facts(facts) => {
                self.note_names(&facts);
                if let Some(record) = Record::read(&facts.keys) {
                    self.record = Some(record);
                }
                let view = vm::view(self.id, &facts.power, &facts.keys);
                self.step(myself, Event::VmChanged(view)).await
            }
            Input::VmGone => self.step(myself, Event::VmGone).await,
            Input::Machine(event) => self.step(myself, event).await,
            Input::Guest(notice) => self.guest(myself, notice),
            Input::Line(line) => {
                if let Some(link) = &self.link {
                    // A link that just died is started again and the guest dials again.
                    let _ = link.send_message(link::Message::Line(line));
                }
                Ok(())
            }
            Input::ForgetExec(id) => {
                self.execs.remove(&id);
                self.publish();
                Ok(())
            }
        }
    }

    async fn step(
        &mut self,
        myself: &ActorRef<Message>,
        event: Event,
    ) -> Result<(), ActorProcessingErr> {
        if self.gone {
            return Ok(());
        }
        let old_key = self.machine.vm.public_key.clone();
        let effects = self.machine.step(event, OffsetDateTime::now_utc());
        let key = &self.machine.vm.public_key;
        if *key != old_key
            && !key.is_empty()
            && let Some(link) = &self.link
        {
            let _ = link.send_message(link::Message::GuestKey(key.clone()));
        }
        self.perform(myself, effects).await
    }

    /// Carries out effects: first what changes the shelf, then what wakes others.
    async fn perform(
        &mut self,
        myself: &ActorRef<Message>,
        effects: Vec<Effect>,
    ) -> Result<(), ActorProcessingErr> {
        if self.machine.vm.power == Power::On || self.machine.phase == Phase::Starting {
            self.start_link(myself).await?;
        }
        if !effects.contains(&Effect::Gone) {
            self.publish();
        }
        for effect in effects {
            match effect {
                Effect::Do(work) => self.work(myself, work),
                Effect::Signal(signal) => self.signal(signal),
                Effect::Deadline(seconds) => self.arm(myself, seconds),
                Effect::Answer(ticket, answer) => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        // The client may have left.
                        let _ = reply.send(answer);
                    }
                }
                Effect::Emit(action, attributes) => self.emit(action, attributes),
                Effect::RunEnded => {
                    self.pid = 0;
                    if let Some(timer) = self.deadline.take() {
                        timer.abort();
                    }
                    self.end_execs();
                    if let Some(link) = &self.link {
                        let _ = link.send_message(link::Message::RunEnded);
                    }
                }
                Effect::Gone => {
                    self.gone = true;
                    self.leave();
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    /// Gives everything back that the container had: its addresses, its anonymous volumes, its name.
    fn leave(&self) {
        let addresses = self.context.addresses();
        if let Some(last) = self.context.snapshots().container(&self.id) {
            for endpoint in &last.endpoints {
                crate::network::release(&self.context, endpoint.network, endpoint.id);
                self.context
                    .snapshots()
                    .set_endpoint(endpoint.network, self.id, None);
            }
            if last.removing_volumes || last.spec.auto_remove {
                for name in last
                    .mounts
                    .iter()
                    .filter(|m| m.anonymous)
                    .filter_map(|m| m.volume.clone())
                {
                    addresses
                        .volumes
                        .tell(crate::volume::Message::RemoveAnonymous(name, self.id));
                }
            }
        }
        self.context
            .snapshots()
            .remove_container(&self.id, self.machine.exit_code);
        self.context.leave_container(self.id);
        // What its image has left behind for its sake.
        let stood_on = self.context.needs().leave(self.id);
        crate::image::forget_layers(&self.context, stood_on);
    }

    fn work(&mut self, myself: &ActorRef<Message>, work: Work) {
        let (context, vm, me) = (self.context.clone(), self.vm.clone(), myself.clone());
        if work == Work::PowerOn
            && let Some(link) = &self.link
        {
            let _ = link.send_message(link::Message::NewRun);
        }
        let link = self.link_address.clone();
        let boot = self.machine.vm.boot_key.clone();
        let volumes: Vec<String> = self
            .record
            .iter()
            .flat_map(|r| &r.mounts)
            .filter(|m| m.volume.is_some())
            .map(|m| m.disk.clone())
            .collect();
        let doing = async move {
            let vsphere = context.vsphere();
            let result = match work {
                Work::PowerOn => vsphere.power_on(&vm, &boot).await,
                Work::PowerOff => vsphere.power_off(&vm).await,
                Work::Destroy => destroy(vsphere, &vm, &volumes).await,
                Work::Freeze(frozen) => link
                    .ask(GUEST_DEADLINE, |reply| link::Message::Freeze(frozen, reply))
                    .await
                    .unwrap_or_else(|why| Err(Error::failed("pause or unpause", &why))),
            };
            let event = Event::Done(work, result);
            let _ = me.send_message(Message::Event(Box::new(Input::Machine(event))));
        };
        self.tasks.spawn(doing);
    }

    fn signal(&mut self, signal: Signal) {
        let number = signal.0;
        match &self.link {
            Some(link) => {
                let _ = link.send_message(link::Message::Signal(PRIMARY, number));
            }
            None => tracing::warn!(container = %self.id.short(), number, "no link for a signal"),
        }
    }

    fn arm(&mut self, myself: &ActorRef<Message>, seconds: u64) {
        if let Some(old) = self.deadline.take() {
            old.abort();
        }
        let me = myself.clone();
        self.deadline = Some(self.tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let event = Input::Machine(Event::StopDeadline);
            let _ = me.send_message(Message::Event(Box::new(event)));
        }));
    }

    fn emit(&self, action: &str, extra: Vec<(&'static str, String)>) {
        let mut attributes: BTreeMap<String, String> = self
            .spec
            .as_ref()
            .map(|s| s.labels.clone())
            .unwrap_or_default();
        if let (Some(record), Some(spec)) = (&self.record, &self.spec) {
            attributes.insert("name".into(), record.name.clone());
            attributes.insert("image".into(), spec.image_name.clone());
        }
        attributes.extend(extra.into_iter().map(|(k, v)| (k.to_owned(), v)));
        self.context.emit(events::Event {
            kind: EventKind::Container,
            action: action.to_owned(),
            id: self.id.to_string(),
            attributes,
            time: OffsetDateTime::now_utc(),
        });
    }

    fn link_path(&self) -> String {
        format!("vch/containers/{}/link", self.id.short())
    }

    async fn start_link(&mut self, myself: &ActorRef<Message>) -> Result<(), ActorProcessingErr> {
        if self.link.is_some() {
            return Ok(());
        }
        let me = myself.clone();
        let args = link::Args {
            identity: self.context.settings().identity.clone(),
            notify: Arc::new(move |notice| {
                let _ = me.send_message(Message::Event(Box::new(Input::Guest(notice))));
            }),
            guest_key: self.machine.vm.public_key.clone(),
        };
        let (link, _) = Actor::spawn_linked(None, Link, args, myself.get_cell()).await?;
        let busy = self.link_address.busy().clone();
        self.context
            .tree()
            .enter(&self.link_path(), "link", link.get_cell(), busy);
        self.link_address.set(link.clone());
        self.link = Some(link);
        Ok(())
    }

    /// Publishes the present state.
    pub(super) fn publish(&mut self) {
        let (Some(record), Some(spec)) = (&self.record, &self.spec) else {
            return;
        };
        self.revision += 1;
        let machine = &self.machine;
        let on = matches!(
            machine.phase,
            Phase::Running | Phase::Paused | Phase::Stopping
        );
        let datastore = self
            .vm_path
            .split_once(']')
            .map_or("", |(ds, _)| ds)
            .trim_start_matches('[');
        let folder = self
            .vm_path
            .split_once("] ")
            .and_then(|(_, p)| p.rsplit_once('/'))
            .map_or("", |(f, _)| f);
        let snapshot = ContainerSnapshot {
            id: self.id,
            name: record.name.clone(),
            created: record.created,
            spec: spec.clone(),
            phase: machine.phase,
            removing: machine.removing.is_some(),
            removing_volumes: machine.removing.as_ref().is_some_and(|r| r.volumes),
            dead: machine.dead,
            exit_code: machine.exit_code,
            exits: machine.exits,
            error: machine.error.clone(),
            oom_killed: false,
            started_at: machine.started_at,
            finished_at: machine.finished_at,
            restart_count: 0,
            endpoints: record.endpoint_snapshots(on),
            mounts: record.mount_snapshots(),
            execs: self
                .execs
                .iter()
                .map(|(id, e)| (*id, Arc::new(e.snapshot.clone())))
                .collect(),
            vm: VmSnapshot {
                moref: self.vm.clone(),
                name: self.vm_name.clone(),
                log_path: format!("[{datastore}] {folder}/{}.log", self.id),
                power: match machine.vm.power {
                    Power::On => "poweredOn",
                    Power::Off => "poweredOff",
                    Power::Suspended => "suspended",
                }
                .into(),
                pid: if on { self.pid.max(1) } else { 0 },
            },
            revision: self.revision,
        };
        for endpoint in &record.endpoints {
            let place = on.then(|| crate::network::Endpoint {
                id: endpoint.id,
                name: record.name.clone(),
                mac: endpoint.mac.clone(),
                address: endpoint.address,
            });
            self.context
                .snapshots()
                .set_endpoint(endpoint.network, self.id, place);
        }
        self.context.snapshots().put_container(Arc::new(snapshot));
    }
}

/// Destroys a VM. A destroyed VM takes its disks along, so its volumes are detached first: one more call for those
/// that have some.
async fn destroy(
    vsphere: &crate::vsphere::Vsphere,
    vm: &str,
    volumes: &[String],
) -> Result<(), Error> {
    if !volumes.is_empty() {
        vsphere.detach_disks(vm, volumes).await?;
    }
    vsphere.destroy(vm).await
}

#[path = "requests.rs"]
mod requests;
