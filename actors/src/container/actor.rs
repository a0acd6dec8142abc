//! The container actor: the state machine's hands.
//!
//! It owns one VM. A request becomes an event, an event becomes effects, an effect becomes a task that comes back
//! as an event: the mailbox never waits. At every transition a snapshot goes on the shelf.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use strategy::{Address, AskError, BusyGuard, ChildSpec, Nursery, Restart, SupervisorMessage};
use tether_protocol::session::PRIMARY;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::event::{Event, Power, Ticket, Work};
use super::link::{self, Link, Notice};
use super::message::{Message, Reply, Signal};
use super::rename::Renamed;
use super::snapshot::{ContainerSnapshot, Phase, VmSnapshot};
use super::state::{Effect, State};
use super::vm::{self, Record};
use crate::context::Context;
use crate::error::Error;
use crate::events::{self, EventKind};
use crate::ids::ContainerId;
use crate::vsphere::VmFacts;

/// How often an actor looks whether its address leads to it: its supervisor sets that at once.
const SETTLING: u32 = 10_000;

/// How long an answer of the guest may take.
const GUEST_DEADLINE: Duration = Duration::from_secs(20);

/// How long a stop signal waits for a guest that does not answer, before vSphere is asked to deliver it.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(4);

/// How long a removal's answer waits for the container's anonymous volumes.
const VOLUMES_PATIENCE: Duration = Duration::from_secs(30);

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
    pub(super) context: Context,
    pub(super) id: ContainerId,
    pub(super) vm: String,
    pub(super) record: Option<Record>,
    spec: Option<Arc<super::spec::CreateSpec>>,
    /// The VM's name as vSphere showed it last.
    pub(super) vm_name: String,
    vm_path: String,
    machine: State,
    revision: u64,
    tickets: HashMap<Ticket, Reply<()>>,
    next_ticket: u64,
    deferred: Vec<Message>,
    /// Link and execs.
    pub(super) children: Nursery,
    pub(super) link: Address<link::Message>,
    /// The guest's key for a link that is started again.
    guest_key: Arc<std::sync::Mutex<String>>,
    pid: u32,
    /// What is over as soon as the run's end is on the shelf.
    ends: link::Ends,
    pub(super) tasks: JoinSet<()>,
    /// Signals on their way to this run's process.
    signals: JoinSet<()>,
    /// Requests wait for what the watch will tell.
    watching: Option<BusyGuard>,
    deadline: Option<tokio::task::AbortHandle>,
    gone: bool,
    settling: u32,
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
        let path = format!("vch/containers/{}", args.id.short());
        let (policy, tree) = (args.context.policy(), args.context.tree());
        let children = Nursery::new(&path, policy, tree, &myself, |message| {
            Message::Event(Box::new(Input::Child(message)))
        });
        let mut state = Running {
            children,
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
            link: Address::default(),
            guest_key: Arc::default(),
            pid: 0,
            ends: link::Ends::default(),
            tasks: JoinSet::new(),
            signals: JoinSet::new(),
            watching: None,
            deadline: None,
            gone: false,
            settling: 0,
        };
        match facts {
            Some(facts) => state.adopt(&myself, facts).await?,
            None => state.look_up(&myself),
        }
        myself.send_message(Message::Settle)?;
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
        if matches!(message, Message::Settle) {
            state.settle(&myself).await;
            return Ok(());
        }
        if state.record.is_none() {
            state.deferred.push(message);
            return Ok(());
        }
        state.request(&myself, message).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        // A line dies with the link that owned it: the guest dials again by itself.
        state.children.event(event).await.map(|_| ())
    }
}

/// An input that is not a request.
#[derive(Debug)]
pub enum Input {
    /// For the state machine.
    Machine(Event),
    /// The VM as vSphere shows it now; power and keys.
    Facts(Box<VmFacts>),
    /// The VM as it was when it was looked up.
    Found(Box<VmFacts>),
    /// The VM cannot be looked up now.
    LookUpFailed,
    /// vSphere has no such VM.
    VmGone,
    /// What the guest says.
    Guest(Notice),
    /// A serial connection of this container.
    Line(Box<link::Line>),
    /// A rename that docker asked for has ended.
    Renamed(Box<Renamed>),
    /// For the link and the execs.
    Child(SupervisorMessage),
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
        self.note_key();
        if self.machine.vm.power != Power::Off {
            self.start_link(myself).await?;
        }
        self.revive_execs().await?;
        let effects = self.machine.resume();
        self.perform(myself, effects).await?;
        for message in std::mem::take(&mut self.deferred) {
            self.request(myself, message).await?;
        }
        Ok(())
    }

    fn note_names(&mut self, facts: &VmFacts) {
        self.vm_path.clone_from(&facts.path);
        self.follow_name(&facts.name);
    }

    fn note_key(&self) {
        let mut key = self
            .guest_key
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        key.clone_from(&self.machine.vm.public_key);
    }

    /// What changed between the look at the VM and now, when the address leads here, was told to nobody: the watch
    /// tells it again.
    async fn settle(&mut self, myself: &ActorRef<Message>) {
        let Some(address) = self.context.container(self.id) else {
            return;
        };
        if address.get().is_some_and(|a| a.get_id() == myself.get_id()) {
            let again = crate::watch::Message::Tell(self.vm.clone());
            // A watch that is down begins with the full state.
            self.context.addresses().watch.tell(again);
        } else if self.settling < SETTLING {
            self.settling += 1;
            tokio::task::yield_now().await;
            let _ = myself.send_message(Message::Settle);
        }
    }

    fn look_up(&mut self, myself: &ActorRef<Message>) {
        let (context, vm, me) = (self.context.clone(), self.vm.clone(), myself.clone());
        self.tasks.spawn(async move {
            let input = match context.vsphere().vm(&vm).await {
                Ok(Some(facts)) => Input::Found(Box::new(facts)),
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
            Input::Facts(facts) | Input::Found(facts) if self.record.is_none() => {
                self.adopt(myself, *facts).await
            }
            // The watch was quicker, and what it told may be newer.
            Input::Found(_) => Ok(()),
            Input::Facts(facts) => {
                self.note_names(&facts);
                let view = vm::view(self.id, &facts.power, &facts.keys);
                self.step(myself, Event::VmChanged(view)).await
            }
            Input::VmGone => self.step(myself, Event::VmGone).await,
            Input::Machine(event) => self.step(myself, event).await,
            Input::Guest(notice) => self.guest(myself, notice).await,
            Input::Line(line) => {
                // A link that just died is started again and the guest dials again.
                self.link.tell(link::Message::Line(line));
                Ok(())
            }
            Input::Renamed(renamed) => {
                self.renamed(*renamed);
                Ok(())
            }
            Input::Child(message) => self.children.handle(message).await,
        }
    }

    pub(super) async fn step(
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
        if *key != old_key && !key.is_empty() {
            self.link.tell(link::Message::GuestKey(key.clone()));
            self.note_key();
        }
        self.perform(myself, effects).await?;
        let waits = !self.tickets.is_empty();
        self.watching = waits.then(|| self.context.addresses().watch.busy().request());
        Ok(())
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
        let (mut released, mut late) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Do(work) => self.work(myself, work),
                Effect::Signal(signal) => self.signal(signal),
                Effect::Deadline(seconds) => self.arm(myself, seconds),
                Effect::Answer(ticket, answer) if !released.is_empty() => {
                    late.extend(self.tickets.remove(&ticket).map(|reply| (reply, answer)));
                }
                Effect::Answer(ticket, answer) => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        // The client may have left.
                        let _ = reply.send(answer);
                    }
                }
                Effect::Emit(action, attributes) => self.emit(action, attributes),
                Effect::RunEnded => {
                    self.pid = 0;
                    self.ends = link::Ends::default();
                    if let Some(timer) = self.deadline.take() {
                        timer.abort();
                    }
                    self.signals.abort_all();
                    self.end_execs();
                    self.link.tell(link::Message::RunEnded);
                }
                Effect::Gone => {
                    self.gone = true;
                    released = leave(&self.context, self.id, self.machine.exit_code);
                    myself.stop(None);
                }
            }
        }
        if !late.is_empty() {
            // A removal is over when its volumes are gone too; this actor ends before.
            let gone = futures_util::future::join_all(released);
            tokio::spawn(async move {
                // What takes longer goes on without the client.
                let _ = tokio::time::timeout(VOLUMES_PATIENCE, gone).await;
                for (reply, answer) in late {
                    let _ = reply.send(answer);
                }
            });
        }
        Ok(())
    }

    fn work(&mut self, myself: &ActorRef<Message>, work: Work) {
        let (context, vm, me) = (self.context.clone(), self.vm.clone(), myself.clone());
        if work == Work::PowerOn {
            self.link.tell(link::Message::NewRun);
        }
        let link = self.link.clone();
        let boot = self.machine.vm.boot_key.clone();
        let volumes: Vec<String> = self
            .record
            .iter()
            .flat_map(|r| &r.mounts)
            .filter(|m| m.volume.is_some())
            .map(|m| m.disk.clone())
            .collect();
        let names: Vec<String> = self
            .record
            .iter()
            .flat_map(|r| &r.mounts)
            .filter_map(|m| m.volume.clone())
            .collect();
        let id = self.id;
        let doing = async move {
            let vsphere = context.vsphere();
            let result = match work {
                Work::PowerOn => {
                    let started = vsphere.power_on(&vm, &boot).await;
                    started.map_err(|why| held_elsewhere(&context, id, &names).unwrap_or(why))
                }
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

    /// Sends a signal by the link. A guest that cannot be reached gets a stop signal by vSphere's ShutdownGuest, which
    /// means the same.
    fn signal(&mut self, signal: Signal) {
        let own = self.spec.as_ref().and_then(|s| s.stop_signal.as_deref());
        let is_stop = self.machine.phase == Phase::Stopping
            && own.map_or(Some(Signal(15)), Signal::parse) == Some(signal);
        let patience = if is_stop {
            SIGNAL_PATIENCE
        } else {
            GUEST_DEADLINE
        };
        let (context, vm, link) = (self.context.clone(), self.vm.clone(), self.link.clone());
        while self.signals.try_join_next().is_some() {}
        self.signals.spawn(async move {
            loop {
                let question = |reply| link::Message::Signal(PRIMARY, signal.0, reply);
                match link.ask(patience, question).await {
                    Ok(()) => return,
                    // The link died with it: the next one takes it.
                    Err(AskError::Interrupted) => {}
                    Err(why) => {
                        tracing::warn!(vm, signal = signal.0, %why, "a signal did not reach the guest");
                        break;
                    }
                }
            }
            if is_stop && let Err(why) = context.vsphere().shut_down_guest(&vm).await {
                // The deadline of the stop is near.
                tracing::warn!(vm, %why, "cannot ask the guest to shut down");
            }
        });
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

    pub(super) fn emit(&self, action: &str, extra: Vec<(&'static str, String)>) {
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

    /// Starts the link, unless there is one.
    pub(super) async fn start_link(
        &mut self,
        myself: &ActorRef<Message>,
    ) -> Result<(), ActorProcessingErr> {
        let me = myself.clone();
        let identity = self.context.settings().identity.clone();
        let key = self.guest_key.clone();
        let make = move || {
            let me = me.clone();
            let args = link::Args {
                identity: identity.clone(),
                notify: Arc::new(move |notice| {
                    let _ = me.send_message(Message::Event(Box::new(Input::Guest(notice))));
                }),
                guest_key: key
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .clone(),
            };
            (Link, args)
        };
        let link = ChildSpec::new("link", Restart::Permanent, self.link.clone(), make)
            .kind("link")
            .at_once();
        self.children.start(vec![link]).await
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
            // The shelf has them from their own actors.
            execs: BTreeMap::new(),
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

/// Gives everything back that the container had: its addresses, its anonymous volumes, its name. The handles end when
/// the volumes are gone.
pub(crate) fn leave(
    context: &Context,
    id: ContainerId,
    exit_code: i64,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut released = Vec::new();
    if let Some(last) = context.snapshots().container(&id) {
        for endpoint in &last.endpoints {
            crate::network::release(context, endpoint.network, endpoint.id);
            context.snapshots().set_endpoint(endpoint.network, id, None);
        }
        if last.removing_volumes || last.spec.auto_remove {
            for name in last
                .mounts
                .iter()
                .filter(|m| m.anonymous)
                .filter_map(|m| m.volume.clone())
            {
                released.push(crate::volume::release(context, name, id));
            }
        }
    }
    context.snapshots().remove_container(&id, exit_code);
    context.leave_container(id);
    // What its image has left behind for its sake.
    let stood_on = context.needs().leave(id);
    crate::image::forget_layers(context, stood_on);
    released
}

/// Why a VM with these volumes was not started, if another container that runs has one of them: vSphere only says that
/// a file is locked.
fn held_elsewhere(context: &Context, id: ContainerId, volumes: &[String]) -> Option<Error> {
    let containers = context.snapshots().containers();
    volumes.iter().find_map(|volume| {
        let holds = |c: &&Arc<ContainerSnapshot>| {
            let has = c.mounts.iter().any(|m| m.volume.as_ref() == Some(volume));
            c.id != id && has && (c.is_running() || c.phase == Phase::Starting)
        };
        let holder = &containers.iter().find(holds)?.name;
        Some(Error::Conflict(format!(
            "volume {volume} is in use by the running container {holder}: a volume is a virtual disk, which one \
             running container at a time can have"
        )))
    })
}

/// Destroys a VM. A destroyed VM takes its disks along, so its volumes are detached first: one more call for those
/// that have some.
pub(crate) async fn destroy(
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
