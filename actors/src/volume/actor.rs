//! A volume: one disk on the volume store.
//!
//! ```text
//!  absent ── Make: the blank disk copied ──▶ present ── Delete ──▶ absent
//! ```
//! What a crash loses: the copy or the deletion under way, which is asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;

use super::VolumeSnapshot;
use crate::appliance;
use crate::context::Context;
use crate::error::Error;

/// What a volume can be asked.
#[derive(Debug)]
pub enum Message {
    /// Makes its disk, in place of what an earlier try has left; a volume that is present has it.
    Make(RpcReplyPort<Result<(), Error>>),
    /// Deletes its disk. One that is gone is fine.
    Delete(RpcReplyPort<Result<(), Error>>),
    /// Internal: a piece of work ended.
    #[doc(hidden)]
    Done(bool, Result<(), Error>, RpcReplyPort<Result<(), Error>>),
}

/// The volume actor.
#[derive(Debug)]
pub struct Volume;

/// What it is started with.
#[derive(Debug, Clone)]
pub struct Args {
    /// What all share.
    pub context: Context,
    /// The volume.
    pub volume: Arc<VolumeSnapshot>,
    /// Whether its disk is there; kept over restarts.
    pub present: Arc<AtomicBool>,
}

/// A running volume.
#[derive(Debug)]
pub struct State {
    args: Args,
    tasks: JoinSet<()>,
}

impl Actor for Volume {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        if args.present.load(Ordering::Acquire) {
            args.context.snapshots().put_volume(args.volume.clone());
        }
        Ok(State {
            args,
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
        let Args {
            context,
            volume,
            present,
        } = state.args.clone();
        match message {
            Message::Make(reply) if present.load(Ordering::Acquire) => {
                let _ = reply.send(Ok(()));
            }
            Message::Make(reply) => {
                state.tasks.spawn(async move {
                    let result = make(&context, &volume).await;
                    let _ = myself.send_message(Message::Done(true, result, reply));
                });
            }
            Message::Delete(reply) => {
                state.tasks.spawn(async move {
                    let result = delete(&context, &volume.path).await;
                    let _ = myself.send_message(Message::Done(false, result, reply));
                });
            }
            Message::Done(is_there, result, reply) => {
                if result.is_ok() {
                    present.store(is_there, Ordering::Release);
                }
                // The asker may have left.
                let _ = reply.send(result);
            }
        }
        Ok(())
    }
}

/// Copies the blank disk of this size, which is made at its first use.
async fn make(context: &Context, volume: &VolumeSnapshot) -> Result<(), Error> {
    let blank = appliance::blank_disk(context, volume.capacity).await?;
    if let Some((folder, _)) = volume.path.rsplit_once('/') {
        context.vsphere().make_directory(folder).await?;
    }
    context.vsphere().delete_disk(&volume.path).await?;
    context.vsphere().copy_disk(&blank, &volume.path).await
}

/// Deletes a disk with its folder, or what there is of them.
pub(super) async fn delete(context: &Context, path: &str) -> Result<(), Error> {
    context.vsphere().delete_disk(path).await?;
    match path.rsplit_once('/') {
        Some((folder, _)) => context.vsphere().delete_file(folder).await,
        None => Ok(()),
    }
}
