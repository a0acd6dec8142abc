//! Addresses that outlive the actors behind them.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::tree::Busy;

/// The lasting address of one supervised actor: filled at each start, emptied for good when its supervisor forgets
/// it. Cheap to clone.
pub struct Address<M: Message> {
    state: Arc<watch::Sender<State<M>>>,
    busy: Busy,
}

enum State<M: Message> {
    Starting,
    Up(ActorRef<M>),
    Gone,
}

/// How long the answer of an actor that has ended is waited for.
const PARTING: Duration = Duration::from_secs(5);

/// Why a question got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The actor is off its supervisor's list.
    #[error("the actor is gone for good")]
    Gone,
    /// The actor died with the question in its hands or its mailbox.
    #[error("the actor died before it answered")]
    Interrupted,
    /// No answer in time. The question may still be worked on.
    #[error("the actor did not answer in time")]
    Deadline,
}

impl<M: Message> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            busy: self.busy.clone(),
        }
    }
}

impl<M: Message> std::fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.state.borrow() {
            State::Starting => "Address(starting)",
            State::Up(_) => "Address(up)",
            State::Gone => "Address(gone)",
        })
    }
}

impl<M: Message> Default for Address<M> {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Starting)),
            busy: Busy::default(),
        }
    }
}

impl<M: Message> Address<M> {
    /// An address whose counter of unanswered questions is shared with others who count.
    pub fn counted_by(busy: Busy) -> Self {
        Self {
            busy,
            ..Self::default()
        }
    }

    /// Points the address at a running actor; false when it is closed, and nobody will ever reach that actor.
    pub fn set(&self, actor: ActorRef<M>) -> bool {
        self.state.send_if_modified(|state| {
            let open = !matches!(state, State::Gone);
            if open {
                *state = State::Up(actor);
            }
            open
        })
    }

    /// Closes the address for good.
    pub fn close(&self) {
        self.state.send_replace(State::Gone);
    }

    /// Whether the address is closed.
    pub fn is_closed(&self) -> bool {
        matches!(&*self.state.borrow(), State::Gone)
    }

    /// Whether both are the same address.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// The present actor, if there is one.
    pub fn get(&self) -> Option<ActorRef<M>> {
        match &*self.state.borrow() {
            State::Up(actor) => Some(actor.clone()),
            _ => None,
        }
    }

    /// The counter of unanswered questions.
    pub fn busy(&self) -> &Busy {
        &self.busy
    }

    /// Sends without waiting; false when there is no actor at this moment.
    pub fn tell(&self, message: M) -> bool {
        self.get()
            .is_some_and(|actor| actor.send_message(message).is_ok())
    }

    /// Asks and waits for the answer, as long as the deadline allows; waits for a restart when the actor is down
    /// while the question has not been delivered. A question that was delivered to an actor that died is not
    /// repeated.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing back: a delivered question is worked on.
    pub async fn ask<T: Send + 'static>(
        &self,
        deadline: Duration,
        question: impl FnOnce(RpcReplyPort<T>) -> M,
    ) -> Result<T, AskError> {
        let _busy = self.busy.request();
        let until = Instant::now() + deadline;
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let mut message = question(reply.into());
        let mut state = self.state.subscribe();
        let asked = loop {
            let actor = match &*state.borrow_and_update() {
                State::Gone => return Err(AskError::Gone),
                State::Up(actor) => Some(actor.clone()),
                State::Starting => None,
            };
            if let Some(actor) = actor {
                match actor.send_message(message) {
                    Ok(()) => break actor.get_id(),
                    Err(ractor::MessagingErr::SendErr(back)) => message = back,
                    Err(_) => return Err(AskError::Interrupted),
                }
            }
            match tokio::time::timeout_at(until, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(AskError::Gone),
                Err(_) => return Err(AskError::Deadline),
            }
        };
        let ended = async {
            let is_there = |state: &State<M>| match state {
                State::Up(actor) => actor.get_id() == asked,
                State::Starting => true,
                State::Gone => false,
            };
            // The sender is ours: this ends when the actor has a successor, or none for good.
            let _ = state.wait_for(|state| !is_there(state)).await;
            // What it has left to others may still answer. But a question that came in the moment of its end can lie
            // in a mailbox that nobody empties any more, and never be dropped.
            tokio::time::sleep(PARTING).await;
        };
        tokio::select! {
            biased;
            answer = tokio::time::timeout_at(until, &mut answer) => match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(AskError::Interrupted),
                Err(_) => Err(AskError::Deadline),
            },
            () = ended => Err(AskError::Interrupted),
        }
    }
}
