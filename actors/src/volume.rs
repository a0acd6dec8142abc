//! Volumes: disks of their own on the default volume store.
//!
//! The volumes' actor keeps the list, one document for all of them, and is the supervisor of the volumes; each
//! [`volume`](actor) makes and deletes its own disk. Before either, the document names that disk as unfinished: should
//! this program end before it says otherwise, the next one deletes what there is of it.

pub mod actor;

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use serde::{Deserialize, Serialize};
use strategy::{Address, AskError, ChildSpec, Nursery, Restart, SupervisorMessage};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::error::Error;
use crate::events::{self, EventKind};
use crate::ids::ContainerId;
use crate::vsphere::document::Document;

/// A volume at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Its name.
    pub name: String,
    /// Its driver; `vsphere` and `local` are the same to us and given back as asked.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options as given.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Its disk as a datastore path: inspect's `Mountpoint`.
    pub path: String,
    /// Made without a name.
    pub anonymous: bool,
    /// Size of the disk in bytes.
    pub capacity: u64,
}

/// A volume to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name; none: 64 hex digits, and it is anonymous.
    pub name: Option<String>,
    /// Its driver; empty: `local`.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Made without a name, which it may have got since.
    pub anonymous: bool,
}

impl VolumeSpec {
    /// Gives a volume without a name one, so that asking for it twice makes one; answers with that name.
    pub(crate) fn name_it(&mut self) -> Option<String> {
        if self.name.is_some() {
            return None;
        }
        self.anonymous = true;
        self.name = Some(ContainerId::random().to_string());
        self.name.clone()
    }
}

/// Makes a volume whose specification has a name, also when an actor dies with the question.
///
/// # Errors
/// As [`Message::Create`].
pub(crate) async fn make(
    context: &Context,
    spec: VolumeSpec,
) -> Result<Arc<VolumeSnapshot>, Error> {
    loop {
        let question = |reply| Message::Create(spec.clone(), reply);
        match context.addresses().volumes.ask(DEADLINE, question).await {
            Ok(answer) => return answer,
            Err(AskError::Interrupted) => {}
            Err(why) => return Err(Error::failed_for_now("make a volume", &why)),
        }
    }
}

/// How often an anonymous volume's removal is tried, with growing pauses: about two minutes in all.
const RELEASE_TRIES: u32 = 30;

/// Removes an anonymous volume of a container that is gone, whatever happens meanwhile; the handle is for those who
/// want to wait for it.
pub(crate) fn release(
    context: &Context,
    name: String,
    owner: ContainerId,
) -> tokio::task::JoinHandle<()> {
    let context = context.clone();
    tokio::spawn(async move {
        for tries in 0..RELEASE_TRIES {
            let question = |reply| Message::RemoveAnonymous(name.clone(), owner, reply);
            match context.addresses().volumes.ask(DEADLINE, question).await {
                Ok(Ok(())) => return,
                Ok(Err(why)) => tracing::warn!(%why, name, tries, "cannot remove a volume yet"),
                Err(AskError::Interrupted) => continue,
                Err(why) => tracing::warn!(%why, name, tries, "cannot remove a volume yet"),
            }
            let pause = std::time::Duration::from_millis(50 << tries.min(7));
            tokio::time::sleep(pause).await;
        }
    })
}

/// Size of a volume's disk.
const CAPACITY: u64 = 1 << 30;

/// What the volumes' actor can be asked.
#[derive(Debug)]
pub enum Message {
    /// Makes a volume, or gives the one of that name.
    Create(VolumeSpec, RpcReplyPort<Result<Arc<VolumeSnapshot>, Error>>),
    /// Removes a volume that no container has.
    Remove(String, bool, RpcReplyPort<Result<(), Error>>),
    /// Removes an anonymous volume of a container that is gone, unless another has it.
    RemoveAnonymous(String, ContainerId, RpcReplyPort<Result<(), Error>>),
    /// Internal: a piece of work ended.
    #[doc(hidden)]
    Done(Done),
    /// Internal: for the volumes.
    #[doc(hidden)]
    Child(SupervisorMessage),
}

/// How a piece of work ended.
#[doc(hidden)]
#[derive(Debug)]
pub enum Done {
    /// A volume's disk is there, or not.
    Created(Box<VolumeSnapshot>, Result<(), Error>),
    /// A volume's disk is gone, or not.
    Removed(String, Result<(), Error>),
}

/// The volumes' actor: one piece of work at a time per volume. What a crash loses: nothing that was answered; a disk
/// that was being made or deleted is deleted.
#[derive(Debug)]
pub struct Volumes;

type Waiting<T> = Vec<RpcReplyPort<Result<T, Error>>>;

/// The running actor.
#[derive(Debug)]
pub struct State {
    context: Context,
    known: BTreeMap<String, Arc<VolumeSnapshot>>,
    creating: BTreeMap<String, Waiting<Arc<VolumeSnapshot>>>,
    removing: BTreeMap<String, Waiting<()>>,
    /// Creations of volumes that are being removed.
    later: Vec<(String, Message)>,
    /// Disks that an earlier life has left and that could not be deleted yet.
    left: Vec<String>,
    addresses: BTreeMap<String, Address<actor::Message>>,
    children: Nursery,
    document: Document,
    tasks: JoinSet<()>,
}

/// How long a volume's disk may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(600);

/// What the document on the datastore holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    volumes: Vec<VolumeSnapshot>,
    /// Disks that were being made or deleted.
    #[serde(default)]
    unfinished: Vec<String>,
}

impl Actor for Volumes {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        let path = context.settings().state_path("volumes.json");
        let (document, content): (_, Content) =
            Document::read(context.vsphere(), path, context.writer()).await?;
        let mut known = BTreeMap::new();
        for volume in content.volumes {
            known.insert(volume.name.clone(), Arc::new(volume));
        }
        let left = finish(&context, &known, content.unfinished).await;
        let (policy, tree) = (context.policy(), context.tree().clone());
        let mut state = State {
            context,
            known,
            creating: BTreeMap::new(),
            removing: BTreeMap::new(),
            later: Vec::new(),
            left,
            addresses: BTreeMap::new(),
            children: Nursery::new("vch/volumes", policy, &tree, &myself, Message::Child),
            document,
            tasks: JoinSet::new(),
        };
        let known: Vec<_> = state.known.values().cloned().collect();
        let specs = known.into_iter().map(|v| state.child(v, true)).collect();
        state.children.start(specs).await?;
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
            Message::Create(spec, reply) => state.create(&myself, spec, reply).await,
            Message::Remove(name, force, reply) => {
                state.remove(&myself, name, force, reply).await;
            }
            Message::RemoveAnonymous(name, owner, reply) => {
                let users = state.context.snapshots().users_of_volume(&name);
                let unused = users.iter().all(|u| *u == owner);
                if unused && state.known.contains_key(&name) {
                    state.delete(&myself, &name, vec![reply]).await;
                } else {
                    let _ = reply.send(Ok(()));
                }
            }
            Message::Done(Done::Created(volume, result)) => state.created(*volume, result).await,
            Message::Done(Done::Removed(name, result)) => {
                state.removed(&myself, &name, result).await;
            }
            Message::Child(message) => return state.children.handle(message).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.children.event(event).await.map(|_| ())
    }
}

impl State {
    /// A volume's specification; its address is entered.
    fn child(&mut self, volume: Arc<VolumeSnapshot>, present: bool) -> ChildSpec {
        let name = volume.name.clone();
        let address = Address::default();
        self.addresses.insert(name.clone(), address.clone());
        let args = actor::Args {
            context: self.context.clone(),
            volume,
            present: Arc::new(present.into()),
        };
        let make = move || (actor::Volume, args.clone());
        ChildSpec::new(name, Restart::Permanent, address, make)
            .kind("volume")
            .at_once()
    }

    async fn create(
        &mut self,
        myself: &ActorRef<Message>,
        spec: VolumeSpec,
        reply: RpcReplyPort<Result<Arc<VolumeSnapshot>, Error>>,
    ) {
        if let Some(name) = &spec.name
            && self.removing.contains_key(name)
        {
            self.later
                .push((name.clone(), Message::Create(spec, reply)));
            return;
        }
        let anonymous = spec.anonymous || spec.name.is_none();
        let name = spec
            .name
            .unwrap_or_else(|| ContainerId::random().to_string());
        let driver = if spec.driver.is_empty() {
            "local".to_owned()
        } else {
            spec.driver
        };
        let answer = match (self.known.get(&name), &self.context.settings().volume_store) {
            (Some(old), _) if old.driver != driver => Some(Err(Error::Conflict(format!(
                "create {name}: conflict: volume name must be unique"
            )))),
            (Some(old), _) => Some(Ok(old.clone())),
            (None, _) if !is_name(&name) => Some(Err(Error::Invalid(bad_name(&name)))),
            (None, None) => {
                let why = "this host has no default volume store";
                Some(Err(Error::Invalid(format!("create {name}: {why}"))))
            }
            (None, Some(_)) => None,
        };
        if let Some(answer) = answer {
            let _ = reply.send(answer);
            return;
        }
        let waiting = self.creating.entry(name.clone()).or_default();
        waiting.push(reply);
        if waiting.len() > 1 {
            return;
        }
        let volume = VolumeSnapshot {
            path: disk(&self.context, &name).unwrap_or_default(),
            name,
            driver,
            labels: spec.labels,
            options: spec.options,
            created: OffsetDateTime::now_utc(),
            anonymous,
            capacity: CAPACITY,
        };
        if let Err(why) = self.save().await {
            self.answer_creators(&volume.name, &Err(why));
            return;
        }
        let child = self.child(Arc::new(volume.clone()), false);
        let address = self.addresses.get(&volume.name).cloned();
        self.children.add(child, None);
        let me = myself.clone();
        self.tasks.spawn(async move {
            let result = ask(address, "make a volume", actor::Message::Make).await;
            let _ = me.send_message(Message::Done(Done::Created(Box::new(volume), result)));
        });
    }

    async fn created(&mut self, volume: VolumeSnapshot, result: Result<(), Error>) {
        let name = volume.name.clone();
        let volume = Arc::new(volume);
        let mut answer = result.map(|()| volume.clone());
        if answer.is_ok() {
            self.known.insert(name.clone(), volume.clone());
            if let Err(why) = self.save().await {
                self.known.remove(&name);
                answer = Err(why);
            }
        }
        if answer.is_ok() {
            self.context.snapshots().put_volume(volume.clone());
            self.emit("create", &volume);
        } else {
            self.forget(&name).await;
        }
        self.answer_creators(&name, &answer);
    }

    fn answer_creators(&mut self, name: &str, answer: &Result<Arc<VolumeSnapshot>, Error>) {
        for reply in self.creating.remove(name).unwrap_or_default() {
            // The asker may have left.
            let _ = reply.send(answer.clone());
        }
    }

    async fn remove(
        &mut self,
        myself: &ActorRef<Message>,
        name: String,
        force: bool,
        reply: RpcReplyPort<Result<(), Error>>,
    ) {
        if !self.known.contains_key(&name) {
            let _ = reply.send(if force {
                Ok(())
            } else {
                Err(Error::NoSuchVolume(name))
            });
            return;
        }
        let users = self.context.snapshots().users_of_volume(&name);
        if users.is_empty() {
            self.delete(myself, &name, vec![reply]).await;
            return;
        }
        let users: Vec<_> = users.iter().map(ToString::to_string).collect();
        let text = format!("remove {name}: volume is in use - [{}]", users.join(", "));
        let _ = reply.send(Err(Error::Conflict(text)));
    }

    async fn delete(&mut self, myself: &ActorRef<Message>, name: &str, replies: Waiting<()>) {
        let Some(volume) = self.known.get(name).cloned() else {
            return;
        };
        let waiting = self.removing.entry(name.to_owned()).or_default();
        let first = waiting.is_empty();
        waiting.extend(replies);
        if !first {
            return;
        }
        if let Err(why) = self.save().await {
            self.answer_removers(myself, name, &Err(why));
            return;
        }
        let address = self.addresses.get(&volume.name).cloned();
        let (me, name) = (myself.clone(), name.to_owned());
        self.tasks.spawn(async move {
            let result = ask(address, "remove a volume", actor::Message::Delete).await;
            let _ = me.send_message(Message::Done(Done::Removed(name, result)));
        });
    }

    /// Ends a volume's actor.
    async fn forget(&mut self, name: &str) {
        self.addresses.remove(name);
        self.children.remove(name).await;
    }

    async fn removed(&mut self, myself: &ActorRef<Message>, name: &str, result: Result<(), Error>) {
        // The document has not named it as a volume since before its disk was touched.
        if result.is_ok()
            && let Some(volume) = self.known.remove(name)
        {
            self.forget(name).await;
            self.context.snapshots().remove_volume(name);
            self.emit("destroy", &volume);
        }
        let failed = result.is_err();
        self.answer_removers(myself, name, &result);
        if failed && let Err(why) = self.save().await {
            tracing::warn!(%why, name, "a volume that could not be removed is not in the document");
        }
    }

    fn answer_removers(
        &mut self,
        myself: &ActorRef<Message>,
        name: &str,
        answer: &Result<(), Error>,
    ) {
        for reply in self.removing.remove(name).unwrap_or_default() {
            // The asker may have left.
            let _ = reply.send(answer.clone());
        }
        for (wanted, question) in std::mem::take(&mut self.later) {
            if wanted == name {
                let _ = myself.send_message(question);
            } else {
                self.later.push((wanted, question));
            }
        }
    }

    /// Writes the document: volumes that are there for good, and disks that are being made or deleted.
    async fn save(&mut self) -> Result<(), Error> {
        let stays = |v: &&Arc<VolumeSnapshot>| !self.removing.contains_key(&v.name);
        let volumes: Vec<VolumeSnapshot> = self
            .known
            .values()
            .filter(stays)
            .map(|v| (**v).clone())
            .collect();
        let making = self
            .creating
            .keys()
            .filter(|name| !self.known.contains_key(*name))
            .filter_map(|name| disk(&self.context, name));
        let going = self.removing.keys().filter_map(|n| self.known.get(n));
        let mut unfinished: Vec<String> = making.chain(going.map(|v| v.path.clone())).collect();
        unfinished.extend(self.left.iter().cloned());
        let content = Content {
            volumes,
            unfinished,
        };
        self.document.write(&content).await
    }

    fn emit(&self, action: &str, volume: &VolumeSnapshot) {
        self.context.emit(events::Event {
            kind: EventKind::Volume,
            action: action.to_owned(),
            id: volume.name.clone(),
            attributes: BTreeMap::from([("driver".to_owned(), volume.driver.clone())]),
            time: OffsetDateTime::now_utc(),
        });
    }
}

/// The disk of the volume of this name as a datastore path; none where there is no volume store.
fn disk(context: &Context, name: &str) -> Option<String> {
    let (datastore, folder) = context.settings().volume_store.as_ref()?;
    Some(format!("[{datastore}] {folder}/{name}/{name}.vmdk"))
}

/// Deletes the disks that an earlier life was making or deleting, and takes volumes that went with it off the shelf;
/// gives the disks that could not be deleted.
async fn finish(
    context: &Context,
    known: &BTreeMap<String, Arc<VolumeSnapshot>>,
    unfinished: Vec<String>,
) -> Vec<String> {
    let mut left = Vec::new();
    for path in unfinished {
        if known.values().any(|v| v.path == path) {
            continue;
        }
        if let Err(why) = actor::delete(context, &path).await {
            tracing::warn!(%why, path, "cannot delete what is left of a volume");
            left.push(path);
        }
    }
    for old in context.snapshots().volumes() {
        if !known.contains_key(&old.name) {
            context.snapshots().remove_volume(&old.name);
        }
    }
    left
}

/// Asks a volume's actor for a piece of work, which does no harm twice: one that dies with it has a successor.
async fn ask(
    address: Option<Address<actor::Message>>,
    tried: &'static str,
    question: fn(RpcReplyPort<Result<(), Error>>) -> actor::Message,
) -> Result<(), Error> {
    let address = address.ok_or_else(|| Error::internal(tried, "it has no actor"))?;
    loop {
        match address.ask(DEADLINE, question).await {
            Ok(answer) => return answer,
            Err(AskError::Interrupted) => {}
            Err(why) => return Err(Error::failed_for_now(tried, &why)),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() > 1
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn bad_name(name: &str) -> String {
    if name.len() < 2 {
        return "volume name is too short, names should be at least two alphanumeric characters"
            .into();
    }
    format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )
}
