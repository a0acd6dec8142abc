//! The appliance: our own VM, and the disks that are hot-added to it.
//!
//! ```text
//!  Attach: slot leased ── added ──▶ held ── End, holder gone, deadline ──▶ unmounted ── removed ──▶ slot free
//! ```
//! One reconfigure is in flight; what is asked meanwhile goes into the next one together. Leases outlive the actor: at its
//! start every disk and mount that no lease names is let go, and at the program's start there are no leases. What a crash
//! loses: requests in flight; a disk that was being added for one is let go.

mod devices;
pub mod slots;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::AskError;
use tether_protocol::config::Slot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vmomi::types::VirtualMachineConfigSpec;

use self::devices::{Devices, add, remove};
use self::slots::Slots;
use crate::context::Context;
use crate::error::Error;

/// A disk to be hot-added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its datastore path.
    pub path: String,
    /// The parent of a new child disk.
    pub parent: Option<String>,
    /// Capacity of a new disk in bytes; none: the disk is there already.
    pub create: Option<u64>,
}

/// What the appliance can be asked.
#[derive(Debug)]
pub enum Message {
    /// Hot-adds a disk; waits while all slots are leased.
    Attach(Disk, RpcReplyPort<Result<Lease, Error>>),
    /// Removes the disk of a lease; the file stays. A lease that is over is fine.
    End(u64, RpcReplyPort<Result<(), Error>>),
    /// Answers when no slot has a disk of this path.
    Settle(String, RpcReplyPort<()>),
    /// Looks at our own VM's disks and lets those go that nobody has leased, as soon as no reconfigure is under way: one
    /// that an earlier actor had asked for may have ended after its successor's look.
    Look(RpcReplyPort<()>),
    /// Some leases are over: their holders are gone, or their time is.
    Overdue,
    /// Gives the datastore path of the blank formatted disk of this size, made at its first use.
    Blank(u64, RpcReplyPort<Result<String, Error>>),
    /// Internal: a reconfigure ended.
    #[doc(hidden)]
    Reconfigured(Result<(), Error>),
    /// Internal: a disk that is let go is not mounted any more, or cannot be unmounted yet.
    #[doc(hidden)]
    Unmounted(u64, bool),
    /// Internal: a blank disk is there, or not.
    #[doc(hidden)]
    BlankDone(u64, Result<String, Error>),
}

/// A slot of the appliance with a disk in it. Dropped without [`Lease::end`], it is unmounted and let go.
#[derive(Debug)]
pub struct Lease {
    context: Context,
    number: u64,
    slot: Slot,
}

impl Lease {
    /// The slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Gives the slot back; the disk must not be mounted any more.
    ///
    /// # Errors
    /// vSphere's; the disk is then let go later.
    ///
    /// # Cancel safety
    /// Dropping the future lets the disk go later.
    pub async fn end(self) -> Result<(), Error> {
        loop {
            let appliance = &self.context.addresses().appliance;
            let question = |reply| Message::End(self.number, reply);
            match appliance.ask(DEADLINE, question).await {
                // The disk is gone when the next one has started, or is removed by it.
                Err(AskError::Interrupted) => {}
                Ok(answer) => return answer,
                Err(why) => return Err(Error::failed_for_now("detach a disk", &why)),
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let leases = self.context.leases();
        if leases.lock().find(self.number).is_some() {
            leases.lock().give_up(self.number);
            // An appliance that is down looks at its start.
            self.context.addresses().appliance.tell(Message::Overdue);
        }
    }
}

/// The leases of all slots. They outlive the appliance's actor.
#[derive(Debug)]
pub struct Leases {
    slots: Mutex<Slots>,
    epoch: Instant,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            epoch: Instant::now(),
        }
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// The appliance actor.
#[derive(Debug)]
pub struct Appliance;

#[derive(Debug)]
enum Change {
    Attach(Disk, u64, RpcReplyPort<Result<Lease, Error>>),
    Detach(u64, Vec<RpcReplyPort<Result<(), Error>>>),
}

/// The running actor.
#[derive(Debug)]
pub struct State {
    context: Context,
    controller: i32,
    queued: Vec<Change>,
    /// Wait for a slot.
    waiting: VecDeque<(Disk, RpcReplyPort<Result<Lease, Error>>)>,
    in_flight: Vec<Change>,
    /// Leases that are being unmounted.
    letting_go: Vec<u64>,
    settling: Vec<(String, RpcReplyPort<()>)>,
    /// Wait for a look at the disks.
    looks: Vec<RpcReplyPort<()>>,
    blanks: BTreeMap<u64, String>,
    blank_waiting: BTreeMap<u64, Vec<RpcReplyPort<Result<String, Error>>>>,
    tasks: JoinSet<()>,
}

/// How long a hot-add may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a lease lasts at most: as long as the largest layer may take.
pub const LEASE: Duration = Duration::from_secs(3600);

/// How long a disk that was let go may take to be off.
const SETTLE: Duration = Duration::from_secs(600);

/// How long the unmounting of a disk that is let go is tried at a stretch: whoever wrote to it may still have files open.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// Wait between two tries.
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

/// The blank formatted disk of this size.
///
/// # Errors
/// vSphere's.
pub async fn blank_disk(context: &Context, bytes: u64) -> Result<String, Error> {
    loop {
        let appliance = &context.addresses().appliance;
        match appliance.ask(DEADLINE, |r| Message::Blank(bytes, r)).await {
            Err(AskError::Interrupted) => {}
            Ok(answer) => return answer,
            Err(why) => return Err(Error::failed_for_now("make a blank disk", &why)),
        }
    }
}

/// Hot-adds a disk to our own VM. What an earlier holder of the same disk has left is let go first, and then deleted if
/// the disk is to be made anew.
///
/// # Errors
/// vSphere's.
pub async fn attach(context: &Context, disk: Disk) -> Result<Lease, Error> {
    let appliance = &context.addresses().appliance;
    let mut refused = false;
    loop {
        if disk.create.is_some() {
            delete(context, &disk.path).await?;
        } else {
            settle(context, &disk.path).await?;
        }
        let wanted = disk.clone();
        match appliance.ask(LEASE, |r| Message::Attach(wanted, r)).await {
            Err(AskError::Interrupted) => {}
            // Something may have been in its slot that is let go now.
            Ok(Err(why)) if !refused => {
                tracing::warn!(path = disk.path, %why, "a disk was not attached, once more");
                refused = true;
            }
            Ok(answer) => return answer,
            Err(why) => return Err(Error::failed_for_now("attach a disk", &why)),
        }
    }
}

/// How often a disk that cannot be deleted is looked for in our slots.
const LOOKS: u32 = 3;

/// Deletes a disk that may be in one of our slots, as soon as it is let go.
///
/// # Errors
/// vSphere's.
pub async fn delete(context: &Context, path: &str) -> Result<(), Error> {
    let mut looks = 0;
    loop {
        settle(context, path).await?;
        let why = match context.vsphere().delete_disk(path).await {
            Err(why) if looks < LOOKS => why,
            deleted => return deleted,
        };
        tracing::info!(path, %why, "a disk cannot be deleted: is it in a slot?");
        looks += 1;
        // One that dies with the question looks at its successor's start.
        let _ = context
            .addresses()
            .appliance
            .ask(DEADLINE, Message::Look)
            .await;
    }
}

/// Waits until no slot has a disk of this path.
///
/// # Errors
/// When it is not let go in time.
pub async fn settle(context: &Context, path: &str) -> Result<(), Error> {
    let appliance = &context.addresses().appliance;
    loop {
        let path = path.to_owned();
        match appliance.ask(SETTLE, |r| Message::Settle(path, r)).await {
            Err(AskError::Interrupted) => {}
            settled => {
                return settled.map_err(|why| Error::failed_for_now("let a disk go", &why));
            }
        }
    }
}

impl Actor for Appliance {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            context,
            controller: 1000,
            queued: vec![],
            waiting: VecDeque::new(),
            in_flight: vec![],
            letting_go: vec![],
            settling: vec![],
            looks: vec![],
            blanks: BTreeMap::new(),
            blank_waiting: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        state.look_and_let_go().await?;
        myself.send_message(Message::Overdue)?;
        // The deadlines of leases that are older than this actor.
        myself.send_after(LEASE, || Message::Overdue);
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
            Message::Attach(disk, reply) => state.waiting.push_back((disk, reply)),
            Message::End(lease, reply) => state.end(lease, vec![reply]),
            Message::Settle(path, reply) => state.settling.push((path, reply)),
            Message::Look(reply) => state.looks.push(reply),
            Message::Overdue => state.let_go(&myself),
            Message::Unmounted(lease, done) => {
                state.letting_go.retain(|l| *l != lease);
                if done {
                    state.end(lease, vec![]);
                } else {
                    myself.send_after(UNMOUNT_PATIENCE, || Message::Overdue);
                }
            }
            Message::Blank(bytes, reply) => state.blank(&myself, bytes, reply),
            Message::Reconfigured(result) => state.reconfigured(&myself, result).await?,
            Message::BlankDone(bytes, result) => {
                if let Ok(path) = &result {
                    state.blanks.insert(bytes, path.clone());
                }
                for reply in state.blank_waiting.remove(&bytes).unwrap_or_default() {
                    let _ = reply.send(result.clone());
                }
            }
        }
        if state.in_flight.is_empty() && !state.looks.is_empty() {
            state.look_and_let_go().await?;
            for reply in state.looks.drain(..) {
                // The asker may have left.
                let _ = reply.send(());
            }
        }
        state.pump(&myself);
        state.settle();
        Ok(())
    }
}

impl State {
    /// Our own VM's disks and mounts: those that no lease names are let go. Only while no reconfigure is under way.
    async fn look_and_let_go(&mut self) -> Result<(), Error> {
        let Some(vm) = self.context.settings().own_vm.clone() else {
            return Ok(());
        };
        let devices = Devices::read(&self.context).await?;
        self.controller = devices.controller().unwrap_or(self.controller);
        let settings = self.context.settings();
        let mut ours = vec![format!("{}/", settings.image_folder)];
        ours.extend(settings.volume_store.iter().map(|(_, f)| format!("{f}/")));
        let is_ours = |path: &str| {
            let file = path.split_once("] ").map_or(path, |(_, file)| file);
            ours.iter().any(|folder| file.starts_with(folder.as_str()))
        };
        let disks: Vec<_> = devices
            .disks()
            .map(|(unit, key, path)| {
                let ours = is_ours(&path);
                (unit, key, path, ours)
            })
            .collect();
        let (strangers, leased) = {
            let mut slots = self.context.leases().lock();
            (slots.seen(&disks), slots.leased())
        };
        for slot in self.context.disks().mounted().await {
            if !leased.contains(&slot)
                && let Err(why) = self.context.disks().unmount(slot).await
            {
                tracing::warn!(%slot, %why, "a mount that nobody knows stays");
            }
        }
        for (slot, _) in &strangers {
            tracing::info!(%slot, "letting a disk go that nobody knows");
        }
        if strangers.is_empty() {
            return Ok(());
        }
        let spec = VirtualMachineConfigSpec {
            device_change: strangers.iter().map(|(_, key)| remove(*key)).collect(),
            ..Default::default()
        };
        self.context.vsphere().reconfigure(&vm.value, spec).await
    }

    /// Unmounts the disks whose leases are over.
    fn let_go(&mut self, myself: &ActorRef<Message>) {
        let leases = self.context.leases();
        let overdue = leases.lock().overdue(leases.now());
        for lease in overdue {
            let ending = self
                .queued
                .iter()
                .chain(&self.in_flight)
                .any(|change| matches!(change, Change::Detach(l, _) if *l == lease));
            let Some((slot, held)) = leases.lock().find(lease).map(|(s, h)| (s, h.clone())) else {
                continue;
            };
            if ending || self.letting_go.contains(&lease) {
                continue;
            }
            tracing::info!(%slot, path = held.path, "a lease is over without its holder's word");
            self.letting_go.push(lease);
            let (context, me) = (self.context.clone(), myself.clone());
            self.tasks.spawn(async move {
                let until = Instant::now() + UNMOUNT_PATIENCE;
                let done = loop {
                    match context.disks().unmount(slot).await {
                        Ok(()) => break true,
                        Err(why) if Instant::now() >= until => {
                            tracing::warn!(%slot, %why, "cannot let a disk go yet");
                            break false;
                        }
                        Err(_) => tokio::time::sleep(UNMOUNT_PAUSE).await,
                    }
                };
                let _ = me.send_message(Message::Unmounted(lease, done));
            });
        }
    }

    /// Queues the removal of a lease's disk.
    fn end(&mut self, lease: u64, replies: Vec<RpcReplyPort<Result<(), Error>>>) {
        for change in self.queued.iter_mut().chain(&mut self.in_flight) {
            if let Change::Detach(l, waiting) = change
                && *l == lease
            {
                waiting.extend(replies);
                return;
            }
        }
        if self.context.leases().lock().find(lease).is_some() {
            self.queued.push(Change::Detach(lease, replies));
            return;
        }
        for reply in replies {
            let _ = reply.send(Ok(()));
        }
    }

    /// Sends what is queued as one reconfigure, unless one is in flight.
    fn pump(&mut self, myself: &ActorRef<Message>) {
        if !self.in_flight.is_empty() {
            return;
        }
        let leases = self.context.leases().clone();
        while let Some((disk, reply)) = self.waiting.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let given = leases.lock().lease(&disk.path, leases.now() + LEASE);
            match given {
                Some((lease, _)) => {
                    self.queued.push(Change::Attach(disk, lease, reply));
                    myself.send_after(LEASE, || Message::Overdue);
                }
                // All slots are leased: wait for one to come back.
                None => {
                    self.waiting.push_front((disk, reply));
                    break;
                }
            }
        }
        if self.queued.is_empty() {
            return;
        }
        self.in_flight = std::mem::take(&mut self.queued);
        // Removals first: the slots they free are not the ones that are filled.
        self.in_flight
            .sort_by_key(|c| matches!(c, Change::Attach(..)));
        let device_change = {
            let slots = leases.lock();
            let change = |change: &Change| match change {
                Change::Attach(disk, lease, _) => {
                    Some(add(disk, slots.find(*lease)?.0, self.controller))
                }
                Change::Detach(lease, _) => Some(remove(slots.find(*lease)?.1.key?)),
            };
            self.in_flight.iter().filter_map(change).collect()
        };
        let spec = VirtualMachineConfigSpec {
            device_change,
            ..Default::default()
        };
        let (context, me) = (self.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let result = match &context.settings().own_vm {
                Some(vm) => context.vsphere().reconfigure(&vm.value, spec).await,
                None => Err(Error::internal(
                    "attach a disk",
                    "this program runs in no VM",
                )),
            };
            let _ = me.send_message(Message::Reconfigured(result));
        });
    }

    /// A reconfigure has ended. What is true now, the VM's devices tell: a failed one may have been carried out.
    async fn reconfigured(
        &mut self,
        myself: &ActorRef<Message>,
        result: Result<(), Error>,
    ) -> Result<(), Error> {
        let devices = Devices::read(&self.context).await?;
        let disks: Vec<_> = devices.disks().collect();
        let there = |lease: u64| {
            let leases = self.context.leases().lock();
            let (slot, held) = leases.find(lease)?;
            disks
                .iter()
                .find(|(unit, _, path)| *unit == slot.unit && *path == held.path)
                .map(|(_, key, _)| (slot, *key))
        };
        let changes: Vec<_> = std::mem::take(&mut self.in_flight)
            .into_iter()
            .map(|change| {
                let lease = match &change {
                    Change::Attach(_, lease, _) | Change::Detach(lease, _) => *lease,
                };
                (there(lease), change)
            })
            .collect();
        let mut strangers = false;
        let leases = self.context.leases().clone();
        for (there, change) in changes {
            match (there, change) {
                (Some((slot, key)), Change::Attach(_, lease, reply)) => {
                    leases.lock().added(lease, key);
                    let lease = Lease {
                        context: self.context.clone(),
                        number: lease,
                        slot,
                    };
                    // Of an asker who has left, the lease drops and the disk is let go.
                    let _ = reply.send(Ok(lease));
                }
                (None, Change::Attach(_, lease, reply)) => {
                    strangers |= result.is_err();
                    leases.lock().free(lease);
                    let missing = || Error::internal("attach a disk", "it is not there");
                    let _ = reply.send(Err(result.clone().err().unwrap_or_else(missing)));
                }
                (None, Change::Detach(lease, replies)) => {
                    leases.lock().free(lease);
                    for reply in replies {
                        let _ = reply.send(Ok(()));
                    }
                }
                (Some(_), Change::Detach(lease, replies)) => {
                    // It is tried again until it is gone.
                    leases.lock().give_up(lease);
                    myself.send_after(UNMOUNT_PATIENCE, || Message::Overdue);
                    let why = result.clone().err();
                    let why =
                        why.unwrap_or_else(|| Error::internal("detach a disk", "it is there"));
                    for reply in replies {
                        let _ = reply.send(Err(why.clone()));
                    }
                }
            }
        }
        if strangers {
            // A disk may be there whose addition we were told had failed.
            self.look_and_let_go().await?;
        }
        Ok(())
    }

    /// Answers those whose disk is in no slot any more.
    fn settle(&mut self) {
        let slots = self.context.leases().lock();
        for (path, reply) in std::mem::take(&mut self.settling) {
            if slots.has(&path) {
                self.settling.push((path, reply));
            } else {
                let _ = reply.send(());
            }
        }
    }

    fn blank(
        &mut self,
        myself: &ActorRef<Message>,
        bytes: u64,
        reply: RpcReplyPort<Result<String, Error>>,
    ) {
        if let Some(path) = self.blanks.get(&bytes) {
            let _ = reply.send(Ok(path.clone()));
            return;
        }
        let waiting = self.blank_waiting.entry(bytes).or_default();
        waiting.push(reply);
        if waiting.len() > 1 {
            return;
        }
        let (context, me) = (self.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let result = make_blank(&context, bytes).await;
            let _ = me.send_message(Message::BlankDone(bytes, result));
        });
    }
}

/// Makes the blank disk of a size, unless its marker says that it is there.
async fn make_blank(context: &Context, bytes: u64) -> Result<String, Error> {
    let settings = context.settings();
    let path = settings.image_path(&format!("scratch/scratch-{bytes}.vmdk"));
    let marker = settings.image_path(&format!("scratch/scratch-{bytes}.json"));
    let vsphere = context.vsphere();
    if vsphere.read_file(&marker).await?.is_some() {
        return Ok(path);
    }
    vsphere
        .make_directory(&settings.image_path("scratch"))
        .await?;
    let disk = Disk {
        path: path.clone(),
        parent: None,
        create: Some(bytes),
    };
    let lease = attach(context, disk).await?;
    let formatted = context.disks().format(lease.slot()).await;
    let detached = lease.end().await;
    formatted.map_err(|why| Error::failed("format a disk", &why))?;
    detached?;
    vsphere
        .write_file(&marker, bytes::Bytes::from_static(b"{}"))
        .await?;
    Ok(path)
}
