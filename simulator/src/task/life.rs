//! The actor of one task, from its begin to its end.
//!
//! | message | a task of ours | one made by `CreateTask` |
//! |---|---|---|
//! | `Progress` | `NotSupported` | shown while it runs, else `InvalidState` |
//! | `SetState` | `NotSupported` | queued → running → success or error, else `InvalidState` |
//! | `Describe` | `NotSupported` | shown |
//! | `Cancel` | `NotSupported` | ends it with `RequestCanceled`, when it was made cancelable |
//! | `Ended` (from the pen) | leaves | leaves |
//!
//! What a crash loses: the task, which ends with a fault then; the work of a task of ours goes on.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use vmomi::types::{LocalizableMessage, SetTaskStateRequest, TaskInfo, TaskInfoState};

use super::{Pen, interrupted};
use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::world::World;

/// What can be asked of a task.
#[derive(Debug)]
pub(crate) enum Message {
    /// Shows how much is done, in per cent.
    Progress(i32, RpcReplyPort<Outcome<()>>),
    /// Moves the task to another state.
    SetState(Box<SetTaskStateRequest>, RpcReplyPort<Outcome<()>>),
    /// Shows what it does, in words.
    Describe(Box<LocalizableMessage>, RpcReplyPort<Outcome<()>>),
    /// Ends the task before its time.
    Cancel(RpcReplyPort<Outcome<()>>),
    /// The last state has been written.
    Ended,
}

pub(super) struct Life;

pub(super) struct State {
    world: Arc<World>,
    pen: Arc<Pen>,
    driven: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        // The actor has been killed, or the whole tree ends.
        if self.pen.lock().info.is_some() {
            self.world
                .inventory
                .commit(|t| self.pen.end(&self.world, t, Err(interrupted())));
        }
    }
}

impl Actor for Life {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<World>, Arc<Pen>, bool);

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (world, pen, driven): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        {
            let mut paper = pen.lock();
            if paper.info.is_some() {
                paper.actor = Some(myself);
            } else {
                // It was done before we came.
                let _ = myself.send_message(Message::Ended);
            }
        }
        Ok(State { world, pen, driven })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Whoever asked may have left.
        match message {
            Message::Progress(percent, reply) => {
                let _ = reply.send(state.progress(percent));
            }
            Message::SetState(request, reply) => {
                let _ = reply.send(state.set_state(*request));
            }
            Message::Describe(words, reply) => {
                let described = state.check(|_| true);
                if described.is_ok() {
                    state.change(|info| info.description = Some(*words));
                }
                let _ = reply.send(described);
            }
            Message::Cancel(reply) => {
                let _ = reply.send(state.cancel());
            }
            Message::Ended => myself.stop(None),
        }
        Ok(())
    }
}

impl State {
    /// Checks that the task is driven by messages, and in a state that fits.
    fn check(&self, fits: impl FnOnce(&TaskInfo) -> bool) -> Outcome<()> {
        if !self.driven {
            return Err(Fault::not_supported());
        }
        match &self.pen.lock().info {
            Some(info) if fits(info) => Ok(()),
            _ => Err(Fault::plain("InvalidState")),
        }
    }

    fn change(&self, change: impl FnOnce(&mut TaskInfo)) {
        self.world.inventory.commit(|t| self.pen.change(t, change));
    }

    fn progress(&self, percent: i32) -> Outcome<()> {
        self.check(|info| info.state == TaskInfoState::Running)?;
        if !(0..=100).contains(&percent) {
            return Err(Fault::new(
                vmomi::types::OutOfBounds {
                    argument_name: "percentDone".into(),
                    ..Default::default()
                },
                "A specified parameter was not correct: percentDone",
            ));
        }
        self.change(|info| info.progress = Some(percent));
        Ok(())
    }

    fn set_state(&self, request: SetTaskStateRequest) -> Outcome<()> {
        let to = request.state;
        self.check(|info| match to {
            TaskInfoState::Running => info.state == TaskInfoState::Queued,
            TaskInfoState::Success | TaskInfoState::Error => true,
            _ => false,
        })?;
        if to == TaskInfoState::Running {
            self.change(|info| {
                info.state = TaskInfoState::Running;
                info.start_time = Some(now());
            });
            return Ok(());
        }
        let result = if to == TaskInfoState::Success {
            Ok(request.result)
        } else {
            Err(match request.fault {
                Some(fault) => Fault::new(fault.fault, fault.localized_message.unwrap_or_default()),
                None => Fault::system("the task has failed"),
            })
        };
        self.world
            .inventory
            .commit(|t| self.pen.end(&self.world, t, result));
        Ok(())
    }

    fn cancel(&self) -> Outcome<()> {
        let cancelable = matches!(&self.pen.lock().info, Some(info) if info.cancelable);
        if !cancelable {
            return Err(Fault::not_supported());
        }
        self.world.inventory.commit(|t| {
            self.pen.change(t, |info| info.cancelled = true);
            self.pen
                .end(&self.world, t, Err(Fault::plain("RequestCanceled")));
        });
        Ok(())
    }
}
