//! A layer: one disk of an image's chain, written once.
//!
//! ```text
//!  absent ── Ensure ──▶ fetching ── parent present ──▶ writing ── digest right ──▶ present
//!     ▲                    │ error                        │ error, crash
//!     └────────────────────┴──────────────────────────────┘   (the marker is written last: nothing half-present)
//!  present ── Forget, nobody needs it ──▶ deleting ──▶ absent   (an Ensure meanwhile waits, and writes it anew)
//! ```
//! What a crash loses: the download and the disk that was being written; the next Ensure starts over. A deletion is
//! asked for again by the one who asked.

use std::sync::Arc;
use std::time::Duration;

use imagec::{Fetch, FetchEvent, Layer, Spool};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use strategy::Address;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Progress, disk_path};
use crate::appliance::{self, Disk};
use crate::context::Context;
use crate::error::Error;

/// How long a layer may take in all.
const DEADLINE: Duration = Duration::from_secs(3600);

/// How long somebody may wait for a layer that nobody writes yet: the questions of one transfer have no order.
const EARLY: Duration = Duration::from_secs(5);

/// What a layer can be asked.
#[derive(Debug)]
pub enum Message {
    /// Makes the layer present, unless it is; answers with its size. Everybody who asks meanwhile waits for the same
    /// writer and sees its progress.
    Ensure(Box<Job>, RpcReplyPort<Result<u64, Error>>),
    /// Answers when the layer is present, or why it is not.
    Await(RpcReplyPort<Result<u64, Error>>),
    /// Deletes the layer, or what a failure left of it, unless somebody needs it. Answers when it is gone.
    Forget(RpcReplyPort<Result<(), Error>>),
    /// Internal: the work ended.
    #[doc(hidden)]
    Done(Result<u64, Error>),
    /// Internal: nobody has come to write what is awaited.
    #[doc(hidden)]
    GiveUp,
    /// Internal: the deletion ended.
    #[doc(hidden)]
    Deleted(Result<(), Error>),
    /// Internal: progress.
    #[doc(hidden)]
    Progress(Progress),
}

/// How to make a layer present.
pub struct Job {
    /// Where its blob comes from, and its digests.
    pub layer: Layer,
    /// The layer below: its chain id and address; none: the blank disk.
    pub parent: Option<(String, Address<Message>)>,
    /// Where blobs are kept until their turn.
    pub spool: Spool,
    /// Who watches.
    pub watcher: mpsc::UnboundedSender<Progress>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({})", self.layer.diff_id)
    }
}

/// The marker that makes a layer present.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    chain_id: String,
    diff_id: String,
    parent: Option<String>,
    size: u64,
}

/// The layer actor.
#[derive(Debug)]
pub struct LayerActor;

/// What it is started with: the chain id in hex.
#[derive(Debug, Clone)]
pub struct Args {
    /// What all share.
    pub context: Context,
    /// The chain id, 64 hex digits.
    pub chain: String,
}

/// An Ensure with its port.
type Asked = (Box<Job>, RpcReplyPort<Result<u64, Error>>);

/// A running layer actor.
#[derive(Debug)]
pub struct State {
    args: Args,
    present: Option<u64>,
    busy: bool,
    /// Who waits for the deletion that is under way; empty: there is none.
    deleting: Vec<RpcReplyPort<Result<(), Error>>>,
    /// What came while the layer was being deleted.
    later: Vec<Asked>,
    waiting: Vec<RpcReplyPort<Result<u64, Error>>>,
    /// Who waits although nobody writes it yet.
    early: Vec<RpcReplyPort<Result<u64, Error>>>,
    watchers: Vec<mpsc::UnboundedSender<Progress>>,
    tasks: JoinSet<()>,
}

fn marker_path(context: &Context, chain: &str) -> String {
    context
        .settings()
        .image_path(&format!("{chain}/layer.json"))
}

impl Actor for LayerActor {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let marker = args
            .context
            .vsphere()
            .read_file(&marker_path(&args.context, &args.chain))
            .await?;
        let marker = marker.and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).ok());
        Ok(State {
            present: marker.map(|m| m.size),
            args,
            busy: false,
            deleting: vec![],
            later: vec![],
            waiting: vec![],
            early: vec![],
            watchers: vec![],
            tasks: JoinSet::new(),
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
            Message::Ensure(job, reply) if !state.deleting.is_empty() => {
                state.later.push((job, reply));
            }
            Message::Ensure(job, reply) => state.ensure(&myself, job, reply),
            Message::Forget(reply) => state.forget(&myself, reply),
            Message::Deleted(result) => {
                for reply in state.deleting.drain(..) {
                    let _ = reply.send(result.clone());
                }
                for (job, reply) in std::mem::take(&mut state.later) {
                    state.ensure(&myself, job, reply);
                }
            }
            Message::Await(reply) => match (state.present, state.busy || !state.later.is_empty()) {
                (Some(size), _) => {
                    let _ = reply.send(Ok(size));
                }
                (None, true) => state.waiting.push(reply),
                // Its own Ensure is on its way, or died with the transfer.
                (None, false) => {
                    state.early.push(reply);
                    myself.send_after(EARLY, || Message::GiveUp);
                }
            },
            Message::GiveUp => {
                for reply in state.early.drain(..) {
                    let why = "the layer below was not written";
                    let _ = reply.send(Err(Error::internal("write a layer", why)));
                }
            }
            Message::Done(result) => {
                state.busy = false;
                state.present = result.as_ref().ok().copied();
                state.watchers.clear();
                for reply in state.waiting.drain(..) {
                    let _ = reply.send(result.clone());
                }
                // Those for whom it was written may be gone.
                super::forget_layers(&state.args.context, vec![state.args.chain.clone()]);
            }
            Message::Progress(step) => state.watchers.retain(|w| w.send(step.clone()).is_ok()),
        }
        Ok(())
    }
}

impl State {
    fn ensure(
        &mut self,
        myself: &ActorRef<Message>,
        job: Box<Job>,
        reply: RpcReplyPort<Result<u64, Error>>,
    ) {
        self.waiting.append(&mut self.early);
        if let Some(size) = self.present {
            for reply in self.waiting.drain(..) {
                let _ = reply.send(Ok(size));
            }
            let id = short(&job.layer);
            let status = "Already exists".to_owned();
            // Watchers may leave.
            let _ = job.watcher.send(Progress::Status { id, status });
            let _ = reply.send(Ok(size));
            return;
        }
        self.waiting.push(reply);
        self.watchers.push(job.watcher.clone());
        if !std::mem::replace(&mut self.busy, true) {
            let (args, me) = (self.args.clone(), myself.clone());
            self.tasks.spawn(async move {
                let done = write(&args, *job, &me).await;
                let _ = me.send_message(Message::Done(done));
            });
        }
    }

    fn forget(&mut self, myself: &ActorRef<Message>, reply: RpcReplyPort<Result<(), Error>>) {
        if self.busy || self.args.context.needs_layer(&self.args.chain) {
            // Somebody came who needs it: there is nothing to forget any more.
            let _ = reply.send(Ok(()));
            return;
        }
        self.present = None;
        self.deleting.push(reply);
        if self.deleting.len() == 1 {
            let (args, me) = (self.args.clone(), myself.clone());
            self.tasks.spawn(async move {
                let deleted = delete(&args).await;
                let _ = me.send_message(Message::Deleted(deleted));
            });
        }
    }
}

/// Deletes a layer: first the marker, so that nothing half-deleted is present.
async fn delete(args: &Args) -> Result<(), Error> {
    let Args { context, chain } = args;
    let vsphere = context.vsphere();
    vsphere.delete_file(&marker_path(context, chain)).await?;
    appliance::delete(context, &disk_path(context, chain)).await?;
    vsphere
        .delete_file(&context.settings().image_path(chain))
        .await
}

fn short(layer: &Layer) -> String {
    layer.blob.digest.short().to_owned()
}

async fn write(args: &Args, job: Job, me: &ActorRef<Message>) -> Result<u64, Error> {
    let id = short(&job.layer);
    let tell = {
        let me = me.clone();
        let id = id.clone();
        move |status: &str| {
            let step = Progress::Status {
                id: id.clone(),
                status: status.to_owned(),
            };
            let _ = me.send_message(Message::Progress(step));
        }
    };
    tell("Pulling fs layer");
    let on_event = {
        let (me, id) = (me.clone(), id.clone());
        Arc::new(move |event: FetchEvent| {
            let _ = me.send_message(Message::Progress(step_of(&id, &event)));
        })
    };
    let mut fetch = job
        .layer
        .fetch(&job.spool, on_event)
        .map_err(|why| super::pull::failure(&why))?;
    if let Some((_, parent)) = &job.parent {
        let below = parent.ask(DEADLINE, Message::Await).await;
        below.map_err(|why| Error::failed_for_now("write the layer below", &why))??;
    }
    fetch
        .done()
        .await
        .map_err(|why| super::pull::failure(&why))?;
    let size = unpack(args, &job, fetch).await?;
    tell("Pull complete");
    Ok(size)
}

async fn unpack(args: &Args, job: &Job, fetch: Fetch) -> Result<u64, Error> {
    let context = &args.context;
    let path = disk_path(context, &args.chain);
    let parent = match &job.parent {
        Some((chain, _)) => disk_path(context, chain),
        None => appliance::blank_disk(context, context.settings().disk_size).await?,
    };
    let vsphere = context.vsphere();
    vsphere
        .make_directory(&context.settings().image_path(&args.chain))
        .await?;
    let create = Some(context.settings().disk_size);
    let lease = appliance::attach(
        context,
        Disk {
            path: path.clone(),
            parent: Some(parent),
            create,
        },
    )
    .await?;
    let written = fill(context, lease.slot(), fetch).await;
    let unmounted = context.disks().unmount(lease.slot()).await;
    let detached = match &unmounted {
        Ok(()) => lease.end().await,
        // Dropped, it is let go as soon as that works.
        Err(_) => Ok(()),
    };
    let checked = written.and_then(|unpacked| {
        unmounted.map_err(|why| Error::failed("unmount a layer", &why))?;
        detached?;
        if unpacked.diff_id != job.layer.diff_id {
            let why = format!(
                "wrong diff id calculated on extraction {:?}",
                unpacked.diff_id.to_string()
            );
            return Err(Error::internal("failed to register layer", why));
        }
        Ok(unpacked.stream_bytes)
    });
    let size = match checked {
        Ok(size) => size,
        Err(why) => {
            // Nobody has seen it: what cannot be deleted now is deleted before the next try.
            let _ = vsphere.delete_disk(&path).await;
            return Err(why);
        }
    };
    let marker = Marker {
        chain_id: args.chain.clone(),
        diff_id: job.layer.diff_id.to_string(),
        parent: job.parent.as_ref().map(|(chain, _)| chain.clone()),
        size,
    };
    vsphere
        .write_document(&marker_path(context, &args.chain), &marker)
        .await?;
    Ok(size)
}

async fn fill(
    context: &Context,
    slot: tether_protocol::config::Slot,
    fetch: Fetch,
) -> Result<imagec::unpack::Unpacked, Error> {
    let root = context
        .disks()
        .mount(slot)
        .await
        .map_err(|why| Error::failed("mount a layer", &why))?;
    let unpacking = tokio::task::spawn_blocking(move || {
        imagec::unpack::unpack(fetch.reader(), &root, &imagec::unpack::Limits::default())
    });
    match unpacking.await {
        Ok(unpacked) => unpacked.map_err(|why| Error::failed("failed to register layer", &why)),
        Err(why) => Err(Error::failed("unpack a layer", &why)),
    }
}

fn step_of(id: &str, event: &FetchEvent) -> Progress {
    let status = event.status();
    match event.figures() {
        Some((current, total)) => Progress::Bar {
            id: id.to_owned(),
            status,
            current,
            total,
        },
        None => Progress::Status {
            id: id.to_owned(),
            status,
        },
    }
}
